"""A real PostgreSQL on a port and in a directory of its own: started, killed, started again, always reaped."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bounds import START, WAIT
from tests.ports import free_port

ATTEMPTS = 5
PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu put what is not on the path."""

USER = 65534 if os.getuid() == 0 else None
"""Who runs it: nobody if we are root, whom PostgreSQL refuses."""


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest release that is installed."""
    packaged = sorted(PACKAGED.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    found = str(packaged[-1]) if packaged else shutil.which(name)
    assert found, f"{name} is missing; scripts/setup.sh installs it"
    return found


def _directory() -> Path:
    """Makes a directory that belongs to who runs the server, and that he can reach."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest keeps others out of its own, again and again
    if USER is not None:
        os.chown(directory, USER, USER)
    return directory


@functools.cache
def _new_cluster() -> Path:
    """A cluster, made once a run, that no server is ever started on."""
    data = _directory()
    atexit.register(shutil.rmtree, data, ignore_errors=True)
    subprocess.run(
        [program("initdb"), "-D", data, "-U", "sse", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True, capture_output=True, timeout=START, cwd="/", env={"PATH": os.environ["PATH"]},
        user=USER, group=USER,
    )  # fmt: skip
    return data


class PostgresServer:
    """One server; what was committed outlives a kill.

    Args:
        directory: Where it keeps its log.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data: Path | None = None
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://sse@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Makes a cluster, starts it on a free port, and waits until it answers."""
        self._make()
        for _ in range(ATTEMPTS):
            self.port = free_port()
            if self._started():
                return
        raise RuntimeError(f"PostgreSQL did not start:\n{self.output()}")

    def start_again(self) -> None:
        """Starts it on the port and the data it had."""
        deadline = time.monotonic() + START
        while not self._started():  # those who served connections may hold it for a moment
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start again:\n{self.output()}")

    def kill(self) -> None:
        """Ends it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it as an administrator in a hurry does: connections are told."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Kills one of those that serve connections, whereupon it ends all of them, and recovers by itself."""
        for child in self._children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"postgres: sse" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
                    return

    def pause(self) -> None:
        """Makes it hang: its connections stay, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def output(self) -> str:
        log = self.directory / "postgres.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _make(self) -> None:
        """Copies a cluster that is new, which takes an eighth of what making one does."""
        self.data = _directory()
        subprocess.run(["cp", "-a", f"{_new_cluster()}/.", self.data], check=True, timeout=START)

    def _started(self) -> bool:
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "",
            "max_connections": "60", "shared_buffers": "16MB", "max_wal_size": "64MB",
            "fsync": "off",  # of what a process has written, a kill takes nothing
        }  # fmt: skip
        command = [program("postgres"), "-D", str(self.data)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "postgres.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/",
                start_new_session=True, user=USER, group=USER,
            )  # fmt: skip
        self._process = process
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return process.poll() is None
            time.sleep(0.01)
        self._end(signal.SIGKILL)
        return False

    def _answers(self) -> bool:
        """Whether it lets a user in: https://www.postgresql.org/docs/current/protocol-flow.html."""
        words = b"user\0sse\0database\0postgres\0\0"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
                return probe.recv(1) == b"R"
        except OSError:
            return False

    def _signal_all(self, number: signal.Signals) -> None:
        """Signals the server, and then those that serve its connections."""
        for pid in (self.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._signal_all(signal.SIGCONT)
            self._signal_all(signal.SIGKILL) if number == signal.SIGKILL else process.send_signal(number)
        try:
            process.wait(timeout=WAIT)
        except subprocess.TimeoutExpired:
            self._signal_all(signal.SIGKILL)
            process.wait(timeout=WAIT)
        self._process = None


@contextlib.contextmanager
def running_postgres(directory: Path) -> Iterator[PostgresServer]:
    """A server for the length of a block."""
    server = PostgresServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        if server.data is not None:
            shutil.rmtree(server.data)
