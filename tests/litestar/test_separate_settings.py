"""What one response was made with reaches no other response of its handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Request, get

from litestar_safe_sse import SafeServerSentEvent
from tests.litestar.apps import serving, to_asgi
from tests.litestar.bodies import Closeable, Trace
from tests.litestar.clients import get as request

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


async def seven() -> AsyncIterator[Money]:
    yield Money(7)


def answering(response: Any, when: str = "early", **options: Any) -> Any:
    """Middleware that answers requests with a certain query itself, with a response and what it passes on to it."""

    def middleware(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["query_string"] == when.encode():
                await to_asgi(response(), Request(scope), **options)(scope, receive, send)
            else:
                await app(scope, receive, send)

        return call

    return middleware


async def test_encoder_of_a_response_without_the_layers_encoders() -> None:
    """Middleware that answers by a stream, as Litestar's own idiom is, leaves the handler's ``type_encoders`` alone."""
    early = answering(lambda: SafeServerSentEvent(["full"]))

    @get("/", type_encoders={Money: lambda money: f"{money.amount} EUR"}, middleware=[early])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(seven())

    async with serving(handler) as (app, _):
        assert (await request(app, "/?early")).body == b"data: full\r\n\r\n"
        for _ in range(2):
            assert (await request(app)).body == b'data: "7 EUR"\r\n\r\n'


async def test_type_encoders_that_are_changed_in_place() -> None:
    """Type encoders are used as they are when a response is made."""
    encoders: dict[Any, Any] = {Money: lambda money: f"{money.amount} EUR"}
    early = answering(lambda: SafeServerSentEvent(seven()), type_encoders=encoders)

    @get("/", middleware=[early])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        assert (await request(app, "/?early")).body == b'data: "7 EUR"\r\n\r\n'
        encoders[Money] = lambda money: f"{money.amount} USD"
        assert (await request(app, "/?early")).body == b'data: "7 USD"\r\n\r\n'


async def test_headers_that_are_changed_in_place() -> None:
    """Headers that middleware keeps in one dict, and changes for each client, are each client's own."""
    headers: dict[str, str] = {}
    early = answering(lambda: SafeServerSentEvent(["x"]), headers=headers)

    @get("/", middleware=[early])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        for name in ("alice", "bob"):
            headers["X-User"] = name
            assert (await request(app, "/?early")).headers["x-user"] == name
        assert "x-user" not in (await request(app)).headers


async def test_headers_that_a_hook_adds() -> None:
    """A header that ``after_request`` adds to one client's response is not sent to the next one."""
    seen: list[str] = []

    async def after_request(response: Any) -> Any:
        if not seen:
            response.headers["X-User"] = "alice"
        seen.append("response")
        return response

    @get("/", after_request=after_request)
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        assert (await request(app)).headers["x-user"] == "alice"
        assert "x-user" not in (await request(app)).headers


async def test_settings_of_a_response_that_another_one_replaced(trace: Trace) -> None:
    """A response that replaces another one of the same request has none of its settings, and the other's body ends."""

    @get("/")
    async def handler(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        if "replace" in request.query_params:
            to_asgi(SafeServerSentEvent(Closeable(trace), separator="\r", headers={"X-User": "alice"}), request)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        for path in ("/?replace=1", "/"):
            response = await request(app, path)
            assert response.body == b"data: x\r\n\r\n"
            assert "x-user" not in response.headers
        assert trace == ["closed"]
