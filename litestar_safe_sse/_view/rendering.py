"""Live streams as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from litestar_safe_sse._view.records import RecordedStream, Snapshot

__all__ = ("render",)


def render(snapshots: Sequence[Snapshot], console: Console) -> None:
    """Prints the streams of each process."""
    for snapshot in snapshots:
        counts = snapshot.counts
        console.print(
            f"Process {snapshot.process}: {counts.open} open, {counts.opened} opened, {counts.refused} refused"
        )
        console.print(table_of("live", snapshot.streams))
        console.print(table_of("ended", snapshot.ended))


def table_of(title: str, streams: Sequence[RecordedStream]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("handler", "path", "who", "keys", "state"):
        table.add_column(name)
    for name in ("age", "events", "pending"):
        table.add_column(name, justify="right")
    for stream in streams:
        state = stream.reason.name if stream.reason is not None else stream.state.name
        keys = ", ".join(each.key for each in stream.keys)
        names = (stream.handler, stream.path, stream.who, keys, state)
        table.add_row(*map(escape, names), f"{stream.age:.0f} s", str(stream.events), f"{stream.pending} B")
    return table
