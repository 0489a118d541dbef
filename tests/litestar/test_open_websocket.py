"""``open_websocket``: endless streams over WebSockets in tests, by the same means as those over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from litestar import Litestar, WebSocket, websocket
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    MissingPluginError,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
    sse,
    sse_websocket,
)
from litestar_safe_sse.testing import StreamEndedError, open_stream, open_websocket, open_websocket_sync
from tests.bounds import SHORT

pytestmark = pytest.mark.anyio


class Token(Struct, tag="token"):
    text: str


def is_friend(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if connection.headers.get("Origin") != "http://friend":
        raise NotAuthorizedException


class Story:
    """An application, and what has happened in it."""

    def __init__(self, **config: Any) -> None:
        self.events: list[str] = []
        self.plugin = SafeSSEPlugin(SafeSSEConfig(**config))

        async def clean() -> None:
            await anyio.lowlevel.checkpoint()
            self.events.append("cleaned")

        @sse("/endless", websocket="/endless/ws")
        async def endless(stream: StreamContext) -> AsyncIterator[str | SSEMessage]:
            stream.push_async_callback(clean)
            yield SSEMessage("first", id=stream.last_event_id or "none")
            await anyio.sleep_forever()

        @sse("/tokens", websocket="/tokens/ws")
        async def tokens() -> AsyncIterator[Token | str]:
            yield Token("one")
            yield '"quoted"\nand two lines'

        @sse_websocket("/asked", resume_timeout=5, mode="binary")
        async def asked(stream: StreamContext) -> AsyncIterator[str]:
            yield f"after {stream.last_event_id}"
            await anyio.sleep_forever()

        @sse_websocket("/fails")
        async def fails(stream: StreamContext) -> AsyncIterator[str]:
            def fail() -> None:
                raise OSError("no cleanup")

            stream.callback(fail)
            yield "one"
            raise LookupError("on purpose")

        @sse_websocket("/flood")
        async def flood() -> AsyncIterator[str]:
            while True:
                yield "x" * 1000

        @sse_websocket("/guarded", guards=[is_friend])
        async def guarded() -> AsyncIterator[str]:
            yield "one"

        @websocket("/own")
        async def own(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept(subprotocols="v1", headers={"Set-Cookie": "seen=yes"})
            await socket.send_text(f"said {await socket.receive_text()}, with {socket.cookies.get('seen')}")
            await socket.close(code=4000, reason="enough")

        async def on_startup() -> None:
            self.events.append("started")

        handlers: list[Any] = [endless, tokens, asked, fails, flood, guarded, own]
        self.app = Litestar(handlers, plugins=[self.plugin], on_startup=[on_startup])


@pytest.mark.parametrize("code", [1000, 1001, 1006])
async def test_an_endless_stream_is_read_left_and_asserted_on(code: int) -> None:
    """The acceptance, events and the last event ID are the client's; reason and cleanups are the stream's."""
    story = Story()
    async with open_websocket(story.app, "/endless/ws") as stream:
        assert (stream.status, stream.accepted, stream.close_code) == (101, True, None)
        event = await stream.next()
        assert (event.type, event.data, event.id) == ("message", "first", "none")
        assert stream.last_event_id == "none"
        assert stream.messages[-1] == '{"id":"none","data":"first"}'
        statistics = stream.statistics()
        assert statistics is not None
        assert statistics.events == 1
        assert stream.close_reason is None
        await stream.disconnect(code)
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
        assert (stream.cleanups, stream.close_code) == ([], None)
    assert story.events == ["started", "cleaned"]


async def test_leaving_the_block_is_leaving_the_stream() -> None:
    """Also by a failure, which is raised as it is."""
    story = Story()
    with pytest.raises(ZeroDivisionError):
        async with open_websocket(story.app, "/endless/ws"):
            _ = 1 / 0
    assert story.plugin.streams.statistics().closed == {CloseReason.CLIENT_DISCONNECTED: 1}
    assert story.events[-1] == "cleaned"
    assert len(story.plugin.streams) == 0


async def test_events_are_those_of_the_twin_over_http() -> None:
    """JSON is the data's text, and text is itself."""
    story = Story()
    async with open_stream(story.app, "GET", "/tokens") as stream:
        expected = [event async for event in stream]
    async with open_websocket(story.app, "/tokens/ws") as socket:
        events = [event async for event in socket]
        assert (socket.close_code, socket.close_text) == (1000, "completed")
        await socket.wait_closed()
        assert socket.close_reason is CloseReason.COMPLETED
    assert [(event.type, event.data) for event in events] == [(event.type, event.data) for event in expected]
    assert events[0].json(Token) == Token("one")
    assert [event.type for event in events] == ["token", "message"]


@pytest.mark.parametrize("resume_by", ["query", "header"])
@pytest.mark.parametrize("name", [None, "after"])
async def test_a_client_resumes(resume_by: Any, name: str | None) -> None:
    """By the query parameter that the configuration names, or by the header."""
    story = Story(last_event_id_query=name)
    for given in ("7 & 8", "é€", 5):
        async with open_websocket(story.app, "/endless/ws", last_event_id=given, resume_by=resume_by) as stream:
            assert (await stream.next()).id == str(given)


@pytest.mark.parametrize(("last_event_id", "data"), [("7", "after 7"), (7, "after 7"), (None, "after None")])
async def test_a_client_resumes_by_its_first_message(last_event_id: str | int | None, data: str) -> None:
    """One that has seen nothing sends ``{}``. Messages may be binary."""
    async with open_websocket(Story().app, "/asked", last_event_id=last_event_id, resume_by="message") as stream:
        assert (await stream.next()).data == data
        assert stream.messages == [b'{"data":"%s"}' % data.encode()]


@pytest.mark.parametrize(("said", "code"), [("no JSON", 1007), (b"[]", 1007), ({"last_event_id": "x" * 9000}, 1009)])
async def test_a_client_says_what_it_likes(said: Any, code: int) -> None:
    """Text, bytes, or JSON of anything; here as a first message that is refused."""
    async with open_websocket(Story().app, "/asked") as stream:
        stream.send(said)
        with pytest.raises(StreamEndedError, match=f"closed by {code} '.*first message"):
            await stream.next()
        assert stream.close_code == code
        assert "first message" in stream.close_text


async def test_a_refusal_has_a_status_and_a_code() -> None:
    """A guard's comes ahead of the acceptance; that of a full application after it, which tells when to come back."""
    story = Story(max_streams=1)
    async with open_websocket(story.app, "/guarded", headers={"Origin": "http://foe"}) as refused:
        assert (refused.status, refused.accepted, refused.close_text) == (403, False, "Unauthorized")
        with pytest.raises(StreamEndedError, match="closed by 4"):
            await refused.next()
    assert (refused.close_reason, refused.statistics()) == (None, None)
    async with open_websocket(story.app, "/guarded", headers={"Origin": "http://friend"}) as stream:
        assert (await stream.next()).data == "one"
    async with open_websocket(story.app, "/endless/ws"), open_websocket(story.app, "/endless/ws") as second:
        with pytest.raises(StreamEndedError):
            await second.next()
        assert (second.status, second.close_code) == (101, 1013)


async def test_no_wait_is_without_a_bound() -> None:
    """A time-out says what was waited for, and how the stream fares."""
    async with open_websocket(Story(ping_interval=None).app, "/endless/ws", timeout=SHORT) as stream:
        await stream.next()
        with pytest.raises(
            TimeoutError, match=r"the next event has not come within 0\.3 s; WebSocket /endless/ws: Stream"
        ):
            await stream.next()
        with pytest.raises(TimeoutError, match="a heartbeat has not come"):
            await stream.wait_heartbeat()
        with pytest.raises(TimeoutError, match="the end of the stream has not come"):
            await stream.wait_closed()


async def test_an_application_that_never_answers_is_waited_for_no_longer_than_told() -> None:
    """And is told of."""

    @websocket("/")
    async def silent(socket: WebSocket[Any, Any, Any]) -> None:
        await anyio.sleep_forever()

    app = Litestar([silent], plugins=[SafeSSEPlugin()])
    with pytest.raises(TimeoutError, match="an answer to the handshake has not come"):
        async with open_websocket(app, "/", timeout=SHORT):
            pass


async def test_a_body_that_fails_is_told_by_the_code_and_its_failed_cleanups_by_name() -> None:
    """The stream has told the client, so nothing is raised to the server."""
    async with open_websocket(Story().app, "/fails") as stream:
        assert [event.data async for event in stream] == ["one"]
        assert (stream.close_code, stream.close_text) == (1011, "error")
        await stream.wait_closed()
    assert stream.close_reason is CloseReason.ERROR
    [(name, failure)] = stream.cleanups
    assert "fail" in name
    assert isinstance(failure, OSError)


async def test_a_shutdown_ends_the_stream() -> None:
    """By the code that tells to come back."""
    async with open_websocket(Story().app, "/endless/ws") as stream:
        await stream.next()
        await stream.shutdown()
        assert (stream.close_code, stream.close_text) == (1001, "shutdown")
        assert stream.close_reason is CloseReason.SHUTDOWN


async def test_a_client_that_stalls_is_given_up() -> None:
    """And one that reads on in time is not."""
    async with open_websocket(Story(send_timeout=0.2, ping_interval=None).app, "/flood") as stream:
        await stream.next()
        stream.stall()
        stream.resume()
        await stream.next()
        stream.stall()
        await stream.wait_closed()
    assert stream.close_reason is CloseReason.SEND_TIMEOUT


async def test_heartbeats_and_the_reconnection_time_are_seen() -> None:
    """They are messages, and no events."""
    async with open_websocket(Story(ping_interval=0.02, retry=1500).app, "/endless/ws") as stream:
        await stream.wait_heartbeat()
        await stream.wait_heartbeat()
        assert stream.heartbeats >= 2
        assert stream.messages.count("{}") == stream.heartbeats
        assert stream.retry == 1500
    assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
    async with open_websocket(Story().app, "/tokens/ws") as stream:
        await stream.wait_closed()
        with pytest.raises(StreamEndedError, match="has been closed"):
            await stream.wait_heartbeat()


async def test_a_handler_of_litestars_can_be_tested_too() -> None:
    """Its messages are no events. A jar keeps the cookies that it sets."""
    app, jar = Story().app, httpx.Cookies()
    for seen in (None, "yes"):
        async with open_websocket(app, "/own", subprotocols=["v1", "v2"], cookies=jar) as socket:
            socket.send("hello")
            await socket.wait_closed()
            assert socket.messages == [f"said hello, with {seen}"]
            assert (socket.subprotocol, socket.close_code, socket.close_text) == ("v1", 4000, "enough")
            assert socket.close_reason is None


async def test_streams_share_the_lifespan_with_those_over_http() -> None:
    """A second one joins the lifespan that the first has entered."""
    story = Story()
    async with open_stream(story.app, "GET", "/endless") as one, open_websocket(story.app, "/endless/ws") as two:
        await one.next()
        await two.next()
        await one.disconnect()
        assert two.close_reason is None
    assert story.events == ["started", "cleaned", "cleaned"]


@pytest.mark.parametrize(("field", "options"), [("timeout", {"timeout": 0}), ("resume_by", {"resume_by": "cookie"})])
async def test_bad_input_is_refused(field: str, options: dict[str, Any]) -> None:
    """A time-out that is none, and a way to resume that there is not; an application without the plugin."""
    with pytest.raises(InvalidFieldError, match=field):
        async with open_websocket(Story().app, "/endless/ws", **options):
            pass
    with pytest.raises(MissingPluginError, match="must have the plugin"):
        async with open_websocket(Litestar([]), "/"):
            pass


def test_a_plain_function_can_do_the_same() -> None:
    """The twin waits where the other is awaited."""
    story = Story(ping_interval=0.02)
    with open_websocket_sync(story.app, "/endless/ws", last_event_id="7") as stream:
        assert (stream.status, stream.next().id) == (101, "7")
        stream.wait_heartbeat()
        stream.stall()
        stream.resume()
        stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
    with open_websocket_sync(story.app, "/tokens/ws") as tokens:
        assert [event.type for event in tokens] == ["token", "message"]
        tokens.wait_closed()
        assert tokens.close_code == 1000
    with open_websocket_sync(story.app, "/asked") as asked:
        asked.send({"last_event_id": "9"})
        assert asked.next().data == "after 9"
        asked.shutdown()
        assert asked.close_code == 1001
