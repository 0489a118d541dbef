"""Real servers in processes of their own, and what their application reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from tests.bounds import WAIT

ROOT = Path(__file__).parents[2]

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to processes")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind:
    """A server, as it is started."""

    name: str
    arguments: str

    def command(self, port: int, options: str) -> list[str]:
        arguments = self.arguments.format(port=port)
        return [sys.executable, "-m", *arguments.split(), *options.split(), "tests.integration.app:app"]

    def __str__(self) -> str:
        return self.name


UVICORN = Kind("uvicorn", "uvicorn --port {port} --loop asyncio")
UVICORN_UVLOOP = Kind("uvicorn-uvloop", "uvicorn --port {port} --loop uvloop")
GRANIAN = Kind("granian", "granian --interface asgi --port {port} --loop asyncio")
GRANIAN_UVLOOP = Kind("granian-uvloop", "granian --interface asgi --port {port} --loop uvloop")
HYPERCORN = Kind("hypercorn", "hypercorn --bind 127.0.0.1:{port}")
HYPERCORN_UVLOOP = Kind("hypercorn-uvloop", "hypercorn --worker-class uvloop --bind 127.0.0.1:{port}")
HYPERCORN_TRIO = Kind("hypercorn-trio", "hypercorn --worker-class trio --bind 127.0.0.1:{port}")
DAPHNE = Kind("daphne", "daphne --port {port}")

WITH_LIFESPAN = [UVICORN, UVICORN_UVLOOP, GRANIAN, GRANIAN_UVLOOP, HYPERCORN, HYPERCORN_UVLOOP, HYPERCORN_TRIO]


@dataclass
class Report:
    event: str
    pid: int
    at: float
    name: int = 0
    restored: bool = True


@dataclass
class Server:
    """A server process, the leader of a session of its own, and what its application has reported."""

    port: int
    process: subprocess.Popen[bytes]
    mailbox: socket.socket
    log: Path
    reports: list[Report] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def request(self, target: str) -> socket.socket:
        connection = connect(self.port, self.process)
        self.connections.append(connection)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection

    def get_ready(self) -> None:
        """Waits until a request is answered."""

        def attempt() -> bool:
            connection = self.request("/")
            connection.settimeout(3)
            with connection, contextlib.suppress(TimeoutError):
                return bool(connection.recv(65536))
            return False

        self._repeatedly(attempt)

    def hold(self, cleanup: float = 0.0) -> socket.socket:
        """Opens a response that is held open, and waits until it is."""
        if not self.connections:
            self.get_ready()

        def attempt() -> socket.socket | None:
            name = len(self.connections)
            connection = self.request(f"/?hold={cleanup}&name={name}")
            deadline = time.monotonic() + 3
            while (left := deadline - time.monotonic()) > 0:
                if self.take_in(left) and (self.reports[-1].event, self.reports[-1].name) == ("opened", name):
                    return connection
            connection.close()
            return None

        return self._repeatedly(attempt)

    def _repeatedly(self, attempt: Callable[[], Result | None]) -> Result:
        """Makes a request again if need be: one of the first that Granian gets may stay without an answer."""
        for _ in range(int(WAIT)):
            if result := attempt():
                return result
        pytest.fail(f"The requests were not answered.\n{self.log.read_text()}")

    def all(self, event: str) -> list[Report]:
        return [report for report in self.reports if report.event == event]

    def since(self, at: float) -> list[str]:
        """Returns the events that were reported after a time, in the order in which they happened."""
        return [report.event for report in sorted(self.reports, key=lambda report: report.at) if report.at > at]

    def take_in(self, timeout: float) -> bool:
        """Takes in a report, if one comes in time."""
        self.mailbox.settimeout(timeout)
        try:
            self.reports.append(Report(**json.loads(self.mailbox.recv(65536))))
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def wait_for(self, event: str, count: int = 1) -> Report:
        """Waits until an event has been reported so many times."""
        deadline = time.monotonic() + WAIT
        while len(self.all(event)) < count:
            if not self.take_in(max(0.0, deadline - time.monotonic())):
                pytest.fail(f"{event!r} was not reported {count} times, but {self.reports}.\n{self.log.read_text()}")
        return self.all(event)[count - 1]

    def signal(self, number: int, *, to_group: bool = False) -> float:
        """Sends a signal to the server's main process, or to all as a terminal or a service manager does."""
        at = time.monotonic()
        if to_group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return at

    def exit_code(self) -> int:
        """Waits until the server has exited by itself, and takes in what was reported until then."""
        deadline = time.monotonic() + WAIT
        while (code := self.process.poll()) is None:
            if time.monotonic() > deadline:
                pytest.fail(f"The server did not exit.\n{self.log.read_text()}")
            # Left alone meanwhile, the mailbox would overflow.
            self.take_in(timeout=0.01)
        while self.take_in(timeout=0):
            pass
        return code

    def end(self) -> None:
        # The session was made for this server, so there is nobody else in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for each in (*self.connections, self.mailbox):
            each.close()


Launch = Callable[..., Server]


def connect(port: int, process: subprocess.Popen[bytes] | None = None) -> socket.socket:
    """Connects as soon as a server listens; it announces that to nobody, so it has to be tried."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        except ConnectionRefusedError:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.01)


def read(connection: socket.socket) -> bytes:
    """Reads until the other side closes."""
    received = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received
