"""Events a second, and how the streams of one loop share it."""

from __future__ import annotations

from typing import Any

from benchmarks.peers import FLOOR, OURS
from benchmarks.sections import Options, all_running, title_of
from benchmarks.servers import Process, ask_client
from benchmarks.tables import Table

__all__ = ("Speed", "throughput")

COLUMNS = {
    "messages": ("ready", 1),
    "the same message": ("same", 1),
    "strings": ("strings", 1),
    "messages x50": ("ready", 50),
    "queue": ("queue", 1),
    "queue x50": ("queue", 50),
    "tick": ("tick", 1),
    "1 KiB": ("kib", 1),
    "typed": ("typed", 1),
    "built": ("built", 1),
}
KINDS = {
    "messages": ("ready", 1),
    "dict": ("dict", 1),
    "Litestar's message": ("foreign", 1),
    "all fields": ("fields", 1),
    "not ASCII": ("unicode", 1),
    "Struct in a message": ("carried", 1),
}
"""What only the floor and what is measured send."""
FAIR = {
    "messages": "ready",
    "strings": "strings",
    "dict": "dict",
    "Struct in a message": "carried",
    "1 KiB": "kib",
    "queue": "queue",
}
"""Bodies of whose streams each is to come soon."""
CROWDS = (50, 500)
TARGETS = {
    "uvicorn": {
        "messages": 7.0,
        "strings": 12.0,
        "messages x50": 6.0,
        "queue": 4.0,
        "queue x50": 4.0,
        "tick": 1.0,
        "1 KiB": 4.5,
        "typed": 7.0,
        "dict": 4.0,
        "Struct in a message": 7.0,
    },
    "granian": {"tick": 1.8},
}
PROBE = 1000


class Speed:
    """Runs of about the same duration for peers of any speed: the first run of each tells how many events that is."""

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._events: dict[tuple[str, str, int], int] = {}

    def run(self, process: Process, path: str, streams: int) -> dict[str, Any]:
        """Reads streams to their end, and checks that every event came."""
        key = (process.peer, path, streams)
        if key not in self._events:
            events = PROBE
            for _ in range(3):  # what takes next to no time tells little of its speed
                took = max(self._read(process, path, streams, events)["elapsed"], 1e-3)
                events = max(1, min(int(events * self._duration / took), 50 * events))
            self._events[key] = events
        cpu = process.cpu()
        result = self._read(process, path, streams, self._events[key])
        result["rate per CPU s"] = sum(result["events"]) / (process.cpu() - cpu)
        result["rate"] = sum(result["events"]) / result["elapsed"]
        return result

    def _read(self, process: Process, path: str, streams: int, events: int) -> dict[str, Any]:
        result = ask_client("read_all", port=process.port, path=f"{path}?events={events}", streams=streams)
        if result["events"] != [events] * streams:
            raise RuntimeError(f"{process.peer} sent {result['events']} of {events} events each of /{path}")
        return result


def throughput(options: Options) -> list[Table]:
    """Events a second, over the floor's in the same round."""
    return [table for server in options.servers for table in _on(options, server)]


def _on(options: Options, server: str) -> list[Table]:
    table = _table(f"throughput-{server}", f"Events a second on {server.capitalize()}", COLUMNS, server)
    by_cpu = _table(
        f"throughput-cpu-{server}",
        f"Events a second of the server's CPU time on {server.capitalize()}",
        COLUMNS,
        server,
        "The same runs; on a machine that has other work too, this is the steadier figure. ",
    )
    kinds = _table(f"throughput-kinds-{server}", f"Kinds of events on {server.capitalize()}", KINDS, server)
    fairness = Table(
        f"fairness-{server}",
        f"Fairness on {server.capitalize()}",
        [f"{column} x{streams}" for column in FAIR for streams in CROWDS],
        "Streams whose bodies yield all they can: when the last of them sees its first event, in per cent of the run.",
        title_of(OURS),
        {f"{column} x{streams}": -3.0 for column in FAIR for streams in CROWDS},
    )
    speed = Speed(options.duration)
    with all_running(options, server) as processes:
        ours = {name: process for name, process in processes.items() if name in (FLOOR, OURS)}
        for round_ in range(options.rounds):
            options.progress(f"throughput, {server}, round {round_ + 1}")
            _compare(speed, processes, COLUMNS, table, by_cpu)
            _compare(speed, ours, KINDS, kinds)
            _crowd(Speed(options.duration * 10), processes[OURS], fairness)
    return [table, by_cpu, kinds, fairness]


def _table(name: str, title: str, columns: dict[str, tuple[str, int]], server: str, note: str = "") -> Table:
    targets = {column: target for column, target in TARGETS.get(server, {}).items() if column in columns}
    note += f"As multiples of {title_of(FLOOR)} on {server.capitalize()}; its own row is in thousands a second."
    return Table(name, title, list(columns), note, title_of(OURS), targets)


def _compare(speed: Speed, processes: dict[str, Process], columns: dict[str, tuple[str, int]], *tables: Table) -> None:
    """One round of all columns; the tables are by time, and by the time of the server's CPU."""
    for column, (path, streams) in columns.items():
        results = {name: speed.run(process, path, streams) for name, process in processes.items()}
        for table, rate in zip(tables, ("rate", "rate per CPU s"), strict=False):
            for name, result in results.items():
                over = 1000 if name == FLOOR else results[FLOOR][rate]
                table.add(title_of(name), column, result[rate] / over)


def _crowd(speed: Speed, process: Process, fairness: Table) -> None:
    for column, path in FAIR.items():
        for streams in CROWDS:
            result = speed.run(process, path, streams)
            share = 100 * max(result["first"]) / result["elapsed"]
            fairness.add(title_of(process.peer), f"{column} x{streams}", share, 1)
