"""``python -m benchmarks.comparison``: what the endpoints of ``docs/examples/comparison`` lose, as a Markdown table.

Of each endpoint, streams are opened in a real server's process, and their clients leave; in another process, the server
is told to stop. An endpoint holds something for each stream, and says when it has let it go: what it has not is lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from benchmarks.servers import ROOT, free_port

DIRECTORY = ROOT / "docs" / "examples" / "comparison"
LIBRARIES = {
    "litestar": "Litestar's own",
    "sse_starlette": "sse-starlette",
    "fastapi": "FastAPI",
    "ours": "this package",
}
ENDPOINTS = {"job": "GET /jobs/2", "llm": "POST /chat", "feed": "GET /orders"}
SERVERS = {
    "uvicorn": ("uvicorn", "--port", "{port}", "--log-level", "warning", "{app}"),
    "granian": ("granian", "--interface", "asgi", "--port", "{port}", "--log-level", "warning", "{app}"),
}
BODY = b'{"text": "endless"}'
PATIENCE = 5.0
"""Seconds after which what was not let go counts as lost, and a server that has not exited as hanging."""


class Server:
    """A server with one endpoint, and what it has printed."""

    def __init__(self, name: str, app: str, output: Path) -> None:
        self.port = free_port()
        self.output = output
        command = [part.format(port=self.port, app=f"{app}:app") for part in SERVERS[name]]
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=DIRECTORY,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{DIRECTORY}", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def count(self, what: str) -> int:
        """How often something was held, or let go."""
        return sum(line.endswith(what) for line in self.output.read_text(errors="replace").splitlines())

    def until(self, what: str, number: int) -> bool:
        """Waits until something has been printed so often."""
        deadline = time.monotonic() + PATIENCE
        while self.count(what) < number and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.count(what) >= number

    def wait_exit(self) -> bool:
        """Waits for its exit."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def serving(name: str, app: str) -> Iterator[Server]:
    """Runs a server for the length of the block; what is left of it is killed."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(name, app, Path(directory, "output"))
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def open_stream(port: int, request: str) -> socket.socket:
    """Opens a stream, as soon as the server listens, and reads up to its first event."""
    body = BODY if request.startswith("POST") else b""
    head = f"{request} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    deadline = time.monotonic() + 30
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    client.sendall(head.encode() + body)
    answer = b""
    while b"data:" not in answer:
        part = client.recv(65536)
        if not part:
            raise RuntimeError(f"{request} was answered {answer!r}")
        answer += part
    return client


def lost_on_abort(server_name: str, app: str, request: str, streams: int) -> int:
    """How many streams have not let go what they held when all of their clients have left."""
    with serving(server_name, app) as server:
        clients = [open_stream(server.port, request) for _ in range(streams)]
        for client in clients:
            client.close()
        server.until(" let go", streams)
        return streams - server.count(" let go")


def lost_at_shutdown(server_name: str, app: str, request: str, streams: int) -> tuple[int, bool]:
    """How many have not when the server was told to stop and has exited, or not; and whether it has."""
    with serving(server_name, app) as server:
        clients = [open_stream(server.port, request) for _ in range(streams)]
        server.process.terminate()
        has_exited = server.wait_exit()
        lost = streams - server.count(" let go")
        for client in clients:
            client.close()
        return lost, has_exited


def rows(servers: list[str], libraries: list[str], streams: int) -> Iterator[str]:
    """The rows of the table, one for each library and server."""
    for name in servers:
        for library in libraries:
            cells = []
            for endpoint, request in ENDPOINTS.items():
                app = f"{endpoint}_{library}"
                print(f"{name}: {app}", file=sys.stderr)
                lost, exited = lost_at_shutdown(name, app, request, streams)
                cells += [
                    f"{lost_on_abort(name, app, request, streams)} of {streams}",
                    f"{lost} of {streams}{'' if exited else ', hangs'}",
                ]
            yield f"| {LIBRARIES[library]} | {name.capitalize()} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--streams", type=int, default=20, help="open at once (default: 20)")
    arguments = parser.parse_args()
    print("| | | job, aborts | job, shutdown | tokens, aborts | tokens, shutdown | feed, aborts | feed, shutdown |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows(arguments.servers, arguments.libraries, arguments.streams):
        print(row, flush=True)
    used = ("litestar", "sse-starlette", "fastapi", *arguments.servers)
    versions = ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in used)])
    print(f"\nMade by `python -m benchmarks.comparison`, with {versions}.")


if __name__ == "__main__":
    main()
