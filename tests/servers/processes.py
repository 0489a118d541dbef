"""Real servers as subprocesses: started, waited for, signalled, and always reaped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import Signals
from typing import Any

import psutil

from tests.bounds import START, WAIT
from tests.ports import free_port
from tests.servers.kinds import ROOT, Address, ServerKind, certificate_files
from tests.servers.records import Records
from tests.signals import default_signals
from tests.unix_sockets import unix_socket_path

FLAVOUR = os.environ.get("SAFE_SSE_FLAVOUR", "safe")


class RunningServer:
    """A server process in a process group of its own."""

    def __init__(self, kind: ServerKind, directory: Path, address: Address) -> None:
        self.kind = kind
        self.directory = directory
        self.address = address
        self.records = Records(directory / "records.jsonl")
        self.log = directory / "server.log"
        self.tls = certificate_files().client if kind.tls else None

    def start(self, *, workers: int = 1, environment: Mapping[str, str] | None = None, **options: Any) -> None:
        found = importlib.util.find_spec("litestar_safe_sse")
        assert found is not None
        assert found.submodule_search_locations
        package = Path(next(iter(found.submodule_search_locations))).parent
        variables = {
            **os.environ,
            **(environment or {}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "always::ResourceWarning,always::RuntimeWarning",
            "SAFE_SSE_RECORDS": str(self.records.path),
            "SAFE_SSE_FLAVOUR": FLAVOUR,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.kind.command(self.address, workers=workers, **options),
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=default_signals,
            )
        self.wait_ready(workers)

    def wait_ready(self, workers: int = 1, beyond: int = 0) -> None:
        """Wait until so many workers (more than ``beyond``) have run their start-up, and the port answers."""
        deadline = time.monotonic() + START
        while True:
            self.records.read()
            started = {record["pid"] for record in self.records.named("startup")}
            if len(started) >= workers + beyond or not self.kind.has_lifespan:
                with contextlib.suppress(OSError):
                    connect(self.address).close()
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind.name} did not start:\n{self.output()}")
            time.sleep(0.01)

    @property
    def port(self) -> int:
        """Where it listens, if that is no Unix socket."""
        assert not isinstance(self.address, str)
        return self.address[1]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def others(self) -> list[psutil.Process]:
        """Return whoever else lives in the server's session: its workers, whoever their parent is by now."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if pid != self.process.pid and os.getsid(pid) == self.process.pid:
                    process = psutil.Process(pid)
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
        return found

    def signal(self, number: Signals) -> float:
        """Signal the parent alone, as a process manager does; return when."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    def signal_group(self, number: Signals) -> float:
        """Signal the whole group, as ^C in a terminal does; return when."""
        at = time.monotonic()
        os.killpg(self.process.pid, number)
        return at

    def _gone(self) -> bool:
        return self.process.poll() is not None and not self.others()

    async def wait_exit(self, within: float = WAIT) -> float | None:
        """Wait until the process and its descendants are gone; return when, or ``None`` if they are not."""
        deadline = time.monotonic() + within
        while not self._gone():
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.005)
        return time.monotonic()

    def reap(self) -> None:
        """End whatever is left, each by its own id, until nothing is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=WAIT)
        deadline = time.monotonic() + WAIT
        while left := self.others():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if time.monotonic() > deadline:
                raise RuntimeError(f"can't end {left}")
            time.sleep(0.01)


def connect(address: Address) -> socket.socket:
    """Connects to a server.

    Raises:
        OSError: If it does not listen.
    """
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        connection.settimeout(1)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def running(
    kind: ServerKind, directory: Path, *, on_unix_socket: bool = False, **options: Any
) -> Iterator[RunningServer]:
    """A server for the length of a block.

    Args:
        kind: The server.
        directory: Where it keeps its log and its records.
        on_unix_socket: Whether it listens at a Unix socket.
        options: What it is started with: ``workers``, ``reload``, ``extra``, ``app``, ``environment``.
    """
    with unix_socket_path() if on_unix_socket else contextlib.nullcontext(("127.0.0.1", free_port())) as address:
        server = RunningServer(kind, directory, address)
        try:
            server.start(**options)
            yield server
        finally:
            if hasattr(server, "process"):
                server.reap()
