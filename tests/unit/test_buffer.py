"""What is put in comes out: the same bytes, in the same order, however they were put together on the way."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec import Raw, Struct

from litestar_safe_sse import Frame, InvalidFieldError, SSEMessage, StreamClosedError
from litestar_safe_sse._core.buffer import Buffer, BufferState
from litestar_safe_sse._core.encoding import Encoder, make_preamble


class Wake:
    def set(self) -> None: ...

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")


class Runtime:
    """As much of an event loop as a buffer needs that nobody waits for."""

    def wake(self) -> Wake:
        return Wake()

    def call_soon(self, callback: object) -> None: ...


class Order(Struct):
    value: Any


class Reading(Struct):
    value: Any


MESSAGE = SSEMessage("again", event="e", id=7)
ITEMS = [
    "plain",
    "",
    "two\nlines",
    "a\r\nb\rc",
    "naïve",
    "é\n",
    Order(1),
    Order("é"),
    Order(Raw(b"[1,\r\n2]")),
    Reading(None),
    MESSAGE,
    SSEMessage("message"),
    SSEMessage("message", event="e"),
    SSEMessage("two\nlines", event="e"),
    SSEMessage("message", event=""),
    SSEMessage("naïve", event="é"),
    SSEMessage("naïve", event="e"),
    SSEMessage("naïve\rtwo\nlines", event="e"),
    SSEMessage("x" * 1000, event="e"),
    SSEMessage("message", id=1),
    SSEMessage("two\r\nlines", id="2", event="e"),
    SSEMessage("naïve", id="é"),
    SSEMessage("message", retry=7),
    SSEMessage("message", id=1, comment="c"),
    SSEMessage({"a": 1}),
    SSEMessage(["é"], event="e"),
    SSEMessage(Order(1), event="e"),
    SSEMessage(Order(1), id=1),
    SSEMessage(Raw(b"[1,\r\n2]")),
    SSEMessage(b"bytes"),
    SSEMessage(None),
    SSEMessage(event="e"),
    SSEMessage(comment="c"),
    SSEMessage(id=1),
    Frame("data: frame\n\n"),
    {"data": "d", "event": "e"},
    {"data": "d", "event": "é", "sep": None},
    {"data": "d", "sep": "\r"},
    {"data": "d", "sep": "\n"},
    {"data": "é", "id": 5, "retry": 7, "comment": "c"},
    7,
    b"bytes",
    None,  # stands for a heartbeat
]


def opened(encoder: Encoder, limit: int = 1 << 30) -> Buffer:
    buffer = Buffer(Runtime())  # type: ignore[arg-type]
    buffer.configure(encoder, limit)
    return buffer


@pytest.mark.parametrize("defaults", [{}, {"event": "e", "id": "9", "retry": 5}, {"separator": "\n"}])
@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_comes_out_as_it_was_put_in(defaults: dict[str, Any], seed: int) -> None:
    """Runs of strings and of Structs are put together, everything else is on its own; none of it shows."""
    chance = random.Random(seed)
    buffer, plain = opened(Encoder(**defaults)), Encoder(**defaults)
    got = expected = b""
    events = 0
    for _ in range(500):
        for item in [chance.choice(ITEMS)] * chance.choice([1, 1, 2, 5]):
            if item is None:
                buffer.put_heartbeat()
                expected += b": ping" + defaults.get("separator", "\r\n").encode()
            else:
                buffer.put(item)
                expected += plain.encode(item)
            events += 1
            assert buffer.events == events
        if chance.random() < 0.1:
            pending = buffer.pending
            chunk = buffer.take()
            assert len(chunk) >= pending  # which counts what is certain: a line break adds to it
            got += chunk
    got += buffer.take()
    assert got == expected
    assert (buffer.pending, buffer.take()) == (0, b"")


BEGINNINGS: dict[str, tuple[list[Any], bytes]] = {
    "text": (["x"], b"retry: 5\r\ndata: x\r\n\r\n"),
    "texts": (["x", "y"], b"retry: 5\r\ndata: x\r\n\r\ndata: y\r\n\r\n"),
    "other text": (["\xe9"], b"retry: 5\r\ndata: \xc3\xa9\r\n\r\n"),
    "JSON": ([Order(1)] * 2, b'retry: 5\r\ndata: {"value":1}\r\n\r\ndata: {"value":1}\r\n\r\n'),
    "message": ([SSEMessage("x", id=1)], b"retry: 5\r\nid: 1\r\ndata: x\r\n\r\n"),
    "text, message": (["x", SSEMessage("y")], b"retry: 5\r\ndata: x\r\n\r\ndata: y\r\n\r\n"),
    "no event, text": ([SSEMessage(id=1), "x"], b"id: 1\r\n\r\nretry: 5\r\ndata: x\r\n\r\n"),
    "no event, message": (
        [{"comment": "c"}, MESSAGE],
        b": c\r\n\r\nretry: 5\r\nid: 7\r\nevent: e\r\ndata: again\r\n\r\n",
    ),
    "heartbeat, text": ([None, "x"], b": ping\r\nretry: 5\r\ndata: x\r\n\r\n"),
}


@pytest.mark.parametrize("chunks", ["one chunk", "many chunks"])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_first_event_has_what_the_stream_begins_with(name: str, chunks: str) -> None:
    """The comment is there from the start; the fields wait for an event, and are in its block."""
    items, expected = BEGINNINGS[name]
    buffer = opened(Encoder())
    buffer.begin(make_preamble("\r\n", "hello", 5))
    got = b""
    for item in items:
        if chunks == "many chunks":
            got += buffer.take()
        if item is None:
            buffer.put_heartbeat()
        else:
            buffer.put(item)
    assert got + buffer.take() == b": hello\r\n" + expected


def test_what_cannot_be_sent_does_not_use_up_what_the_stream_begins_with() -> None:
    """The body may catch the refusal, and go on."""
    buffer = opened(Encoder())
    buffer.begin(make_preamble("\r\n", None, 5))
    with pytest.raises(InvalidFieldError):
        buffer.put({"no": 1})
    buffer.put("x")
    assert buffer.take() == b"retry: 5\r\ndata: x\r\n\r\n"


def test_a_message_whose_data_has_changed_is_encoded_anew() -> None:
    """Though it is the same message, what it carries is what it carries by now."""
    buffer, data = opened(Encoder()), {"n": 0}
    message = SSEMessage(data)
    for n in range(3):
        data["n"] = n
        buffer.put(message)
    assert buffer.take() == b'data: {"n":0}\r\n\r\ndata: {"n":1}\r\n\r\ndata: {"n":2}\r\n\r\n'


@pytest.mark.parametrize("bad", [Order(object()), Order(Raw(b"\xff")), "\ud800", SSEMessage("\ud800"), {"no": 1}, None])
def test_what_cannot_be_sent_leaves_the_rest_as_it_was(bad: object) -> None:
    """A refusal names the field, and is raised at once, not when others are to be sent."""
    buffer = opened(Encoder())
    for item in ("one", Order(1)):
        buffer.put(item)
        with pytest.raises(InvalidFieldError):
            buffer.put(bad)
    assert buffer.events == 2
    assert buffer.take() == b'data: one\r\n\r\ndata: {"value":1}\r\n\r\n'


@pytest.mark.parametrize("item", ["x" * 10, Order("x"), SSEMessage("x")])
def test_a_full_buffer_says_so(item: object) -> None:
    """As soon as the limit is reached, whatever kind of event it is."""
    encoder = Encoder()
    encoder.encode(item)  # by now its type is known
    size = len(encoder.encode(item))
    buffer = opened(encoder, limit=3 * size)
    assert [buffer.put(item) for _ in range(3)][-1] is True
    assert buffer.pending == 3 * size


def test_a_dropped_buffer_is_empty() -> None:
    """What comes after the drop is forgotten by the next."""
    buffer = opened(Encoder())
    for item in ("one", Order(1), MESSAGE):
        buffer.put(item)
    buffer.drop()
    assert (buffer.take(), buffer.pending, buffer.events) == (b"", 0, 3)
    assert buffer.put("late") is True  # its body is to end
    buffer.drop()
    assert (buffer.take(), buffer.pending) == (b"", 0)


@pytest.mark.anyio
async def test_what_is_dropped_has_not_been_written() -> None:
    """What was on its way then still counts when it has arrived, and nothing that had not been taken does."""
    buffer = opened(Encoder())
    buffer.put("one")
    buffer.take()
    buffer.put("two")
    buffer.put("three")
    buffer.drop()
    assert (buffer.written, buffer.events) == (0, 3)
    buffer.mark_written()
    assert (buffer.written, buffer.events) == (1, 3)
    with pytest.raises(StreamClosedError):
        await buffer.flush()


def test_an_ended_buffer_holds_nobody_and_keeps_what_comes() -> None:
    """The body is told at each event that it is to end, and what it says until then is still written."""
    buffer = opened(Encoder())
    buffer.put("one")
    assert buffer.put("two") is False
    buffer.end()
    assert buffer.state is BufferState.ENDED
    assert buffer.put("three") is True
    assert buffer.linger() is False
    assert buffer.take() == b"data: one\r\n\r\ndata: two\r\n\r\ndata: three\r\n\r\n"


def test_a_buffer_that_ends_before_it_is_configured_stays_ended() -> None:
    """A stream may be closed by its handler, before it has a body."""
    buffer = Buffer(Runtime())  # type: ignore[arg-type]
    buffer.end()
    buffer.configure(Encoder(), 1 << 30)
    assert buffer.put("x") is True


def test_a_dropped_buffer_does_not_end_otherwise() -> None:
    """The end of the body comes after the client has left, and changes nothing."""
    buffer = opened(Encoder())
    buffer.drop()
    buffer.end()
    assert buffer.state is BufferState.DROPPED
