"""Litestar's hooks before, during and after a stream: called as ever, and free to raise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Request, Response, get
from litestar.types import Message, Scope

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext, sse
from tests.bounds import WAIT
from tests.litestar.apps import cleaned, closed, endless_and_brief, serving, serving_defaults
from tests.litestar.bodies import BRIEF, ENDLESS, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_before_request_may_return_a_stream(trace: Trace) -> None:
    """A stream that ``before_request`` returns takes the handler's place."""

    async def before_request(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        return SafeServerSentEvent(brief(trace, "from the hook"))

    async with serving_defaults([], before_request=before_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.body == b"data: from the hook\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_after_request_may_change_the_response(trace: Trace) -> None:
    """What ``after_request`` sets on the response is sent."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        assert isinstance(response, SafeServerSentEvent)
        response.set_header("X-After", "request")
        response.set_cookie("after", "request")
        return response

    async with serving_defaults(trace, after_request=after_request) as (app, _):
        response = await request(app, "/brief")
        assert response.headers["x-after"] == "request"
        assert response.headers["set-cookie"].startswith("after=request")
        assert trace == BRIEF


async def test_after_request_may_replace_the_response(trace: Trace) -> None:
    """A stream whose response ``after_request`` replaces has its cleanups run, and its body never begins."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        return Response("instead", media_type="text/plain")

    async with serving_defaults(trace, after_request=after_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.body == b"instead"
        assert trace == ["cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_after_request_that_raises(trace: Trace) -> None:
    """A stream whose ``after_request`` raises has its cleanups run, and its body never begins."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        raise LookupError

    async with serving_defaults(trace, after_request=after_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.status == 500
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_before_send_sees_each_message(trace: Trace) -> None:
    """``before_send`` is called for the start, for each body message and for the end."""
    seen: list[str] = []

    async def before_send(message: Message, scope: Scope) -> None:
        seen.append(message["type"])
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-before", b"send")]

    async with serving_defaults(trace, before_send=[before_send]) as (app, _):
        response = await request(app, "/brief")
        assert response.headers["x-before"] == "send"
        assert seen == [message["type"] for message in response.sent]
        assert seen[0] == "http.response.start"


@pytest.mark.parametrize("path", ["/feed", "/endless"])
async def test_a_commit_in_before_send_is_not_cut_short(trace: Trace, path: str) -> None:
    """A client that leaves while ``before_send`` is at work on the headers ends the stream, and not that work."""
    committing, go_on = anyio.Event(), anyio.Event()

    @sse("/feed")
    async def feed(stream: StreamContext) -> AsyncIterator[object]:
        cleaned(trace, stream)
        async for event in endless(trace):
            yield event

    async def before_send(message: Message, scope: Scope) -> None:
        if message["type"] == "http.response.start":
            committing.set()
            await go_on.wait()
            trace.append("committed")

    async with serving(feed, *endless_and_brief(trace), before_send=[before_send]) as (app, streams):
        async with connect(app, path) as connection:
            with anyio.fail_after(WAIT):
                await committing.wait()
            connection.leave()
            with anyio.fail_after(WAIT):
                while len(streams):
                    await anyio.lowlevel.checkpoint()
            assert trace[-1] == "cleaned: client_disconnected"
            go_on.set()
            await connection.finished()
        assert trace[-1] == "committed"
        assert connection.body == b""


@pytest.mark.parametrize("moment", ["http.response.start", "http.response.body"])
async def test_before_send_that_raises(trace: Trace, moment: str) -> None:
    """A ``before_send`` that raises ends the stream as an error, with its cleanups."""

    async def before_send(message: Message, scope: Scope) -> None:
        if message["type"] == moment and not scope["state"].get("raised"):
            scope["state"]["raised"] = True
            raise LookupError

    async with serving_defaults(trace, before_send=[before_send]) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.finished()
        assert trace[-1] == "cleaned: error"
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize("path", ["/brief", "/endless"])
async def test_after_response_runs_after_the_cleanup(trace: Trace, path: str) -> None:
    """``after_response`` runs once, when everything has been given back, also when the client left."""

    async def after_response(request: Request[Any, Any, Any]) -> None:
        trace.append("after response")

    async with serving_defaults(trace, after_response=after_response) as (app, _):
        async with connect(app, path) as connection:
            if path == "/brief":
                await connection.finished()
            else:
                await connection.until_body(b"begun")
        assert trace == [*(BRIEF if path == "/brief" else ENDLESS), "after response"]


async def test_after_exception_of_the_user_is_kept(trace: Trace) -> None:
    """The user's ``after_exception`` hook sees what a handler raised."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    async def after_exception(exc: Exception, scope: Scope) -> None:
        trace.append(repr(exc))

    async with serving(handler, after_exception=[after_exception]) as (app, streams):
        response = await request(app)
        assert response.status == 500
        assert sorted(trace) == ["LookupError('in the handler')", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_after_exception_that_raises(trace: Trace) -> None:
    """A user's ``after_exception`` hook that raises does not keep the stream from being ended."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    async def after_exception(exc: Exception, scope: Scope) -> None:
        raise ValueError("in the hook")

    async with serving(handler, after_exception=[after_exception]) as (app, streams):
        async with connect(app) as connection:
            await connection.finished()
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}
