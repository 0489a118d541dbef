"""A server that is told to stop while one of its workers still starts exits."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bounds import START, WAIT
from tests.ports import free_port
from tests.servers.kinds import ServerKind, kinds, parameters
from tests.servers.processes import RunningServer

OF_WORKERS = ("uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", "granian-h2-uvloop", "hypercorn-h1-asyncio")


GRANIAN = ("granian-h1-asyncio", "granian-h2-uvloop")


class HalfStartedServer(RunningServer):
    """Of two workers one is up."""

    def wait_ready(self, workers: int = 1, beyond: int = 0) -> None:
        super().wait_ready()
        self.wait((self.directory / "waiting").exists, START)

    def wait_for_the_first(self) -> None:
        """Waits for the end of a worker that was up, by which the other one has been told too."""
        up = {record["pid"] for record in self.records.named("startup")}
        self.wait(lambda: not up.issubset(process.pid for process in self.others()), WAIT)

    def wait(self, condition: Callable[[], bool], within: float) -> None:
        assert asyncio.run(self.records.until(condition, within)), self.output()


@pytest.mark.parametrize("kind", parameters(*OF_WORKERS))
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_server_whose_worker_still_starts_exits(kind: ServerKind, number: signal.Signals, tmp_path: Path) -> None:
    """The worker takes note of the signal, whether it was sent before or behind its start."""
    stop_half_started(kind, number, tmp_path)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in kinds(*GRANIAN)])
def test_server_whose_worker_is_not_listening_yet_exits(kind: ServerKind, tmp_path: Path) -> None:
    """Its loop does not run between the application's start-up and the first request, and uvloop loses signals then."""
    stop_half_started(kind, signal.SIGTERM, tmp_path, SAFE_SSE_HELD_READY="1")


def stop_half_started(kind: ServerKind, number: signal.Signals, directory: Path, **environment: str) -> None:
    """Sends a signal to a server of which one worker is held back, then lets that go: the server has to exit."""
    server = HalfStartedServer(kind, directory, ("127.0.0.1", free_port()))
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of which the worker is in want that comes second
        try:
            held = {"SAFE_SSE_HELD": str(directory), **environment}
            server.start(workers=2, app="tests.servers.held_app:app", environment=held)
            server.signal(number)
            server.wait_for_the_first()
            lock.close()
            assert asyncio.run(server.wait_exit()) is not None, server.output()
        finally:
            server.reap()
