"""Real servers as subprocesses: started, waited for, signalled, and always reaped."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import trustme

from tests.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_TIMEOUT = 30.0
TRIO_GRACE = 1
"""Seconds that Hypercorn's trio worker waits at a shutdown for connections that are idle."""
FLAVOUR = os.environ.get("SAFE_SSE_FLAVOUR", "safe")


@dataclass(frozen=True)
class ServerKind:
    """A server, how it is started, and what is known of it."""

    server: str
    protocol: str
    variant: str
    arguments: tuple[str, ...] = ()
    tls: bool = False

    @property
    def name(self) -> str:
        return f"{self.server}-h{self.protocol[0]}-{self.variant}".removesuffix("-")

    @property
    def trio(self) -> bool:
        return self.variant == "trio"

    @property
    def has_lifespan(self) -> bool:
        return self.server != "daphne"

    @property
    def exit_allowance(self) -> float:
        """Seconds a server may take to exit beyond the longest clean-up."""
        if self.trio:
            return TRIO_GRACE + 1.5
        return 1.5 if self.server == "hypercorn" else 1.0

    @property
    def pushes_back(self) -> bool:
        """Whether ``send()`` blocks when the client stops reading."""
        return self.server in {"uvicorn", "granian"} or (self.server == "hypercorn" and self.protocol == "1.1")

    @property
    def ends_streams_at_shutdown(self) -> bool:
        """Whether the end of a response that ends during a shutdown is sent; Hypercorn loses END_STREAM then."""
        return not (self.server == "hypercorn" and self.protocol == "2")

    def command(self, port: int, *, workers: int, reload: Path | None, extra: Sequence[str]) -> list[str]:
        python, app, host = sys.executable, "tests.servers.app:app", "127.0.0.1"
        command = [python, "-m", self.server, *self.arguments, *extra]
        if self.server == "uvicorn":
            command += ["--host", host, "--port", str(port), "--app-dir", str(ROOT)]
            command += ["--reload", "--reload-dir", str(reload)] if reload else ["--workers", str(workers)]
        elif self.server == "granian":
            command += ["--host", host, "--port", str(port), "--workers", str(workers)]
            command += ["--reload", "--reload-paths", str(reload)] if reload else []
        elif self.server == "hypercorn":
            command += ["--bind", f"{host}:{port}", "--workers", str(workers)]
        elif self.server == "daphne" and self.tls:
            files = certificate_files()
            command += [
                "-e",
                f"ssl:{port}:privateKey={files.key}:certKey={files.certificate}:interface={host}",
            ]
        elif self.server == "daphne":
            command += ["-b", host, "-p", str(port)]
        else:  # Uvicorn in a program
            return [python, str(HERE / f"{self.server}.py"), str(port)]
        return [*command, app]


def _kinds() -> Iterator[ServerKind]:
    # Each parser, protocol and loop once, not each with each: the matrix has to be walked through in minutes.
    for http, loop in (("h11", "asyncio"), ("httptools", "uvloop")):
        yield ServerKind("uvicorn", "1.1", f"{http}-{loop}", ("--http", http, "--loop", loop))
    for protocol, loop in (("1.1", "asyncio"), ("2", "uvloop")):
        arguments = ("--interface", "asgi", "--http", protocol[0], "--loop", loop)
        yield ServerKind("granian", protocol, loop, arguments)
    for protocol in ("1.1", "2"):
        for worker in ("asyncio", "uvloop", "trio"):
            # Over HTTP/2 it holds a connection that the client has closed until it would have been idle too long.
            arguments = ("--worker-class", worker, "--keep-alive", "1")
            # Its trio worker leaves idle connections open at a shutdown until this is over.
            graceful = ("--graceful-timeout", str(TRIO_GRACE)) if worker == "trio" else ()
            yield ServerKind("hypercorn", protocol, worker, (*arguments, *graceful))
    yield ServerKind("daphne", "1.1", "")
    yield ServerKind("daphne", "2", "", tls=True)


KINDS: dict[str, ServerKind] = {kind.name: kind for kind in _kinds()}
UVICORN_IN_THREAD = ServerKind("uvicorn_in_thread", "1.1", "")
UVICORN_WITH_SMALL_BUFFERS = ServerKind("uvicorn_with_small_buffers", "1.1", "")


def kinds(*names: str) -> list[ServerKind]:
    """Return the kinds of those names, or all, of those that ``SAFE_SSE_KINDS`` (comma-separated prefixes) allows."""
    wanted = os.environ.get("SAFE_SSE_KINDS", "")
    chosen = [KINDS[name] for name in names] if names else list(KINDS.values())
    return [kind for kind in chosen if kind.name.startswith(tuple(wanted.split(",")))]


@dataclass(frozen=True)
class Certificate:
    key: Path
    certificate: Path
    client: ssl.SSLContext


@functools.cache
def certificate_files() -> Certificate:
    """A self-signed authority and a certificate for the loopback address, made once a run."""
    directory = Path(tempfile.mkdtemp(prefix="safe-sse-tls-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(directory / "certificate.pem", append=number > 0)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2"])
    return Certificate(directory / "key.pem", directory / "certificate.pem", client)


class Records:
    """What the server process wrote, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._offset = 0

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new, mark, _ = file.read().rpartition(b"\n")
        self._offset += len(new) + len(mark)
        for line in new.splitlines():
            record = json.loads(line)
            self.lines.append(record)
            self._by_key[record["key"]].append(record)

    def of(self, key: str, what: str) -> list[dict[str, Any]]:
        """Return what was recorded under that name for that visit, in order."""
        return [record for record in self._by_key.get(key, ()) if record["what"] == what]

    def story(self, key: str) -> list[str]:
        """Return the names of all that was recorded for a visit, for a failure's message."""
        return [record["what"] for record in self._by_key.get(key, ())]

    def named(self, what: str) -> list[dict[str, Any]]:
        return [record for record in self.lines if record["what"] == what]

    async def until(self, condition: Callable[[], bool], within: float = 5.0) -> bool:
        """Read until the condition holds; whether it did in time."""
        deadline = time.monotonic() + within
        while True:
            self.read()
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.004)

    async def until_each(self, keys: Sequence[str], what: str, within: float = 5.0) -> bool:
        return await self.until(lambda: all(self.of(key, what) for key in keys), within)


class RunningServer:
    """A server process in a process group of its own."""

    def __init__(self, kind: ServerKind, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.address = ("127.0.0.1", free_port())
        self.records = Records(directory / "records.jsonl")
        self.log = directory / "server.log"
        self.tls = certificate_files().client if kind.tls else None

    def start(self, *, workers: int = 1, reload: Path | None = None, extra: Sequence[str] = ()) -> None:
        found = importlib.util.find_spec("litestar_safe_sse")
        assert found is not None
        assert found.submodule_search_locations
        package = Path(next(iter(found.submodule_search_locations))).parent
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "always::ResourceWarning,always::RuntimeWarning",
            "SAFE_SSE_RECORDS": str(self.records.path),
            "SAFE_SSE_FLAVOUR": FLAVOUR,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.kind.command(self.address[1], workers=workers, reload=reload, extra=extra),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_ready(workers)

    def wait_ready(self, workers: int = 1, beyond: int = 0) -> None:
        """Wait until so many workers (more than ``beyond``) have run their start-up, and the port answers."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self.records.read()
            started = {record["pid"] for record in self.records.named("startup")}
            if len(started) >= workers + beyond or not self.kind.has_lifespan:
                with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=1):
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind.name} did not start:\n{self.output()}")
            time.sleep(0.01)

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

    def signal(self, number: signal.Signals) -> float:
        """Signal the parent alone, as a process manager does; return when."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    def signal_group(self, number: signal.Signals) -> float:
        """Signal the whole group, as ^C in a terminal does; return when."""
        at = time.monotonic()
        os.killpg(self.process.pid, number)
        return at

    def _gone(self) -> bool:
        return self.process.poll() is not None and not self.others()

    async def wait_exit(self, within: float) -> float | None:
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
        self.process.wait(timeout=10)
        deadline = time.monotonic() + 10
        while left := self.others():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if time.monotonic() > deadline:
                raise RuntimeError(f"can't end {left}")
            time.sleep(0.01)


@contextlib.contextmanager
def running(
    kind: ServerKind,
    directory: Path,
    *,
    workers: int = 1,
    reload: Path | None = None,
    extra: Sequence[str] = (),
) -> Iterator[RunningServer]:
    """A server for the length of a block."""
    server = RunningServer(kind, directory)
    try:
        server.start(workers=workers, reload=reload, extra=extra)
        yield server
    finally:
        if hasattr(server, "process"):
            server.reap()
