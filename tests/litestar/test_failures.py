"""Handlers, bodies, items and parameters that fail: reported, and cleaned up after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Request, Response, get
from litestar.di import Provide
from litestar.response import ServerSentEventMessage

from litestar_safe_sse import CloseReason, InvalidFieldError, SafeServerSentEvent, StreamContext
from tests.litestar.apps import NamedDependency, cause, cleaned, closed, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_handler_that_raises_is_answered_by_its_exception_handler(trace: Trace) -> None:
    """A handler that raises has its cleanups run as an error, before its exception handler answers."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    def answer(request: Request[Any, Any, Any], exc: LookupError) -> Response[str]:
        trace.append("exception handler")
        return Response(str(exc), status_code=418, media_type="text/plain")

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        response = await request(app)
        assert response.status == 418
        assert response.body == b"in the handler"
        assert trace == ["cleaned: error", "exception handler"]
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize("injected", [False, True])
async def test_exception_handler_may_answer_with_a_stream(trace: Trace, injected: bool) -> None:
    """An exception handler can tell of the error in an event, although the handler's own stream has ended."""

    async def take(stream: StreamContext) -> None:
        cleaned(trace, stream)

    @get("/", dependencies={"taken": Provide(take)} if injected else {})
    async def handler(taken: NamedDependency[Any] = None) -> SafeServerSentEvent:
        raise LookupError("in the handler")

    def answer(request: Request[Any, Any, Any], exc: LookupError) -> SafeServerSentEvent:
        return SafeServerSentEvent([str(exc)], event_type="error", status_code=200)

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert response.body == b"event: error\r\ndata: in the handler\r\n\r\n"
        assert response.complete
        assert trace == (["cleaned: error"] if injected else [])
        assert closed(streams)[CloseReason.COMPLETED] == 1


async def test_handler_that_raises_rolls_back(trace: Trace) -> None:
    """A context that a handler entered before it raised is left with an exception, as a block around it would be."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as exc:
            trace.append(type(exc))
            raise
        else:
            trace.append("committed")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(transaction())
        raise LookupError("in the handler")

    async with serving(handler) as (app, _):
        await request(app)
        assert trace == [LookupError]


@pytest.mark.parametrize("position", [0, 1, 3])
async def test_body_that_raises(trace: Trace, position: int) -> None:
    """A body that raises sends what came before, leaves the response without an end, cleans up, and is reported."""

    async def body() -> AsyncIterator[int]:
        for number in range(position):
            yield number
        raise LookupError("in the body")

    def answer(request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
        raise AssertionError("the response had started")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body())

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert connection.body == b"".join(b"data: %d\r\n\r\n" % number for number in range(position))
        assert not connection.complete
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


INVALID_ITEMS = [
    None,
    {"event": "a\nb", "data": 1},
    {"id": "a\0b", "data": 1},
    {"retry": -1},
    {"unknown": 1},
    {},
    b"\xff",
    "\ud800",
    object(),
    ServerSentEventMessage("x", event="a\rdata: forged"),
    ServerSentEventMessage("x", retry="5\ndata: forged"),  # type: ignore[arg-type]
    ServerSentEventMessage("x", sep="X"),
    ["a", object()],
]


@pytest.mark.parametrize("item", INVALID_ITEMS, ids=[str(number) for number in range(len(INVALID_ITEMS))])
async def test_body_that_yields_an_invalid_item(trace: Trace, item: object) -> None:
    """An item that cannot be sent ends the stream as an error, and not a byte of it is written."""

    async def body() -> AsyncIterator[object]:
        try:
            yield "before"
            yield item
            yield "after"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            trace.append("body ends")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), InvalidFieldError)
        assert connection.body == b"data: before\r\n\r\n"
        assert not connection.complete
        assert trace == ["body ends", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"ping_interval": 0}, "ping_interval"),
        ({"ping_interval": -1}, "ping_interval"),
        ({"ping_interval": float("nan")}, "ping_interval"),
        ({"send_timeout": 0}, "send_timeout"),
        ({"max_lifetime": float("inf")}, "max_lifetime"),
        ({"cleanup_timeout": "1"}, "cleanup_timeout"),
        ({"shutdown_grace": -1}, "shutdown_grace"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"separator": ""}, "separator"),
        ({"separator": "X"}, "separator"),
        ({"event_type": "a\nb"}, "event_type"),
        ({"event_id": "a\0b"}, "event_id"),
        ({"event_id": True}, "event_id"),
        ({"retry_duration": -1}, "retry_duration"),
        ({"retry_duration": 1.5}, "retry_duration"),
        ({"comment_message": 5}, "comment_message"),
        ({"comment_message": "\ud800"}, "comment_message"),
        ({"status_code": "200"}, "status_code"),
        ({"status_code": 103}, "status_code"),
        ({"status_code": 204}, "status_code"),
    ],
)
def test_invalid_parameters_of_a_response(parameters: dict[str, Any], field: str) -> None:
    """A parameter that cannot be sent or used is refused where the response is made, by name."""
    with pytest.raises(InvalidFieldError) as raised:
        SafeServerSentEvent(["x"], **parameters)
    assert raised.value.field == field


async def a_coroutine() -> str:
    return "x"


@pytest.mark.parametrize("make", [lambda: None, a_coroutine, lambda: list])
def test_content_that_can_be_no_body(make: Callable[[], Any]) -> None:
    """Content that can be no body is refused where the response is made."""
    with pytest.raises(InvalidFieldError) as raised:
        SafeServerSentEvent(make())
    assert raised.value.field == "content"


async def test_invalid_parameters_in_a_handler_leak_nothing(trace: Trace) -> None:
    """A handler whose response is refused has its cleanups run."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), ping_interval=0)

    async with serving(handler) as (app, _):
        assert (await request(app)).status == 500
        assert trace == ["cleaned: error"]
