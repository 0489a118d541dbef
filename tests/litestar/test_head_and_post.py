"""Streams asked for by HEAD, which begins none, and by POST, with a body read or unread."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Request, get, post, route

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext
from tests.litestar.apps import cleaned, closed, serving
from tests.litestar.bodies import ENDLESS, Closeable, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


# HEAD


async def test_head_never_starts_the_body(trace: Trace) -> None:
    """HEAD is answered with the headers of GET and one empty, final body; the body never begins."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace), headers={"X-Stream": "1"}, cookies={"a": "b"}, comment_message="hello")

    async with serving(handler) as (app, streams):
        head = await request(app, method="HEAD")
        assert trace == ["cleaned: completed"]
        assert head.bodies == [b""]
        assert head.complete
        full = await request(app)
        assert head.status == full.status
        assert sorted(head.header_list) == sorted(full.header_list)
        assert closed(streams) == {CloseReason.COMPLETED: 2}


async def test_head_without_a_context(trace: Trace) -> None:
    """HEAD to a handler that asks for no context starts no body either."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        head = await request(app, method="HEAD")
        assert head.bodies == [b""]
        assert trace == []
        assert streams.statistics().closed == {CloseReason.COMPLETED: 1}


async def test_head_closes_a_body_that_was_never_started(trace: Trace) -> None:
    """HEAD closes the body that it does not start, since it may hold something already."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace))

    async with serving(handler) as (app, _):
        await request(app, method="HEAD")
        assert trace == ["closed"]


# POST


@pytest.mark.parametrize("chunks", [[b'"a"'], [b'"', b"a", b'"'], [b'"a"', b""]])
async def test_post_with_its_body_read(trace: Trace, chunks: list[bytes]) -> None:
    """A POST whose body the handler has read streams, and ends when the client leaves."""

    @post("/", status_code=200)
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace, await request.json()))

    async with serving(handler) as (app, _):
        async with connect(app, method="POST", chunks=chunks) as connection:
            await connection.until_body(b"data: a")
        assert trace == ENDLESS


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x"] * 100])
async def test_post_with_its_body_unread(trace: Trace, chunks: list[bytes]) -> None:
    """A POST whose body nobody reads streams, and ends when the client leaves."""

    @post("/", status_code=200)
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        async with connect(app, method="POST", chunks=chunks) as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().open == 1
        assert trace == ENDLESS


async def test_request_of_the_context_reads_the_body() -> None:
    """``stream.request`` is a full request: the body can be read through it."""

    @post("/", status_code=200)
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent([await stream.request.json()])

    async with serving(handler) as (app, _):
        response = await request(app, method="POST", chunks=[b'{"data":', b"1}"])
        assert response.body == b"data: 1\r\n\r\n"


class CustomRequest(Request[Any, Any, Any]):
    pass


async def test_request_of_the_context_is_the_handlers_class() -> None:
    """``stream.request`` is of the handler's own request class, and sees the same state."""

    @get("/{name:str}", request_class=CustomRequest)
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        request.state.seen = "seen"
        assert isinstance(stream.request, CustomRequest)
        assert stream.request.state.seen == "seen"
        return SafeServerSentEvent([f"{stream.request.path_params['name']} {stream.request.query_params['q']}"])

    async with serving(handler) as (app, _):
        assert (await request(app, "/ada?q=1")).body == b"data: ada 1\r\n\r\n"
