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
    "strings": ("strings", 1),
    "ready x50": ("ready", 50),
    "queue": ("queue", 1),
    "queue x50": ("queue", 50),
    "tick": ("tick", 1),
    "1 KiB": ("kib", 1),
    "typed": ("typed", 1),
    "built": ("built", 1),
}
TARGETS = {
    "uvicorn": {
        "messages": 8.0,
        "strings": 12.0,
        "ready x50": 6.0,
        "queue": 6.0,
        "queue x50": 6.0,
        "tick": 1.0,
        "1 KiB": 5.0,
        "typed": 8.0,
    },
    "granian": {"tick": 1.7},
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
    table = Table(
        f"throughput-{server}",
        f"Events a second on {server.capitalize()}",
        list(COLUMNS),
        f"As multiples of {title_of(FLOOR)} on {server.capitalize()}; its own row is in thousands a second.",
        title_of(OURS),
        TARGETS.get(server, {}),
    )
    fairness = Table(
        f"fairness-{server}",
        f"Fairness on {server.capitalize()}",
        ["last stream's first event"],
        "50 streams whose bodies never wait: when the last of them sees its first event, in per cent of the run.",
        title_of(OURS),
        {"last stream's first event": -5.0},
    )
    by_cpu = Table(
        f"throughput-cpu-{server}",
        f"Events a second of the server's CPU time on {server.capitalize()}",
        list(COLUMNS),
        "The same runs; on a machine that has other work too, this is the steadier figure.",
        title_of(OURS),
        TARGETS.get(server, {}),
    )
    speed = Speed(options.duration)
    with all_running(options, server) as processes:
        for round_ in range(options.rounds):
            for column, (path, streams) in COLUMNS.items():
                options.progress(f"throughput, {server}, round {round_ + 1}: {column}")
                floor = cpu_floor = 0.0
                for name, process in processes.items():
                    result = speed.run(process, path, streams)
                    if name == FLOOR:
                        floor, cpu_floor = result["rate"], result["rate per CPU s"]
                    value = result["rate"] / 1000 if name == FLOOR else result["rate"] / floor
                    table.add(title_of(name), column, value)
                    value = result["rate per CPU s"] / (1000 if name == FLOOR else cpu_floor)
                    by_cpu.add(title_of(name), column, value)
                    if column == "ready x50":
                        share = 100 * max(result["first"]) / result["elapsed"]
                        fairness.add(title_of(name), fairness.columns[0], share, 1)
    return [table, by_cpu, fairness]
