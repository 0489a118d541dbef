"""A raw ASGI application whose responses stay open until a `ShutdownWatch` calls back.

Servers run it in processes of their own, as ``tests.integration.app:app``. It reports what happens, and when, in
datagrams to the address in ``REPORT_TO``. The times are monotonic, which on Linux and macOS is one clock for all
processes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import anyio

logger = logging.getLogger(__name__)


class HeldOpen:
    """The application.

    ``GET /`` is answered at once. ``GET /?hold=S`` is answered with a body that ends once the callback has come and
    S seconds of clean-up have passed; with ``&last=T`` it ends after T seconds even without the callback. What is
    reported of it carries its ``&name=N``.

    Args:
        report: Takes an event's name, and details.
        watches: How many watches are installed, one on top of the other.
        lazy: Whether they are installed at the first request instead of at startup.
        termination_delay: What the watches are given.
    """

    def __init__(
        self, report: Callable[..., None], *, watches: int = 1, lazy: bool = False, termination_delay: float = 30.0
    ) -> None:
        self._report = report
        self._lazy = lazy
        self._notified: anyio.Event | None = None
        self._handlers: list[Any] = []
        self._watches: list[Any] = []
        self._addresses: str | None = None
        if watches:  # a server without them starts in half the time
            from litestar_safe_sse._servers.connections import ADDRESSES
            from litestar_safe_sse._servers.shutdown import ShutdownWatch

            self._addresses = ADDRESSES
            self._watches = [
                ShutdownWatch(self._on_shutdown, logger, termination_delay=termination_delay) for _ in range(watches)
            ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._answer(scope, send)

    def _install(self) -> anyio.Event:
        if self._notified is None:
            self._notified = anyio.Event()
            self._handlers = _handlers()
            for watch in self._watches:
                watch.install()
        return self._notified

    def _on_shutdown(self) -> None:
        self._report("notified")
        self._install().set()

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        if not self._lazy:
            self._install()
        self._report("started")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for watch in self._watches:
            watch.uninstall()
        self._report("stopped", restored=_handlers() == self._handlers)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Any, send: Any) -> None:
        query = parse_qs(scope["query_string"].decode())
        notified = self._install()
        headers = [(b"content-type", b"text/plain")]
        if self._addresses in scope:
            headers.append((b"x-client-port", str(scope[self._addresses][0][1]).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if "hold" in query:
            await send({"type": "http.response.body", "body": b"hello", "more_body": True})
            await self._hold(notified, {name: float(values[0]) for name, values in query.items()})
        await send({"type": "http.response.body", "body": b"bye"})

    async def _hold(self, notified: anyio.Event, query: dict[str, float]) -> None:
        report = partial(self._report, name=query.get("name", 0))
        report("opened")
        try:
            try:
                with anyio.move_on_after(query.get("last", math.inf)):
                    await notified.wait()
            finally:
                # As a stream's clean-up does, it awaits, so it is lost unless it is given the time.
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(query["hold"])
                report("cleaned")
        except anyio.get_cancelled_exc_class():
            report("cancelled")
            raise


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def report_to(address: str) -> Callable[..., None]:
    """Returns a function that sends reports to ``host:port``."""
    host, _, port = address.rpartition(":")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def report(event: str, **details: Any) -> None:
        message = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **details}
        sender.sendto(json.dumps(message).encode(), (host, int(port)))

    return report


if "REPORT_TO" in os.environ:
    app = HeldOpen(
        report_to(os.environ["REPORT_TO"]),
        watches=int(os.environ.get("WATCHES", "1")),
        lazy="LAZY" in os.environ,
        termination_delay=float(os.environ.get("TERMINATION_DELAY", "30")),
    )
