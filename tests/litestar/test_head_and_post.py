"""Streams asked for by HEAD, which begins none, and by POST, with a body read or unread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Request, get, post, route

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext, sse
from tests.bounds import NEVER, WAIT
from tests.litestar.apps import cleaned, closed, serving
from tests.litestar.bodies import ENDLESS, Closeable, Trace, brief, endless
from tests.litestar.clients import connect, http_scope
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


async def test_head_to_a_generator(trace: Trace) -> None:
    """It is refused, unless the handler has the method; then the generator never begins, though it be prefetched."""

    @sse("/get")
    async def without() -> AsyncIterator[str]:
        trace.append("begun")
        yield "x"

    @sse("/both", method=["GET", "HEAD"])
    async def with_head() -> AsyncIterator[str]:
        trace.append("begun")
        yield "x"

    async with serving(without, with_head) as (app, streams):
        assert (await request(app, "/get", method="HEAD")).status == 405
        head = await request(app, "/both", method="HEAD")
        assert (head.status, head.bodies) == (200, [b""])
        assert trace == []
        full = await request(app, "/both")
        assert full.body == b"data: x\r\n\r\n"
        assert sorted(head.header_list) == sorted(full.header_list)
        assert closed(streams) == {CloseReason.COMPLETED: 2}


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


async def reads_it_all(request: Request[Any, Any, Any]) -> None:
    await request.json()


async def reads_its_parts(request: Request[Any, Any, Any]) -> None:
    async for _ in request.stream():
        pass


@pytest.mark.parametrize("reads", [reads_it_all, reads_its_parts])
@pytest.mark.parametrize("parts", [[b'{"data":'], [b'{"data":', b"1"], [b'{"da', b'ta":', b"1"]])
@pytest.mark.parametrize("typed", [False, True], ids=["", "@sse"])
async def test_client_that_leaves_in_the_midst_of_its_request(
    trace: Trace, reads: Any, typed: bool, parts: list[bytes]
) -> None:
    """The body, which reads the request, is cancelled: that it could not read on is no failure of its own."""
    reading, left = anyio.Event(), anyio.Event()
    messages: list[Any] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> Any:
        if messages:
            await anyio.lowlevel.checkpoint()
            return messages.pop(0)
        reading.set()
        await left.wait()
        return {"type": "http.disconnect"}

    async def events(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        try:
            await reads(stream.request)
            yield "never"
        except BaseException as exc:
            trace.append(type(exc))
            raise

    @post("/", status_code=200)
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(events(stream))

    feed = sse("/", method="POST", prefetch=NEVER)(events)

    async def send(message: Any) -> None:
        await anyio.lowlevel.checkpoint()

    async with serving(feed if typed else handler) as (app, streams), anyio.create_task_group() as group:
        group.start_soon(app, http_scope("/", "POST"), receive, send)  # type: ignore[arg-type]
        with anyio.fail_after(WAIT):
            await reading.wait()
            while streams.statistics().open == 0:
                await anyio.lowlevel.checkpoint()
        left.set()
    assert trace == [anyio.get_cancelled_exc_class(), "cleaned: client_disconnected"]


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
