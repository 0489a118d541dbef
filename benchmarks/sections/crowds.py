"""How the times of a worker, and of four, grow with the streams that they hold."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.peers import OURS, PEERS
from benchmarks.sections import Options
from benchmarks.servers import Process, client, running
from benchmarks.tables import Table
from benchmarks.workload import CLEANED

__all__ = ("crowds",)

SIZES = (1000, 2500, 5000, 10_000)
WORKERS = 4
EACH = 25_000
SPARE = 100
"""Descriptors for all else."""

PATIENCE = 60.0
OPENED, EVENT, ABORTED, ENDED = PHASES = (
    "all opened",
    "one event to all",
    "all aborted and cleaned up",
    "all ended by SIGTERM",
)
MEMORY, BEATING = "KiB a stream", "CPU s in 10 s"


def crowds(options: Options) -> list[Table]:
    """Opened, beating, told one event, aborted all at once; opened again, and ended with their servers."""
    with _descriptors() as limit:
        return [_one(options, limit - SPARE), _several(options, limit - SPARE)]


def _one(options: Options, most: int) -> Table:
    sizes = [size for size in SIZES if size <= min(options.fan_out, most)]
    table = Table(
        "crowds",
        "One worker and its streams",
        [f"{size:,}" for size in sizes],
        "Seconds for all streams of one worker; `SafeServerSentEvent` on one core, the client on the other.",
    )
    for size in sizes:
        options.progress(f"crowds: {size:,} streams")
        for phase, figure in _measure(options, 1, size).items():
            if phase in PHASES:
                table.add(phase, f"{size:,}", figure)
    return table


def _several(options: Options, most: int) -> Table:
    each = min(EACH, most)
    stops = "" if each == EACH else f" A process may have {most + SPARE:,} descriptors here, which is where it stops."
    table = Table(
        "crowds-workers",
        f"{WORKERS} workers and their streams",
        ["streams", *PHASES, MEMORY, BEATING],
        f"{each:,} streams each, with a heartbeat every 15 s, all on one core; their clients are on the other. Seconds "
        f"from the first to the last of all.{stops}",
    )
    options.progress(f"crowds: {WORKERS} workers with {each:,} streams each")
    row = f"{WORKERS} workers"
    table.add(row, "streams", WORKERS * each, 0)
    for phase, figure in _measure(options, WORKERS, each).items():
        table.add(row, phase, figure, 1)
    return table


def _measure(options: Options, workers: int, each: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(PEERS[OURS], options.servers[0])) for _ in range(workers)]
        memory = sum(server.memory() for server in servers)
        with _clients(servers, each) as (tells, opened):
            found[OPENED] = opened
            found[MEMORY] = (sum(server.memory() for server in servers) - memory) / 1024 / workers / each
            cpu = sum(server.cpu() for server in servers)
            _tell_all(tells, f"beats {options.hold}")
            found[BEATING] = (sum(server.cpu() for server in servers) - cpu) * 10 / options.hold
            found[EVENT] = sum(answer["elapsed"] for answer in _tell_all(tells, "event", one_by_one=True))
            before = time.monotonic()
            _tell_all(tells, "abort")
            _until_cleaned(servers, each)
            found[ABORTED] = time.monotonic() - before
        with _clients(servers, each):
            before = time.monotonic()
            for server in servers:
                server.popen.send_signal(signal.SIGTERM)
            _until_cleaned(servers, each)
            for server in servers:
                server.popen.wait(PATIENCE)
            found[ENDED] = time.monotonic() - before
    return found


@contextmanager
def _clients(servers: list[Process], streams: int) -> Iterator[tuple[list[Any], float]]:
    with ExitStack() as stack:
        before = time.monotonic()
        tells = [
            stack.enter_context(client("hold", port=server.port, path="fan", streams=streams)) for server in servers
        ]
        for tell in tells:
            opened = tell()["streams"]
            if opened != streams:
                raise RuntimeError(f"only {opened:,} of {streams:,} streams have opened")
        yield tells, time.monotonic() - before


def _tell_all(tells: list[Any], command: str, *, one_by_one: bool = False) -> list[dict[str, Any]]:
    if one_by_one:
        return [tell(command) for tell in tells]
    for tell in tells:
        tell(command, wait=False)
    return [tell() for tell in tells]


def _until_cleaned(servers: list[Process], each: int) -> None:
    """Waits until each server has said of so many bodies that their ``finally`` has run."""
    left = {server.popen.stdout: each * len(CLEANED) for server in servers}
    deadline = time.monotonic() + PATIENCE
    while left:
        ready, _, _ = select.select(list(left), [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise RuntimeError(f"not cleaned up after {PATIENCE:g} s: {[*left.values()]}")
        for pipe in ready:
            left[pipe] -= len(os.read(pipe.fileno(), 1 << 16))
            if left[pipe] <= 0:
                del left[pipe]


@contextmanager
def _descriptors() -> Iterator[int]:
    """Lets this process and its children have as many descriptors as they may; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
