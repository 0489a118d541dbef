"""How long a client waits for the first event."""

from __future__ import annotations

from benchmarks.peers import FLOOR, OURS
from benchmarks.sections import Options, all_running, title_of
from benchmarks.servers import ask_client
from benchmarks.tables import Table, percentile

__all__ = ("first_event",)


def first_event(options: Options) -> list[Table]:
    """From the request to the first event, over a plain response of the same application."""
    return [_on(options, server) for server in options.servers]


def _on(options: Options, server: str) -> Table:
    plain50, plain99, raw50, raw99 = columns = ["p50 / plain", "p99 / plain", "p50 / raw", "p99 / raw"]
    table = Table(
        f"first-event-{server}",
        f"First event on {server.capitalize()}",
        [*columns, "p50 in µs"],
        "From the request, on a connection that stands, to the first event: over a short response of the same "
        f"application, asked for in turns with it, and over {title_of(FLOOR)}.",
        title_of(OURS),
        {plain50: -1.4, plain99: -1.4},
    )
    with all_running(options, server) as processes:
        for round_ in range(options.rounds):
            options.progress(f"first event, {server}, round {round_ + 1}")
            floor: list[float] = []
            for name, process in processes.items():
                times = ask_client("first", port=process.port, paths=["plain", "one"], requests=options.requests)
                events, responses = times["one"], times["plain"]
                floor = floor or events
                row = title_of(name)
                table.add(row, plain50, percentile(events, 0.5) / percentile(responses, 0.5))
                table.add(row, plain99, percentile(events, 0.99) / percentile(responses, 0.99))
                table.add(row, raw50, percentile(events, 0.5) / percentile(floor, 0.5))
                table.add(row, raw99, percentile(events, 0.99) / percentile(floor, 0.99))
                table.add(row, "p50 in µs", percentile(events, 0.5) * 1e6, 0)
    return table
