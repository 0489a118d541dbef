"""What a stream costs that has nothing to say."""

from __future__ import annotations

from benchmarks.peers import OURS, Peer
from benchmarks.sections import Options, title_of
from benchmarks.servers import client, running
from benchmarks.tables import Table, percentile
from benchmarks.workload import HEARTBEAT

__all__ = ("idle",)

MEMORY, TASKS, CPU, LATE = COLUMNS = ["KiB a stream", "tasks a stream", "CPU s in 10 s", "lateness p99, ms"]


def idle(options: Options) -> list[Table]:
    """Many streams with a heartbeat a second."""
    return [_on(options, server) for server in options.servers]


def _on(options: Options, server: str) -> Table:
    table = Table(
        f"idle-{server}",
        f"Idle streams on {server.capitalize()}",
        COLUMNS,
        f"{options.idle:,} streams with a heartbeat a second. Tasks without the one of the server's own for each "
        "request. Raw ASGI and Litestar's built-in have no heartbeats: there the body sends them.",
        title_of(OURS),
        {MEMORY: -21.0, TASKS: -2.0, CPU: -0.5 * options.idle / 2000, LATE: -5.0},
    )
    for peer in options.peers:
        if peer.asgi or server == options.servers[0]:
            options.progress(f"idle, {server}: {peer.name}")
            _measure(options, server, peer, table)
    return table


def _measure(options: Options, server: str, peer: Peer, table: Table) -> None:
    with running(peer, server) as process:
        with client("hold", port=process.port, path="beat", streams=50) as tell:  # what is made only once
            tell()
        stats, memory = process.stats() if peer.asgi else None, process.memory()
        with client("hold", port=process.port, path="beat", streams=options.idle) as tell:
            streams = tell()["streams"]
            tell(f"beats {HEARTBEAT}")
            cpu = process.cpu()
            beats = tell(f"beats {options.hold}")["beats"]
            cpu = process.cpu() - cpu
            row = title_of(peer.name)
            table.add(row, MEMORY, (process.memory() - memory) / 1024 / streams, 1)
            after = process.stats() if peer.asgi else None
            if stats is not None and after is not None:
                table.add(row, TASKS, (after["tasks"] - stats["tasks"]) / streams - 1, 1)
            table.add(row, CPU, cpu * 10 / options.hold)
            late = [1000 * max(0.0, interval - HEARTBEAT) for stream in beats for interval in stream]
            table.add(row, LATE, percentile(late, 0.99), 1)
