"""Servers embedded in this process."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.asyncio.run
import hypercorn.config
import hypercorn.trio
import hypercorn.trio.run
import uvicorn

from tests.bounds import WAIT
from tests.integration.app import HeldOpen
from tests.integration.processes import connect, read
from tests.ports import free_port


class Embedded:
    """An application in a server of this process, and what it has reported."""

    def __init__(self, watches: int = 1) -> None:
        self.app = HeldOpen(self._report, watches=watches)
        self.port = free_port()
        self._reports: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def _report(self, event: str, **details: Any) -> None:
        self._reports.put((event, details))

    def wait_for(self, event: str) -> dict[str, Any]:
        """Takes the next report, which must be this one."""
        name, details = self._reports.get(timeout=WAIT)
        assert name == event
        return details

    def is_quiet(self) -> bool:
        return self._reports.empty()

    def hold(self) -> socket.socket:
        connection = connect(self.port)
        connection.sendall(b"GET /?hold=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.wait_for("opened")
        return connection

    def expect_drain(self, connection: socket.socket) -> bytes:
        """Waits for the end of a response, and of the server; returns the response."""
        for event in ("notified", "cleaned"):
            self.wait_for(event)
        response = read(connection)
        assert b"bye" in response
        assert self.wait_for("stopped")["restored"]
        assert self.is_quiet()
        return response

    def uvicorn(self) -> uvicorn.Server:
        return uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_level="error", ws="none"))

    def hypercorn(self) -> hypercorn.config.Config:
        config = hypercorn.config.Config()
        config.bind = [f"127.0.0.1:{self.port}"]
        config.errorlog = None
        return config


class InThread:
    """Runs something in a thread, and waits for its end, within bounds."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


def serve_with_hypercorn(embedded: Embedded, backend: str, stop: threading.Event) -> None:
    async def trigger() -> None:
        await anyio.to_thread.run_sync(partial(stop.wait, WAIT), abandon_on_cancel=True)

    serve: Any = hypercorn.trio.serve if backend == "trio" else hypercorn.asyncio.serve
    anyio.run(partial(serve, embedded.app, embedded.hypercorn(), shutdown_trigger=trigger), backend=backend)
