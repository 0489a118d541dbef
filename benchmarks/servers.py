"""Starts peers behind their servers, each in a process of its own on one core, and ends them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import Peer

__all__ = (
    "CORES",
    "SERVERS",
    "Process",
    "ask_client",
    "client",
    "free_port",
    "missing",
    "prepared",
    "running",
    "versions",
)

PEERS = Path(__file__).parent / "peers"
ROOT = PEERS.parent.parent
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]

SERVERS = {
    "uvicorn": ("uvicorn", "--loop uvloop --http httptools --no-access-log --log-level warning --port {port} {app}"),
    "granian": ("granian", "--interface asgi --loop uvloop --http 1 --workers 1 --no-ws --log-level warning"
                " --backlog 2048 --port {port} {app}"),
}  # fmt: skip


@dataclass
class Process:
    """A peer that runs."""

    peer: str
    port: int
    popen: subprocess.Popen[bytes]

    def worker(self) -> psutil.Process:
        """The process that serves: the server itself, or its one worker."""
        process = psutil.Process(self.popen.pid)
        workers = [
            child for child in process.children(recursive=True) if "resource_tracker" not in str(child.cmdline())
        ]
        return workers[-1] if workers else process

    def memory(self) -> int:
        """Bytes that are the worker's own."""
        return int(self.worker().memory_full_info().uss)

    def cpu(self) -> float:
        """Seconds that the worker has run, finer than the 10 ms of its process times."""
        threads = Path(f"/proc/{self.worker().pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=30) as response:
            return bytes(response.read())

    def stats(self) -> dict[str, int] | None:
        """What a peer in Python tells of itself."""
        try:
            return dict(json.loads(self.get("stats")))
        except ValueError:
            return None


def missing(peer: Peer, server: str) -> str | None:
    """What a peer would need to run here, or ``None``."""
    needs = peer.needs if not peer.asgi else (*peer.needs, server)
    for name in needs:
        if name in ("node", "go"):
            if shutil.which(name) is None:
                return name
            continue
        if importlib.util.find_spec(name) is None:
            return name
    return None


def versions() -> str:
    """What the tables are of, in one line."""
    names = ("litestar-safe-sse", "litestar", "sse-starlette", "fastapi", "uvicorn", "granian", "uvloop")
    found = [f"Python {sys.version.split()[0]}"]
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    for command in (("node", "--version"), ("go", "version")):
        if shutil.which(command[0]):
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            found.append(f"{command[0]} {next(word for word in output if any(c.isdigit() for c in word))}")
    return ", ".join(found)


@contextmanager
def running(peer: Peer, server: str, core: int = SERVER_CORE) -> Iterator[Process]:
    """A peer that serves, on one core, until the end of the block."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = _command(peer, server, port, Path(directory))
        with _ended(_start(command, core)) as popen:
            process = Process(peer.name, port, popen)
            _await_port(process)
            yield process


@contextmanager
def prepared() -> Iterator[Process]:
    """The server that only hands over bytes."""
    port = free_port()
    with _ended(_start([sys.executable, "-m", "benchmarks.prepared_server", str(port)])) as popen:
        process = Process("prepared bytes", port, popen)
        _await_port(process)
        yield process


def ask_client(operation: str, **arguments: Any) -> dict[str, Any]:
    """Runs the client once."""
    command = [sys.executable, "-m", "benchmarks.client", operation, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=_on_core(CLIENT_CORE), check=True)
    return dict(json.loads(done.stdout))


@contextmanager
def client(operation: str, *, core: int = CLIENT_CORE, **arguments: Any) -> Iterator[Any]:
    """A client that is told what to do: a function from a command, or none to begin with, to its answer."""
    command = [sys.executable, "-m", "benchmarks.client", operation, json.dumps(arguments)]
    pipe = subprocess.PIPE
    popen = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, preexec_fn=_on_core(core))
    assert popen.stdin is not None
    assert popen.stdout is not None
    stdin, stdout = popen.stdin, popen.stdout

    def tell(line: str | None = None) -> dict[str, Any]:
        if line is not None:
            stdin.write(f"{line}\n".encode())
            stdin.flush()
        return dict(json.loads(stdout.readline()))

    try:
        yield tell
    finally:
        popen.kill()
        popen.wait()
        stdin.close()
        stdout.close()


def _command(peer: Peer, server: str, port: int, directory: Path) -> list[str]:
    if peer.asgi:
        module, arguments = SERVERS[server]
        return [
            sys.executable,
            "-m",
            module,
            *arguments.format(port=port, app=f"benchmarks.peers.{peer.file}:app").split(),
        ]
    if peer.needs == ("go",):
        binary = directory / "go_http"
        subprocess.run(["go", "build", "-o", str(binary), str(PEERS / peer.file)], check=True)
        return [str(binary), str(port)]
    return ["node", str(PEERS / peer.file), str(port)]


def _start(command: list[str], core: int = SERVER_CORE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=_on_core(core))


def _on_core(core: int) -> Any:
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def _ended(popen: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield popen
    finally:
        children = psutil.Process(popen.pid).children(recursive=True) if popen.poll() is None else []
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(2)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()
        for child in children:
            if child.is_running():
                child.kill()


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _await_port(process: Process) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise RuntimeError(f"{process.peer} did not start: exit code {process.popen.returncode}")
        try:
            process.get("plain")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.peer} did not answer")
