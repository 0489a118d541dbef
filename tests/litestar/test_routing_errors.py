"""Requests that Litestar can't route, and for which it runs no middleware: an exception handler may stream to them."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, Request, get

from litestar_safe_sse import CloseReason, MissingPluginError, SafeServerSentEvent
from tests.litestar.apps import PLAIN, closed, collect, serving, to_asgi
from tests.litestar.bodies import ENDLESS, Closeable, Trace, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

MISSES = [("GET", "/nowhere", 404), ("DELETE", "/", 405)]


@get("/")
async def index() -> str:
    return "index"


def problem(_: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
    """Tells of an error by an event."""
    status = getattr(exc, "status_code", 500)
    return SafeServerSentEvent([{"event": "problem", "data": type(exc).__name__}], status_code=status)


@pytest.mark.parametrize(("method", "path", "status"), MISSES)
async def test_error_is_told_by_an_event(method: str, path: str, status: int) -> None:
    """An exception handler can tell of a 404 or 405 by a stream."""
    async with serving(index, exception_handlers={Exception: problem}) as (app, streams):
        for count in (1, 2):
            response = await request(app, path, method=method)
            assert response.status == status
            assert response.body.startswith(b"event: problem\r\ndata: ")
            assert response.complete
            assert closed(streams) == {CloseReason.COMPLETED: count}


@pytest.mark.parametrize(("method", "path", "status"), MISSES)
async def test_client_that_leaves_such_a_stream(trace: Trace, method: str, path: str, status: int) -> None:
    """Such a stream ends when its client leaves, like any other."""

    def stay(_: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace), status_code=status)

    async with serving(index, exception_handlers={Exception: stay}) as (app, streams):
        async with connect(app, path, method=method) as connection:
            await connection.until_body(b"begun")
        assert connection.status == status
        assert trace == ENDLESS[:2]
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_such_a_stream_that_is_refused(trace: Trace) -> None:
    """It is refused at a shutdown like any other, and its body closed."""

    def answer(_: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace), status_code=404)

    async with serving(index, exception_handlers={Exception: answer}) as (app, streams):
        streams.begin_drain()
        assert (await request(app, "/nowhere")).status == 503
        response = await request(app, "/nowhere", headers=[("Accept", "text/event-stream")])
        assert response.status == 200
        assert response.body.startswith(b"retry: ")
        assert trace == ["closed", "closed"]


async def test_such_a_stream_by_head(trace: Trace) -> None:
    """HEAD begins no body there either, and closes it."""

    def answer(_: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace), status_code=404)

    async with serving(index, exception_handlers={Exception: answer}) as (app, streams):
        response = await request(app, "/nowhere", method="HEAD")
        assert response.status == 404
        assert response.body == b""
        assert trace == ["closed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_such_a_stream_that_is_replaced(trace: Trace) -> None:
    """The body of a response that another one replaces is closed there too."""

    def answer(request: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
        to_asgi(SafeServerSentEvent(Closeable(trace)), request)
        return SafeServerSentEvent(["x"], status_code=404)

    async with serving(index, exception_handlers={Exception: answer}) as (app, _):
        assert (await request(app, "/nowhere")).body == b"data: x\r\n\r\n"
        assert trace == ["closed"]


async def test_application_without_the_plugin() -> None:
    """Where there is no plugin, the error says so."""
    seen: list[Exception] = []
    app = Litestar([index], exception_handlers={Exception: problem}, after_exception=[collect(seen)], **PLAIN)
    async with connect(app, "/nowhere") as connection:
        assert isinstance(await connection.finished(), MissingPluginError)
