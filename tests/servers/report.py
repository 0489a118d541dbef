"""The matrices' results as values, and as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Cell:
    """What came of one cell of a matrix: so many visits of one body, on one server, that ended in one way."""

    matrix: str
    server: str
    kind: str
    protocol: str
    body: str
    way: str
    visits: int
    cleaned: int
    beyond: list[float] = field(default_factory=list)
    """Seconds from leaving to the last clean-up, beyond what the body takes by itself, of each cleaned-up visit."""


def _summary(cells: Sequence[Cell]) -> str:
    if not cells:
        return "-"
    visits, cleaned = sum(cell.visits for cell in cells), sum(cell.cleaned for cell in cells)
    times = [max(seconds, 0) * 1000 for cell in cells for seconds in cell.beyond]
    timed = f", {statistics.median(times):.1f} ms (≤ {max(times):.0f})" if times else ""
    return f"{cleaned}/{visits}{timed}"


def _table(cells: Sequence[Cell], corner: str, row: Callable[[Cell], str], column: Callable[[Cell], str]) -> list[str]:
    rows, columns = list(dict.fromkeys(map(row, cells))), list(dict.fromkeys(map(column, cells)))
    lines = [f"| {' | '.join([corner, *columns])} |", f"|{'---|' * (len(columns) + 1)}"]
    for name in rows:
        summaries = (_summary([c for c in cells if row(c) == name and column(c) == other]) for other in columns)
        lines.append(f"| {' | '.join([name, *summaries])} |")
    return [*lines, ""]


def as_markdown(cells: Sequence[Cell]) -> str:
    """Cleaned exactly once / visits, then the median (and the worst) time beyond the body's own."""
    lines: list[str] = []
    for matrix in dict.fromkeys(cell.matrix for cell in cells):
        chosen = [cell for cell in cells if cell.matrix == matrix]
        lines += [f"### {matrix}", ""]
        for protocol in sorted({cell.protocol for cell in chosen}):
            spoken = [cell for cell in chosen if cell.protocol == protocol]
            lines += [f"HTTP/{protocol}", ""]
            lines += _table(spoken, "server", lambda cell: cell.kind, lambda cell: cell.way)
        lines += ["by body", ""]
        lines += _table(chosen, "body", lambda cell: cell.body, lambda cell: f"{cell.server} HTTP/{cell.protocol}")
    return "\n".join(lines)
