"""Settings of one response go before those of its application."""

from __future__ import annotations

import pytest
from litestar import get

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, SSEMessage, StreamContext
from tests.litestar.apps import cleaned, closed, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_settings_of_a_response_go_before_the_plugins() -> None:
    """A response's own settings are in force for its stream, and for no other."""

    @get("/own")
    async def own() -> SafeServerSentEvent:
        return SafeServerSentEvent([SSEMessage("a\nb", comment="c")], separator="\n", retry_duration=5)

    @get("/plugin")
    async def plugins() -> SafeServerSentEvent:
        return SafeServerSentEvent(["a"])

    config = SafeSSEConfig(retry=7, separator="\r")
    async with serving(own, plugins, config=config) as (app, _):
        assert (await request(app, "/own")).body == b": c\ndata: a\ndata: b\nretry: 5\n\n"
        assert (await request(app, "/plugin")).body == b"retry: 7\rdata: a\r\r"


async def test_max_lifetime_of_a_response(trace: Trace) -> None:
    """``max_lifetime`` given to a response ends its stream, completely, for the client to reconnect."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), max_lifetime=0.3)

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.complete
        assert trace == ["body begins", "body ends", "cleaned: max_lifetime"]
        assert closed(streams) == {CloseReason.MAX_LIFETIME: 1}


async def test_type_encoders_of_each_layer() -> None:
    """Objects that msgspec does not know are encoded by the type encoders of the layers, the nearest first."""

    class Odd:
        pass

    class Even:
        pass

    @get("/", type_encoders={Even: lambda _: "handler"})
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent([Odd(), {"data": [Even()]}], type_encoders={Odd: lambda _: "response"})

    async with serving(handler, type_encoders={Odd: lambda _: "app", Even: lambda _: "app"}) as (app, _):
        assert (await request(app)).body == b'data: "response"\r\n\r\ndata: ["handler"]\r\n\r\n'
