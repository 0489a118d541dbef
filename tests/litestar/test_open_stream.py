"""``open_stream``: endless streams in tests, with clients that leave, stall and come back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from litestar import Litestar, Request, get, post
from litestar.exceptions import ValidationException
from litestar.middleware.session.client_side import CookieBackendConfig
from msgspec import Struct

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    MissingPluginError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
)
from litestar_safe_sse._core.buffer import AT_WORK
from litestar_safe_sse.sources import MemoryEventLog
from litestar_safe_sse.testing import StreamEndedError, open_stream, open_stream_sync
from tests.bounds import SHORT
from tests.loops import ASYNCIO, TRIO, UVLOOP

pytestmark = pytest.mark.anyio


class Token(Struct):
    text: str


def work() -> None:
    """Blocks the loop for longer than what counts as being at work on the next event."""
    time.sleep(1.5 * AT_WORK)


class Story:
    """An application, and what has happened in it."""

    def __init__(self, **config: Any) -> None:
        self.events: list[str] = []
        self.plugin = SafeSSEPlugin(SafeSSEConfig(**config))

        @get("/endless")
        async def endless(stream: StreamContext) -> SafeServerSentEvent:
            async def clean() -> None:
                await anyio.lowlevel.checkpoint()
                self.events.append("cleaned")

            async def body() -> AsyncIterator[Any]:
                yield SSEMessage("first", id=stream.last_event_id or "none")
                await anyio.sleep_forever()

            stream.push_async_callback(clean)
            return SafeServerSentEvent(body())

        @post("/chat")
        async def chat(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
            data = await request.json()
            if "ask" not in data:
                raise ValidationException("ask must be given")
            request.session["asked"] = request.session.get("asked", 0) + 1

            async def body() -> AsyncIterator[Any]:
                yield SSEMessage(Token(f"{data['ask']}{request.session['asked']}"), event="token")

            return SafeServerSentEvent(body())

        @get("/fails")
        async def fails() -> SafeServerSentEvent:
            async def body() -> AsyncIterator[str]:
                yield "one"
                raise LookupError("on purpose")

            return SafeServerSentEvent(body())

        @get("/flood")
        async def flood() -> SafeServerSentEvent:
            async def body() -> AsyncIterator[str]:
                while True:
                    yield "x" * 1000

            return SafeServerSentEvent(body())

        @get("/busy")
        async def busy() -> SafeServerSentEvent:
            async def body() -> AsyncIterator[Any]:
                yield SSEMessage("first")
                for _ in range(200):
                    yield SSEMessage(comment="still at work")
                    work()
                    await anyio.lowlevel.checkpoint()

            return SafeServerSentEvent(body())

        async def on_startup() -> None:
            self.events.append("started")

        self.app = Litestar(
            [endless, chat, fails, flood, busy],
            plugins=[self.plugin],
            middleware=[CookieBackendConfig(secret=b"x" * 16).middleware],
            on_startup=[on_startup],
        )


async def test_an_endless_stream_is_read_left_and_asserted_on() -> None:
    """Status, headers, events and the last event ID are the client's; reason and cleanups are the stream's."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless", last_event_id="5") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        event = await stream.next()
        assert (event.type, event.data, event.id) == ("message", "first", "5")
        assert stream.last_event_id == "5"
        assert stream.close_reason is None
        await stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
        assert stream.cleanups == []
    assert story.events == ["started", "cleaned"]


async def test_leaving_the_block_is_leaving_the_stream() -> None:
    """A stream that is still open has ended and cleaned up when the block has been left."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless") as stream:
        await stream.next()
    assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
    assert story.events[-1] == "cleaned"
    assert len(story.plugin.streams) == 0


async def test_a_failure_in_the_block_is_raised_as_it_is() -> None:
    """Not wrapped in a group; and the stream has been cleaned up."""
    story = Story()
    with pytest.raises(ZeroDivisionError):
        async with open_stream(story.app, "GET", "/endless"):
            _ = 1 / 0
    assert story.events[-1] == "cleaned"


async def test_a_posted_body_is_answered_with_typed_events_and_sessions_are_kept() -> None:
    """A jar of cookies keeps the session from one request to the next."""
    story, jar = Story(), httpx.Cookies()
    for number in (1, 2):
        async with open_stream(story.app, "POST", "/chat", json={"ask": "why"}, cookies=jar) as stream:
            event = await stream.next()
            assert event.type == "token"
            assert event.json(Token) == Token(f"why{number}")
            with pytest.raises(StreamEndedError, match="the response was ended"):
                await stream.next()
            assert stream.complete
            await stream.wait_closed()
            assert stream.close_reason is CloseReason.COMPLETED


async def test_no_wait_is_without_a_bound() -> None:
    """A time-out says what was waited for, and how the stream fares."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless", timeout=SHORT) as stream:
        await stream.next()
        with pytest.raises(TimeoutError, match=r"the next event has not come within 0\.3 s; GET /endless: Stream"):
            await stream.next()
        with pytest.raises(TimeoutError, match="the end of the stream"):
            await stream.wait_closed()


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP, TRIO])
async def test_a_busy_body_holds_up_no_time_out() -> None:
    """Neither that of a wait, nor that of a test around it, though something comes at every turn of the loop."""
    story = Story()
    async with open_stream(story.app, "GET", "/busy") as stream:
        await stream.next()
        with pytest.raises(TimeoutError, match="the next event"):
            await stream.next(timeout=0.01)
        with anyio.move_on_after(0.01) as around:
            await stream.next()
        assert around.cancelled_caught


async def test_what_the_application_raises_is_raised() -> None:
    """A body that fails cuts its response; the error is raised when the block is left, unless it is not wanted."""
    story = Story()
    seen: list[str] = []

    async def visit() -> None:
        async with open_stream(story.app, "GET", "/fails") as stream:
            seen.extend([event.data async for event in stream])
            assert not stream.complete

    with pytest.raises(LookupError, match="on purpose"):
        await visit()
    assert seen == ["one"]
    async with open_stream(story.app, "GET", "/fails", raise_app_exceptions=False) as stream:
        await stream.wait_closed()
    assert stream.close_reason is CloseReason.ERROR
    assert stream.exception is not None


async def test_a_shutdown_ends_the_stream() -> None:
    """As a server's does: the reason is told, the end is a proper one, and newcomers are not admitted."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless") as stream:
        await stream.next()
        await stream.shutdown()
        assert stream.complete
        assert stream.close_reason is CloseReason.SHUTDOWN


async def test_a_client_that_stalls_is_given_up() -> None:
    """And one that reads on in time is not."""
    story = Story(send_timeout=0.2, ping_interval=None)
    async with open_stream(story.app, "GET", "/flood") as stream:
        await stream.next()
        stream.stall()
        stream.resume()
        await stream.next()
        stream.stall()
        await stream.wait_closed()
    assert stream.close_reason is CloseReason.SEND_TIMEOUT


async def test_heartbeats_are_seen_as_comments() -> None:
    """They can be waited for."""
    story = Story(ping_interval=0.02)
    async with open_stream(story.app, "GET", "/endless") as stream:
        assert await stream.wait_comment() == "ping"
        assert "ping" in stream.comments


async def test_an_error_response_can_be_read() -> None:
    """What is no stream has a status and a body."""
    story = Story()
    async with open_stream(story.app, "POST", "/chat", json={"unknown": 1}) as response:
        assert response.status == 400
        assert b"ask" in await response.read()
    assert response.close_reason is None
    assert response.statistics() is None


@pytest.mark.parametrize("wait", ["next", "wait_comment"])
async def test_an_event_of_an_error_response_is_an_error_that_tells_the_status(wait: str) -> None:
    """Ahead of all else, with the beginning of what the response says."""
    async with open_stream(Story().app, "GET", "/nowhere") as response:
        with pytest.raises(StreamEndedError) as raised:
            await getattr(response, wait)()
    told = str(raised.value)
    assert told.startswith("the response has the status 404 and application/json, and was ended: '{")
    assert "Not Found" in told


@pytest.mark.parametrize("debug", [False, True])
async def test_an_event_of_a_failed_handler_is_an_error_that_tells_how_to_learn_why(debug: bool) -> None:
    """Litestar answers 500, and keeps the reason for a log that may be switched off."""

    @get("/", sync_to_thread=False)
    def failing() -> SafeServerSentEvent:
        raise KeyError("on purpose")

    app = Litestar([failing], plugins=[SafeSSEPlugin()], debug=debug)
    async with open_stream(app, "GET", "/") as response:
        with pytest.raises(StreamEndedError, match="the response has the status 500") as raised:
            await response.next()
    assert ('LoggingConfig(log_exceptions="always")' in str(raised.value)) is not debug


@pytest.mark.parametrize("last_event_id", ["plain", "é€", "", 5])
async def test_a_client_resumes_as_browsers_do(last_event_id: str | int) -> None:
    """The header is UTF-8; in Python an ID may be a number."""
    headers = {"last-event-id": "another"}
    async with open_stream(Story().app, "GET", "/endless", headers=headers, last_event_id=last_event_id) as stream:
        assert (await stream.next()).id == str(last_event_id or "none")


async def test_several_streams_share_the_lifespan() -> None:
    """A second one joins the lifespan that the first has entered."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless") as one, open_stream(story.app, "GET", "/endless") as two:
        await one.next()
        await two.next()
        await one.half_close()
        assert two.close_reason is None
    assert story.events == ["started", "cleaned", "cleaned"]


async def test_bad_input_is_refused() -> None:
    """An application without the plugin, and a time-out that is none."""
    with pytest.raises(MissingPluginError, match="must have the plugin"):
        async with open_stream(Litestar([]), "GET", "/"):
            pass
    with pytest.raises(InvalidFieldError, match="timeout"):
        async with open_stream(Story().app, "GET", "/endless", timeout=0):
            pass


async def test_a_stream_and_another_request_take_turns() -> None:
    """What hangs in a client that collects the response first: to publish while the stream is open, and to see it."""
    log = MemoryEventLog()

    @get("/news")
    async def news(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(log.subscribe("news"))

    @post("/news")
    async def publish(request: Request[Any, Any, Any]) -> None:
        await log.append("news", (await request.json())["text"])

    app = Litestar([news, publish], plugins=[SafeSSEPlugin()])
    async with open_stream(app, "GET", "/news") as stream:
        for text in ("one", "two"):
            async with open_stream(app, "POST", "/news", json={"text": text}) as answer:
                assert answer.status == 201
            event = await stream.next()
            while event.type != "message":  # the log tells that it has subscribed
                event = await stream.next()
            assert event.data == text
        assert stream.close_reason is None


async def test_the_transport_of_httpx_returns_a_stream_only_when_it_has_ended() -> None:
    """Which an endless one never does."""
    ended: list[str] = []

    @get("/")
    async def short() -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield "one"
            await anyio.lowlevel.checkpoint()
            ended.append("body")

        return SafeServerSentEvent(body())

    app = Litestar([short], plugins=[SafeSSEPlugin()])
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with client, client.stream("GET", "/"):
        assert ended == ["body"]


def test_a_plain_function_can_do_the_same() -> None:
    """The twin waits where the other is awaited."""
    story = Story()
    with open_stream_sync(story.app, "GET", "/endless", last_event_id="7") as stream:
        assert stream.status == 200
        assert stream.next().id == "7"
        stream.stall()
        stream.resume()
        stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
    with open_stream_sync(story.app, "POST", "/chat", json={"ask": "why"}) as chat:
        assert [event.json(Token).text for event in chat] == ["why1"]
    with open_stream_sync(story.app, "GET", "/endless") as stream:
        stream.next()
        stream.shutdown()
        assert stream.close_reason is CloseReason.SHUTDOWN
