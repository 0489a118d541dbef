"""Cost that stays flat: an event as streams grow, a stream as they grow, a heartbeat as busy streams are added."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.peers import FLOOR, OURS, PEERS
from benchmarks.sections import Options, all_running, title_of
from benchmarks.sections.throughput import Speed
from benchmarks.servers import Process, client, running
from benchmarks.tables import Table, percentile
from benchmarks.workload import HEARTBEAT

__all__ = ("flat",)

STREAMS = (1, 10, 100, 1000)
BUSY = (0, 10, 50)


def flat(options: Options) -> list[Table]:
    """How each cost grows, for the floor and for us."""
    return [_event(options), _stream(options), _heartbeat(options)]


def _event(options: Options) -> Table:
    server = options.servers[0]
    columns = [f"{streams:,}" for streams in STREAMS]
    table = Table(
        "flat-event",
        "Cost of an event as streams grow",
        columns,
        "Microseconds an event; bodies that never wait, and the opening of their streams with them.",
        drawn=True,
    )
    speed = Speed(options.duration)
    peers = [peer for peer in options.peers if peer.name in (FLOOR, OURS)]
    with all_running(options, server, peers) as processes:
        for round_ in range(options.rounds):
            options.progress(f"flat, round {round_ + 1}: an event")
            for streams, column in zip(STREAMS, columns, strict=True):
                for name, process in processes.items():
                    table.add(title_of(name), column, 1e6 / speed.run(process, "ready", streams)["rate"])
    return table


def _stream(options: Options) -> Table:
    sizes = sorted({min(size, options.fan_out) for size in (100, 1000, 10_000)})
    columns = [f"{size:,}" for size in sizes]
    table = Table("flat-stream", "Cost of a stream as they grow", columns, "KiB a stream that waits.", drawn=True)
    for name in (FLOOR, OURS):
        if PEERS[name] not in options.peers:
            continue
        with running(PEERS[name], options.servers[0]) as process, ExitStack() as stack:
            open_ = 50
            stack.enter_context(client("hold", port=process.port, path="one", streams=open_))()
            before = process.memory()
            opened = 0
            for size, column in zip(sizes, columns, strict=True):
                options.progress(f"flat: {size:,} streams of {name}")
                stack.enter_context(client("hold", port=process.port, path="one", streams=size - opened))()
                opened = size
                table.add(title_of(name), column, (process.memory() - before) / 1024 / size, 1)
    return table


def _heartbeat(options: Options) -> Table:
    table = Table(
        "flat-heartbeat",
        "Heartbeats as busy streams are added",
        [f"{busy} busy" for busy in BUSY],
        f"Lateness (p99, ms) of the heartbeats of {options.idle // 2:,} idle streams.",
        drawn=True,
    )
    for name in (FLOOR, OURS):
        if PEERS[name] not in options.peers:
            continue
        for busy in BUSY:
            options.progress(f"flat: {busy} busy streams of {name}")
            with running(PEERS[name], options.servers[0]) as process:
                late = _lateness(options, process, busy)
            table.add(title_of(name), f"{busy} busy", late, 1)
    return table


def _lateness(options: Options, process: Process, busy: int) -> float:
    with ExitStack() as stack:
        tell = stack.enter_context(client("hold", port=process.port, path="beat", streams=options.idle // 2))
        tell()
        if busy:
            path = "tick?events=1000000000"
            crowd = stack.enter_context(client("hold", port=process.port, path=path, streams=busy))
            crowd()
        beats = tell(f"beats {min(5.0, options.hold)}")["beats"]
    return percentile([1000 * max(0.0, each - HEARTBEAT) for stream in beats for each in stream], 0.99)
