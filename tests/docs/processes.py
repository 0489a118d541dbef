"""A documented application on a real Uvicorn, and what it prints."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
from httpx_sse import EventSource, ServerSentEvent

from tests.bounds import WAIT
from tests.ports import free_port
from tests.signals import default_signals


class UvicornProcess:
    """Uvicorn with one application, and its output line by line."""

    def __init__(self, app: str, directory: Path, environment: Mapping[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self._command = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(directory), "--port", str(port)]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "always::ResourceWarning"}
        self._environment.update(environment)
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            preexec_fn=default_signals,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def until(self, condition: Callable[[], object], within: float = WAIT) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def wait_for_line(self, line: str) -> None:
        self.until(lambda: line in self.lines)

    def terminate(self) -> None:
        """Sends SIGTERM, and waits for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT)
        self._reader.join(WAIT)

    def start_again(self) -> None:
        """Kills it, and starts it at the same address."""
        self.close()
        self.lines.clear()
        self._start()
        self.wait_ready()

    def wait_ready(self) -> None:
        self.until(lambda: "Uvicorn running on" in self.output or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.output

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(app: str, directory: Path, **environment: str) -> Iterator[UvicornProcess]:
    """Runs the application for the length of the block, and checks that nothing went wrong unseen."""
    server = UvicornProcess(app, directory, environment)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.output, server.output
    assert "ResourceWarning" not in server.output, server.output


@contextlib.contextmanager
def stream(
    server: UvicornProcess, path: str, last_event_id: str | None = None
) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    """A client that is connected for the length of the block; yields the response and its events."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with httpx.Client(timeout=WAIT) as client, client.stream("GET", server.url + path, headers=headers) as response:
        yield response, EventSource(response).iter_sse()


def reset(response: httpx.Response) -> None:
    """Leaves by RST, as a client does that was killed."""
    connection = response.extensions["network_stream"].get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    response.close()


def leave(response: httpx.Response) -> None:
    """Leaves by FIN, as a browser does whose page is closed."""
    response.close()
