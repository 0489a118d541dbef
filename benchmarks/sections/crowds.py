"""How the times of a worker grow with the streams that it holds."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.peers import OURS, PEERS
from benchmarks.sections import Options
from benchmarks.servers import Process, client, running
from benchmarks.tables import Table
from benchmarks.workload import CLEANED

__all__ = ("crowds",)

SIZES = (1000, 2500, 5000, 10_000)
SPARE = 100
"""Descriptors for all else."""

PATIENCE = 60.0
OPENED, EVENT, ABORTED, ENDED = PHASES = (
    "all opened",
    "one event to all",
    "all aborted and cleaned up",
    "all ended by SIGTERM",
)


def crowds(options: Options) -> list[Table]:
    """Opened, told one event, aborted all at once; opened again, and ended with their server."""
    with _descriptors() as limit:
        return [_one_worker(options, min(options.fan_out, limit - SPARE))]


def _one_worker(options: Options, most: int) -> Table:
    sizes = [size for size in SIZES if size <= most]
    table = Table(
        "crowds",
        "One worker and its streams",
        [f"{size:,}" for size in sizes],
        "Seconds for all streams of one worker; `SafeServerSentEvent` on one core, the client on the other.",
    )
    for size in sizes:
        options.progress(f"crowds: {size:,} streams")
        for phase, figure in _measure(options.servers[0], size).items():
            table.add(phase, f"{size:,}", figure)
    return table


def _measure(server: str, streams: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with running(PEERS[OURS], server) as process:
        with client("hold", port=process.port, path="fan", streams=streams) as tell:
            found[OPENED] = _opened(tell(), streams)
            found[EVENT] = tell("event")["elapsed"]
            before = time.monotonic()
            tell("abort")
            _until_cleaned(process, streams)
            found[ABORTED] = time.monotonic() - before
        with client("hold", port=process.port, path="fan", streams=streams) as tell:
            _opened(tell(), streams)
            before = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            _until_cleaned(process, streams)
            process.popen.wait(PATIENCE)
            found[ENDED] = time.monotonic() - before
    return found


def _opened(answer: dict[str, Any], streams: int) -> float:
    if answer["streams"] != streams:
        raise RuntimeError(f"only {answer['streams']:,} of {streams:,} streams have opened")
    return float(answer["opened"])


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
