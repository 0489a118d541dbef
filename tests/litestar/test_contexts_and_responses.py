"""Contexts without a stream, and responses without a context, used twice or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from litestar import Request, get
from litestar.response import ServerSentEvent
from litestar.types import ASGIApp, Receive, Scope, Send

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamClosedError, StreamContext, StreamState
from tests.bounds import WAIT
from tests.litestar.apps import cleaned, closed, serving, to_asgi
from tests.litestar.bodies import BRIEF, Closeable, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_handler_that_returns_something_else(trace: Trace) -> None:
    """A handler that asks for a context and returns something else has its cleanups run, as completed."""

    @get("/")
    async def handler(stream: StreamContext) -> dict[str, str]:
        cleaned(trace, stream)
        return {"id": stream.id}

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert trace == ["cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_handler_that_returns_litestars_own_response(trace: Trace) -> None:
    """A handler that asks for a context and returns Litestar's ``ServerSentEvent`` has its cleanups run after it."""

    @get("/")
    async def handler(stream: StreamContext) -> ServerSentEvent:
        cleaned(trace, stream)
        return ServerSentEvent(brief(trace))  # type: ignore[arg-type]

    async with serving(handler) as (app, _):
        response = await request(app)
        assert b"data: begun" in response.body
        assert trace == BRIEF


async def test_handler_that_is_cancelled(trace: Trace) -> None:
    """A handler that the server cancels has its cleanups run, since the client has left."""
    entered = anyio.Event()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            with anyio.fail_after(WAIT):
                await entered.wait()
            connection.cancel()
        assert trace == ["cleaned: client_disconnected"]
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_client_that_leaves_while_the_handler_works(trace: Trace) -> None:
    """A client that leaves before the handler has returned is known before the body begins to wait."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            connection.leave()
            await connection.finished()
        assert trace[-1] == "cleaned: client_disconnected"
        assert trace.count("body begins") == trace.count("body ends")
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_handler_that_closes_its_stream(trace: Trace) -> None:
    """A handler that closes its stream and returns a response all the same answers an empty, complete stream."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        await stream.aclose(CloseReason.REVOKED)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert response.body == b""
        assert response.complete
        assert trace == ["cleaned: revoked"]
        assert closed(streams) == {CloseReason.REVOKED: 1}


async def test_response_used_by_several_requests() -> None:
    """One response object whose content can be iterated over again serves several requests."""
    shared = SafeServerSentEvent(lambda: ["x"])

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return shared

    async with serving(handler) as (app, streams):
        for _ in range(2):
            assert (await request(app)).body == b"data: x\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 2}


async def test_asgi_response_called_twice(trace: Trace) -> None:
    """Answering twice with one stream is a typed error for the second answer, which is not begun."""

    @get("/")
    async def handler(request: Request[Any, Any, Any]) -> ASGIApp:
        made = to_asgi(SafeServerSentEvent(brief(trace)), request)

        async def twice(scope: Scope, receive: Receive, send: Send) -> None:
            await made(scope, receive, send)
            with pytest.raises(StreamClosedError):
                await made(scope, receive, send)
            trace.append("refused")

        return twice

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body == b"data: begun\r\n\r\n"
        assert trace == ["body begins", "body ends", "refused"]


async def test_asgi_response_that_is_never_called(trace: Trace) -> None:
    """A response that was made and not used is ended with its request, and its body is closed."""

    @get("/")
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> str:
        cleaned(trace, stream)
        to_asgi(SafeServerSentEvent(Closeable(trace)), request)
        return "something else"

    async with serving(handler) as (app, streams):
        assert (await request(app)).body == b"something else"
        assert trace == ["closed", "cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_registry_used_after_the_stream_has_ended() -> None:
    """Registering something with a stream that has ended raises a typed error, and nothing is opened."""
    kept: list[StreamContext] = []
    opened: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        opened.append("async")
        yield

    @contextmanager
    def sync_resource() -> Iterator[None]:
        opened.append("sync")
        yield

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        kept.append(stream)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        await request(app)
        (stream,) = kept
        with pytest.raises(StreamClosedError):
            stream.callback(print)
        with pytest.raises(StreamClosedError):
            stream.push_async_callback(anyio.sleep, 0)
        with pytest.raises(StreamClosedError):
            stream.enter_context(sync_resource())
        with pytest.raises(StreamClosedError):
            await stream.enter_async_context(resource())
        assert opened == []
        assert stream.state is StreamState.CLOSED
        assert stream.close_reason is CloseReason.COMPLETED
        assert stream.closing
        with anyio.fail_after(WAIT):
            await stream.aclose()
            await stream.wait_closing()
