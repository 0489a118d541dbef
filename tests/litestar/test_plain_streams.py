"""A stream with nothing around it: answered, left, listed, closed, and read by Litestar's test clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from litestar import get
from litestar.exceptions import LitestarException
from litestar.testing import AsyncTestClient, TestClient

from litestar_safe_sse import CloseReason, SafeServerSentEvent
from tests.bounds import WAIT
from tests.litestar.apps import cause, closed, endless_and_brief, make_app, serving_defaults
from tests.litestar.bodies import BRIEF, ENDLESS, Trace
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_response_is_an_event_stream(trace: Trace) -> None:
    """A stream is answered with the content type of the standard, and without caching or buffering on its way."""
    async with serving_defaults(trace) as (app, streams):
        response = await request(app, "/brief")
        assert response.status == 200
        assert response.headers == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
        }
        assert response.body == b"data: begun\r\n\r\n"
        assert response.complete
        assert trace == BRIEF
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_client_that_leaves_ends_the_stream(trace: Trace) -> None:
    """A client that leaves ends the body and the cleanups in this order, once each."""
    async with serving_defaults(trace) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().open == 1
        assert trace == ENDLESS
        assert not connection.complete
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_streams_can_be_listed_and_closed(trace: Trace) -> None:
    """The registry lists the live streams by handler, and ends them all for the reason given."""
    async with serving_defaults(trace) as (app, streams):
        async with connect(app, "/endless") as one, connect(app, "/endless") as two:
            await one.until_body(b"begun")
            await two.until_body(b"begun")
            assert len(streams) == 2
            assert len({stream.id for stream in streams}) == 2
            assert all("endless_handler" in stream.handler for stream in streams)
            with anyio.fail_after(WAIT):
                await streams.aclose_all(CloseReason.REVOKED)
            assert len(streams) == 0
            assert await one.finished() is None
            assert await two.finished() is None
            assert one.complete
        assert closed(streams) == {CloseReason.REVOKED: 2}
        assert trace.count("cleaned: revoked") == 2


# Test clients


def test_test_client(trace: Trace) -> None:
    """Litestar's ``TestClient`` reads a stream to its end, with and without its lifespan."""
    app, streams = make_app(*endless_and_brief(trace))
    with TestClient(app) as client:
        assert client.get("/brief").text == "data: begun\r\n\r\n"
        with client.stream("GET", "/brief") as response:
            assert list(response.iter_lines()) == ["data: begun", ""]
        assert len(streams) == 0
    assert closed(streams) == {CloseReason.COMPLETED: 2}
    with TestClient(app) as client:  # a second life of the same application
        assert client.get("/brief").status_code == 200
    assert trace == BRIEF * 3


def test_test_client_raises_what_the_body_raised() -> None:
    """``TestClient`` raises what a body raised, unless told to answer 500."""

    async def body() -> AsyncIterator[str]:
        yield "x"
        raise LookupError("in the body")

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(body())

    app, _ = make_app(handler)
    with TestClient(app) as client, pytest.raises(LitestarException) as raised:
        client.get("/")
    assert isinstance(cause(raised.value), LookupError)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").status_code in (200, 500)


async def test_async_test_client(trace: Trace) -> None:
    """Litestar's ``AsyncTestClient`` reads a stream to its end."""
    app, streams = make_app(*endless_and_brief(trace))
    async with AsyncTestClient(app) as client:
        assert (await client.get("/brief")).text == "data: begun\r\n\r\n"
        async with client.stream("GET", "/brief") as response:
            assert [line async for line in response.aiter_lines()] == ["data: begun", ""]
    assert trace == BRIEF * 2
    assert closed(streams) == {CloseReason.COMPLETED: 2}
