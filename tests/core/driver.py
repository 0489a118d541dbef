"""An in-memory ASGI server and client, well-mannered unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from litestar import Litestar, get

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext

BOUND = 10.0
"""Seconds after which a wait has failed."""


class Connection:
    """One request: what the client does, and what it got."""

    def __init__(self, path: str = "/", method: str = "GET", leaves_after: bytes | None = None) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
            "extensions": {},
        }
        self.messages: list[dict[str, Any]] = []
        self._leaves_after = leaves_after
        self._left = anyio.Event()
        self._asked = False
        self._changed = anyio.Event()

    def leave(self) -> None:
        """The client disconnects."""
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._left.is_set():
            await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(dict(message))
        if self._leaves_after is not None and self._leaves_after in self.body:
            self.leave()
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body", True) is False

    async def until(self, condition: Callable[[Connection], object]) -> None:
        """Waits until what has been sent meets a condition."""
        with anyio.fail_after(BOUND):
            while not condition(self):
                await self._changed.wait()


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
        with anyio.fail_after(BOUND):
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
        with anyio.fail_after(BOUND):
            await self.app(connection.scope, call["receive"], call["send"])  # type: ignore[arg-type]
        self.check_empty()

    def check_empty(self) -> None:
        statistics = self.plugin.streams.statistics()
        assert len(self.plugin.streams) == statistics.open == 0
        assert sum(statistics.closed.values()) == statistics.opened
