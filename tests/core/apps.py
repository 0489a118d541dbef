"""An ASGI application with one stream, and a probe of what happens to it. Nothing here knows Litestar."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from litestar_safe_sse._core.encoding import Encoder
from litestar_safe_sse._core.registry import StreamRefusedError, StreamRegistry
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.stream import Stream, StreamNames
from litestar_safe_sse._core.transport import HTTPTransport
from litestar_safe_sse.config import SafeSSEConfig
from litestar_safe_sse.context import StreamContext
from tests.bounds import NEVER, WAIT
from tests.core.clients import Connection

PATIENT = SafeSSEConfig(ping_interval=NEVER, send_timeout=NEVER, cleanup_timeout=NEVER)
"""Nothing happens because a time is over: what ends a stream is what the test does to it."""

NAMES = StreamNames.of("handler")


class Probe:
    """What happened to one stream: its body, its cleanup, in this order, and why."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.reason: CloseReason | None = None
        self.stream: StreamContext | None = None
        self._changed = anyio.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, event: str) -> None:
        """Waits until something has been noted."""
        with anyio.fail_after(WAIT):
            while event not in self.events:
                await self._changed.wait()

    async def until_count(self, event: str, count: int) -> None:
        """Waits until something has been noted so often."""
        with anyio.fail_after(WAIT):
            while self.events.count(event) < count:
                await self._changed.wait()

    async def cleanup(self) -> None:
        assert self.stream is not None
        self.reason = self.stream.close_reason
        await anyio.sleep(0.001)
        self.note("cleanup")


Body = Callable[[Probe, StreamContext], Any]


class App:
    """The application: a registry of streams, and a handler that answers each request with one.

    Args:
        handler: Returns the body; it may be a coroutine function, and runs in the request's task.
        config: The settings of all streams.
        prefetch: Seconds that the headers wait for the first event.
        **settings: Those of a response.
    """

    def __init__(
        self,
        handler: Callable[[StreamContext], Any],
        config: SafeSSEConfig = PATIENT,
        *,
        prefetch: float = 0,
        **settings: Any,
    ) -> None:
        self.streams = StreamRegistry(config)
        self._handler = handler
        self._prefetch = prefetch
        self._settings = settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            stream = self.streams.admit(NAMES, scope)
        except StreamRefusedError:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"refused"})
            return
        try:
            content = self._handler(StreamContext(stream, scope))
            if inspect.isawaitable(content):
                content = await content
            await self._respond(stream, content, scope, receive, send)
        except Exception as exc:
            await stream.discard(CloseReason.ERROR, exc)
            raise
        except BaseException:
            await stream.discard(CloseReason.CLIENT_DISCONNECTED)
            raise

    async def _respond(self, stream: Stream, content: Any, scope: Any, receive: Any, send: Any) -> None:
        config = replace(stream.config, **self._settings)
        stream.accept(content, Encoder(separator=config.separator, ping_comment=config.ping_comment), config)
        if not self.streams.watch_access(stream, scope):
            raise PermissionError
        start = {"type": "http.response.start", "status": 200, "headers": []}
        limit = config.buffer_size
        transport = HTTPTransport(scope, receive, send, start, runtime=stream.runtime, limit=limit)
        await stream.serve(transport, prefetch=self._prefetch)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Serves for the length of a block; at its end all streams are ended."""
        self.streams.start()
        try:
            yield
        finally:
            await self.streams.drain()
            self.streams.stop()


class Server:
    """A server of one application, whose one stream is made of a body.

    Args:
        body: Makes the body, in the request's task.
        config: The settings of the application.
        **settings: Those of the response.
    """

    kind = App

    def __init__(self, body: Body, config: SafeSSEConfig = PATIENT, **settings: Any) -> None:
        self.probe = Probe()
        self.app = self.kind(lambda stream: body(self.probe, self._opened(stream)), config, **settings)
        self.streams = self.app.streams

    def _opened(self, stream: StreamContext) -> StreamContext:
        self.probe.stream = stream
        stream.push_async_callback(self.probe.cleanup)
        return stream

    async def run(self, connection: Connection, **overrides: Any) -> None:
        """Serves one request, and checks that nothing is left."""
        call: dict[str, Any] = {"receive": connection.receive, "send": connection.send, **overrides}
        with anyio.fail_after(WAIT):
            await self.app(connection.scope, call["receive"], call["send"])
        self.check_empty()

    def check_empty(self) -> None:
        statistics = self.streams.statistics()
        assert len(self.streams) == statistics.open == 0
        assert sum(statistics.closed.values()) == statistics.opened


async def leave(server: Server, after: bytes = b"one") -> Connection:
    """Serves a client that leaves once it has seen something."""
    connection = Connection(leaves_after=after)
    await server.run(connection)
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED
    return connection


def check(server: Server, reason: CloseReason) -> None:
    """Checks that a stream began, ended and was cleaned up, in this order, for a reason."""
    assert server.probe.events == ["began", "finally", "cleanup"]
    assert server.probe.reason is reason
    assert server.streams.statistics().closed == {reason: 1}
