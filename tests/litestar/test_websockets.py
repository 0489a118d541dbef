"""WebSockets are left alone."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from litestar import WebSocket, websocket
from litestar.testing import TestClient
from litestar.types import Message

from litestar_safe_sse import OutsideRequestError, StreamContext
from tests.bounds import WAIT
from tests.litestar.apps import collect, make_app, serving
from tests.litestar.clients import http_scope

pytestmark = pytest.mark.anyio


def test_websockets_are_left_alone() -> None:
    """WebSockets work as they do without the plugin."""

    @websocket("/")
    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    app, streams = make_app(echo)
    with TestClient(app) as client, client.websocket_connect("/") as session:
        session.send_text("hello")
        assert session.receive_text() == "hello"
    assert streams.statistics().opened == 0


async def test_context_in_a_websocket_handler() -> None:
    """A context asked for by a WebSocket's handler is a typed error that says why there is none."""
    seen: list[Exception] = []

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], stream: StreamContext) -> None:
        await socket.accept()

    async with serving(handler, after_exception=[collect(seen)]) as (app, streams):
        sent: list[Message] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {**http_scope("/"), "type": "websocket", "subprotocols": []}
        del scope["method"]
        with anyio.fail_after(WAIT):
            await app(scope, receive, send)  # type: ignore[arg-type]
        assert [message["type"] for message in sent] == ["websocket.close"]
        assert [type(exc) for exc in seen] == [OutsideRequestError]
        assert streams.statistics().opened == 0
