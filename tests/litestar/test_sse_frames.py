"""Events that other libraries encode, as they themselves would send them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ag_ui.core import EventType, RunStartedEvent, TextMessageContentEvent
from ag_ui.encoder import EventEncoder
from datastar_py import ServerSentEventGenerator
from datastar_py.sse import DatastarEvent
from litestar import get
from strawberry.http.streaming import SSETransport, merge_stream_with_heartbeat

from litestar_safe_sse import Frame, InvalidFieldError, SafeServerSentEvent
from tests.litestar.apps import cause, serving
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


def streaming(*items: object) -> Any:
    @get("/")
    async def handler() -> SafeServerSentEvent:
        async def body() -> AsyncIterator[object]:
            for item in items:
                yield item

        return SafeServerSentEvent(body())

    return handler


async def test_frames_are_sent_between_events() -> None:
    """In order with all else, and untouched by the defaults of the response."""
    async with serving(streaming("a", Frame("event: x\ndata: b\n\n"), {"data": "c"})) as (app, _):
        assert (await request(app)).body == b"data: a\r\n\r\nevent: x\ndata: b\n\ndata: c\r\n\r\n"


async def test_events_of_datastar() -> None:
    """They are text that is a block already."""
    events = [
        ServerSentEventGenerator.patch_elements("<div id='a'>1</div>"),
        ServerSentEventGenerator.patch_signals({"n": 1}),
    ]
    async with serving(streaming(*events)) as (app, _):
        assert (await request(app)).body.decode() == "".join(events)


async def test_event_of_datastar_that_is_no_block_is_refused() -> None:
    """Its type is what it is recognised by, and its text is checked."""
    async with serving(streaming("a", DatastarEvent("data: x"))) as (app, _), connect(app) as client:
        failure = await client.finished()
        assert isinstance(cause(failure), InvalidFieldError)


async def test_events_of_ag_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sent as its ``EventEncoder`` would have them, though nobody has imported that one."""
    monkeypatch.delitem(sys.modules, "ag_ui.encoder")
    events = [
        RunStartedEvent(type=EventType.RUN_STARTED, thread_id="t", run_id="r"),
        TextMessageContentEvent(type=EventType.TEXT_MESSAGE_CONTENT, message_id="m", delta="hello"),
    ]
    encoder = EventEncoder()
    async with serving(streaming(*events)) as (app, _):
        body = (await request(app)).body.decode()
    assert body == "".join(map(encoder.encode, events))
    assert '"threadId":"t"' in body


async def test_chunks_of_pydantic_ai() -> None:
    """They are sent as its event stream for Vercel's AI SDK would have them."""
    # Its import takes a second, which only the process that runs the test shall spend.
    from pydantic_ai.ui.vercel_ai.response_types import DoneChunk, TextDeltaChunk

    async with serving(streaming(TextDeltaChunk(id="1", delta="hello"), DoneChunk())) as (app, _):
        body = (await request(app)).body
    assert body == b'data: {"type":"text-delta","delta":"hello","id":"1"}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stream_of_pydantic_ai(anyio_backend: str) -> None:
    """What ``encode_stream`` yields is plain text, but the generator is known."""
    from pydantic_ai import Agent  # as above
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.ui.vercel_ai import VercelAIAdapter
    from pydantic_ai.ui.vercel_ai.request_types import SubmitMessage, TextUIPart, UIMessage

    message = SubmitMessage(
        id="1", trigger="submit-message", messages=[UIMessage(id="m", role="user", parts=[TextUIPart(text="Hi")])]
    )

    @get("/")
    async def handler() -> SafeServerSentEvent:
        agent = Agent(TestModel(custom_output_text="hello there"))
        adapter = VercelAIAdapter(agent, message)
        return SafeServerSentEvent(adapter.encode_stream(adapter.run_stream()))

    async with serving(handler) as (app, _):
        body = (await request(app)).body
    assert body.startswith(b'data: {"type":"start"')
    assert b'"delta":"hello ' in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"data: data:" not in body


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stream_of_strawberry(anyio_backend: str) -> None:
    """Its frames are known by the generator that merges them with its heartbeats."""
    transport = SSETransport()

    async def results() -> AsyncIterator[str]:
        yield transport.encode_event("next", '{"data":1}')
        yield transport.encode_complete()

    @get("/")
    async def handler() -> SafeServerSentEvent:
        merged = merge_stream_with_heartbeat(
            results,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            lambda: transport.heartbeat_message(str),
            15,
            send_initial_heartbeat=False,
        )
        return SafeServerSentEvent(merged())

    async with serving(handler) as (app, _):
        body = (await request(app)).body
    # What a stream with nothing to say yet begins with is a comment.
    assert body.removeprefix(b":\r\n") == b'event: next\r\ndata: {"data":1}\r\n\r\nevent: complete\r\ndata: \r\n\r\n'


async def test_what_looks_like_a_block_is_text() -> None:
    """Nothing is guessed from what a text holds, nor from the name of a class."""

    class DatastarEvent(str):
        __slots__ = ()

    for item in ("event: x\ndata: y\n\n", DatastarEvent("event: x\ndata: y\n\n")):
        async with serving(streaming(item)) as (app, _):
            assert (await request(app)).body.startswith(b"data: event: x\r\ndata: data: y\r\n")
