"""Applications with one stream, and a probe of what happens to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from litestar import Litestar, get

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from tests.bounds import WAIT
from tests.core.clients import Connection


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

    async def cleanup(self) -> None:
        assert self.stream is not None
        self.reason = self.stream.close_reason
        await anyio.sleep(0.001)
        self.note("cleanup")


Body = Callable[[Probe, StreamContext], Any]


class Server:
    """An application with one stream, made of a body."""

    def __init__(self, body: Body, config: SafeSSEConfig | None = None, **response: Any) -> None:
        self.plugin = SafeSSEPlugin(config or SafeSSEConfig())
        self.probe = Probe()

        @get("/")
        async def handler(stream: StreamContext) -> SafeServerSentEvent:
            self.probe.stream = stream
            stream.push_async_callback(self.probe.cleanup)
            return SafeServerSentEvent(body(self.probe, stream), **response)

        self.app = Litestar([handler], plugins=[self.plugin], logging_config=None)

    async def run(self, connection: Connection, **overrides: Any) -> None:
        """Serves one request, and checks that nothing is left."""
        call: dict[str, Any] = {"receive": connection.receive, "send": connection.send, **overrides}
        with anyio.fail_after(WAIT):
            await self.app(connection.scope, call["receive"], call["send"])  # type: ignore[arg-type]
        self.check_empty()

    def check_empty(self) -> None:
        statistics = self.plugin.streams.statistics()
        assert len(self.plugin.streams) == statistics.open == 0
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
    assert server.plugin.streams.statistics().closed == {reason: 1}
