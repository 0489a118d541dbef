"""A documented application on a real server, and what it prints."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
from httpx_sse import EventSource, ServerSentEvent

from tests.bounds import START, WAIT
from tests.ports import free_port
from tests.signals import default_signals

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of addresses without TLS: unless told otherwise, httpx reads all certificates for each, for 30 ms."""


class ServerProcess:
    """A server with one application, and its output line by line.

    Args:
        command: What Python is to run, and its arguments but for the port.
        port_option: The option that names the port.
        environment: What it has beside the environment of the tests.
    """

    def __init__(self, command: Sequence[str], port_option: str, environment: Mapping[str, str]) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.lines: list[str] = []
        self._command = [sys.executable, *command, port_option.format(port=self._port)]
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
            start_new_session=True,
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
        """What it printed, in which to look for texts: of two processes, one may write within a line of the other."""
        return "\n".join(self.lines)

    def until(self, condition: Callable[[], object], within: float = WAIT) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def wait_for(self, text: str) -> None:
        self.until(lambda: text in self.output)

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
        self.until(lambda: self._accepts() or self.process.poll() is not None, START)
        assert self.process.poll() is None, self.output

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def close(self) -> None:
        """Kills it with its workers, which may have outlived it and hold its output open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


def running(
    app: str, directory: Path, *, without_models: bool = False, **environment: str
) -> contextlib.AbstractContextManager[ServerProcess]:
    """Runs the application on Uvicorn for the length of the block, and checks that nothing went wrong unseen."""
    return running_by(*on_uvicorn(app, directory, without_models=without_models), **environment)


WITHOUT_MODELS = """
import runpy, sys
sys.modules.update(pydantic=None, opentelemetry=None)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Litestar imports these two if they are there, which takes a third of the time in which an application starts."""


def on_uvicorn(app: str, directory: Path, *, without_models: bool = False) -> tuple[Sequence[str], str]:
    """Returns the command and the option for the port.

    Args:
        app: The application.
        directory: Where it is.
        without_models: Whether it starts as where neither Pydantic nor OpenTelemetry is installed.
    """
    module = ["-c", WITHOUT_MODELS] if without_models else ["-m"]
    return [*module, "uvicorn", app, "--app-dir", str(directory)], "--port={port}"


@contextlib.contextmanager
def running_by(command: Sequence[str], port_option: str, **environment: str) -> Iterator[ServerProcess]:
    """Runs a server for the length of the block, and checks that nothing went wrong unseen."""
    server = ServerProcess(command, port_option, environment)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.output, server.output
    assert "ResourceWarning" not in server.output, server.output


@contextlib.contextmanager
def stream(
    server: ServerProcess, path: str, last_event_id: str | None = None
) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    """A client that is connected for the length of the block; yields the response and its events."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with (
        httpx.Client(timeout=WAIT, verify=PLAIN) as client,
        client.stream("GET", server.url + path, headers=headers) as response,
    ):
        yield response, EventSource(response).iter_sse()


def reset(response: httpx.Response) -> None:
    """Leaves by RST, as a client does that was killed."""
    connection = response.extensions["network_stream"].get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    response.close()


def leave(response: httpx.Response) -> None:
    """Leaves by FIN, as a browser does whose page is closed."""
    response.close()
