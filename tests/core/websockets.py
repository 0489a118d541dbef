"""A WebSocket in memory: its client, and an application that streams over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from litestar_safe_sse._core.json_lines import JSONLines
from litestar_safe_sse._core.stream import Stream
from litestar_safe_sse._core.websocket import WebSocketChannel, WebSocketTransport
from tests.bounds import WAIT
from tests.core.apps import App, Server
from tests.core.clients import Connection


class Socket(Connection):
    """A WebSocket: what the client does, and what it got.

    Args:
        leaves_after: The client leaves once a message has this text in it.
    """

    def __init__(self, leaves_after: bytes | None = None) -> None:
        super().__init__(leaves_after=leaves_after)
        self.scope = {**self.scope, "type": "websocket", "scheme": "ws", "subprotocols": []}
        del self.scope["method"]
        self._said = [{"type": "websocket.connect"}]
        self._news = anyio.Event()

    def say(self, text: str) -> None:
        """The client sends a message."""
        self._said.append({"type": "websocket.receive", "text": text})
        self._news.set()

    def leave(self, code: int = 1006) -> None:
        """The client disconnects."""
        self._said.append({"type": "websocket.disconnect", "code": code})  # type: ignore[dict-item]
        self._news.set()

    async def receive(self) -> dict[str, Any]:
        while not self._said:
            self._news = anyio.Event()
            await self._news.wait()
        return self._said.pop(0)

    @property
    def body(self) -> bytes:
        return b"\n".join(
            message.get("text", "").encode() or message.get("bytes", b"")
            for message in self.messages
            if message["type"] == "websocket.send"
        )

    @property
    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("websocket.") for message in self.messages]

    @property
    def code(self) -> int | None:
        """What the WebSocket has been closed by."""
        last = self.messages[-1]
        return last["code"] if last["type"] == "websocket.close" else None


class WebSocketApp(App):
    async def _respond(self, stream: Stream, content: Any, scope: Any, receive: Any, send: Any) -> None:
        settings = {**self._settings}
        binary = settings.pop("binary", False)
        config = replace(stream.config, **settings)
        stream.accept(content, JSONLines(), config)
        channel = WebSocketChannel(receive, send)
        limit = config.buffer_size
        await stream.serve(WebSocketTransport(scope, channel, runtime=stream.runtime, limit=limit, binary=binary))


class WebSocketServer(Server):
    """A server of one application, whose one stream goes over a WebSocket."""

    kind = WebSocketApp


async def until_sent(socket: Socket, text: bytes) -> None:
    with anyio.fail_after(WAIT):
        await socket.until(lambda got: text in got.body)
