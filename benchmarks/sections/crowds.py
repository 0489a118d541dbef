"""How the times of one worker, and of four, grow with the streams that they hold."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from benchmarks.peers import OURS, PEERS
from benchmarks.sections import Options
from benchmarks.servers import CORES, Process, client, running
from benchmarks.tables import Table
from benchmarks.workload import CLEANED

__all__ = ("crowds",)

T = TypeVar("T")

SIZES = (1000, 2500, 5000, 10_000)
WORKERS = 4
SIZES_OF_WORKERS = (2500, 10_000, 25_000)
"""Streams of each of several workers."""
SPARE = 100
"""Descriptors for all else."""

PATIENCE = 240.0
MEMORY = "MiB of memory"
OPENED, EVENT, ABORTED, ENDED = (
    "all opened",
    "one event to all",
    "all aborted and cleaned up",
    "all ended by SIGTERM",
)


def crowds(options: Options) -> list[Table]:
    """Opened, told one event, aborted all at once; opened again, and ended with their server."""
    with _descriptors() as limit:
        most = min(options.fan_out, limit - SPARE)
        one = Table(
            "crowds",
            "One worker and its streams",
            [f"{size:,}" for size in SIZES if size <= most],
            "Seconds for all streams of one worker; `SafeServerSentEvent` on one core, the client on the other.",
            drawn=True,
            undrawn=(MEMORY,),
        )
        _fill(options, one, 1, [size for size in SIZES if size <= most])
        sizes = sorted({min(size, limit - SPARE) for size in SIZES_OF_WORKERS if size <= 2.5 * options.fan_out})
        several = Table(
            "crowds-workers",
            "Four workers and their streams",
            [f"{WORKERS * size:,}" for size in sizes],
            f"Seconds for all streams of four workers; they and a client for each share {len(CORES)} cores. A process "
            f"has {limit:,} descriptors here.",
            drawn=True,
            undrawn=(MEMORY,),
        )
        _fill(options, several, WORKERS, sizes)
        return [one, several]


def _fill(options: Options, table: Table, workers: int, sizes: Sequence[int]) -> None:
    for column, size in zip(table.columns, sizes, strict=True):
        options.progress(f"{table.name}: {column} streams")
        for phase, figure in _measure(options.servers[0], workers, size).items():
            table.add(phase, column, figure, 0 if phase == MEMORY else 2)


def _measure(server: str, workers: int, streams: int) -> dict[str, float]:
    """Measures the phases of so many workers, with so many streams each."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        # Of one worker the client has the other core.
        cores = [CORES[number % len(CORES)] for number in range(workers)]
        processes = [stack.enter_context(running(PEERS[OURS], server, core)) for core in cores]
        empty = sum(process.memory() for process in processes)
        with _clients(processes, streams) as (tell_all, opened):
            found[OPENED] = opened
            found[MEMORY] = (sum(process.memory() for process in processes) - empty) / 2**20
            found[EVENT] = max(answer["elapsed"] for answer in tell_all("event"))
            before = time.monotonic()
            tell_all("abort")
            _until_all_cleaned(processes, streams)
            found[ABORTED] = time.monotonic() - before
        with _clients(processes, streams):
            before = time.monotonic()
            for process in processes:
                process.popen.send_signal(signal.SIGTERM)
            _until_all_cleaned(processes, streams)
            for process in processes:
                process.popen.wait(PATIENCE)
            found[ENDED] = time.monotonic() - before
    return found


@contextmanager
def _clients(
    processes: Sequence[Process], streams: int
) -> Iterator[tuple[Callable[[str | None], list[dict[str, Any]]], float]]:
    """A client for each process, with all its streams open: tells all of them, and how long the opening took."""
    with ExitStack() as stack:
        began = time.monotonic()
        clients = [
            stack.enter_context(
                client("hold", core=CORES[-1 - number % len(CORES)], port=process.port, path="fan", streams=streams)
            )
            for number, process in enumerate(processes)
        ]

        def tell_all(line: str | None = None) -> list[dict[str, Any]]:
            return _together(lambda tell: tell(line), clients)

        for answer in tell_all():
            if answer["streams"] != streams:
                raise RuntimeError(f"only {answer['streams']:,} of {streams:,} streams have opened")
        yield tell_all, time.monotonic() - began


def _together(do: Callable[[Any], T], each: Sequence[Any]) -> list[T]:
    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(do, each))


def _until_all_cleaned(processes: Sequence[Process], streams: int) -> None:
    _together(lambda process: _until_cleaned(process, streams), processes)


def _until_cleaned(process: Process, streams: int) -> None:
    """Waits until the server has said of so many bodies that their ``finally`` has run."""
    assert process.popen.stdout is not None
    left, deadline = streams * len(CLEANED), time.monotonic() + PATIENCE
    while left > 0:
        ready, _, _ = select.select([process.popen.stdout], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise RuntimeError(f"not cleaned up after {PATIENCE:g} s: {left:,}")
        left -= len(os.read(process.popen.stdout.fileno(), 1 << 16))


@contextmanager
def _descriptors() -> Iterator[int]:
    """Lets this process and its children have as many descriptors as they may; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
