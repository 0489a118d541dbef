"""That the client is not what is measured."""

from __future__ import annotations

from benchmarks.peers import CEILING, FLOOR, OURS, PEERS
from benchmarks.sections import Options, all_running, title_of
from benchmarks.sections.throughput import Speed
from benchmarks.servers import ask_client, prepared
from benchmarks.tables import Table

__all__ = ("client_limit",)


def client_limit(options: Options) -> list[Table]:
    """The client against a server that only hands over bytes, beside the fastest of the peers."""
    reading, churning = columns = ["million events/s", "thousand cycles/s"]
    table = Table(
        "client",
        "The client's own limit",
        columns,
        "What it counts from a server that hands over prepared bytes, one core each. Below this it is not the "
        "bottleneck.",
    )
    speed = Speed(options.duration)
    peers = [PEERS[name] for name in (FLOOR, CEILING, OURS) if PEERS[name] in options.peers]
    with prepared() as limit, all_running(options, options.servers[0], peers) as processes:
        for round_ in range(options.rounds):
            options.progress(f"client, round {round_ + 1}")
            for name, process in {"prepared bytes": limit, **processes}.items():
                row = title_of(name) if name in PEERS else "**prepared bytes**"
                table.add(row, reading, speed.run(process, "ready", 1)["rate"] / 1e6)
                result = ask_client("churn", port=process.port, path="one", cycles=1000, at_once=1)
                table.add(row, churning, result["cycles"] / result["elapsed"] / 1e3)
    return [table]
