"""The decoder against the standard's own examples, whole and byte by byte (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_safe_sse import SSEMessage
from litestar_safe_sse._core.decoding import Decoder, Event
from litestar_safe_sse._core.encoding import Encoder


def message(data: str, id: str = "") -> Event:
    return Event("message", data, id)


def decoded(stream: bytes) -> Decoder:
    """Decodes a stream whole and byte by byte, and checks that both make the same of it."""
    whole, bytewise = Decoder(), Decoder()
    whole.feed(stream)
    for byte in stream:
        bytewise.feed(bytes([byte]))
    for name in ("events", "comments", "last_event_id", "retry"):
        assert getattr(whole, name) == getattr(bytewise, name)
    return whole


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: YHOO\ndata: +2\ndata: 10\n\n", [message("YHOO\n+2\n10")]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [
                Event("message", "first event", "1"),
                message("second event"),
                message(" third event"),
            ],
        ),
        ("data\n\ndata\ndata\n\ndata:", [message(""), message("\n")]),
        ("data:test\n\ndata: test\n\n", [message("test")] * 2),
        (
            "event: add\ndata: 73857293\n\nevent: lost\n\ndata: x\n\n",
            [Event("add", "73857293", ""), message("x")],
        ),
        ("\ufeffdata: behind a BOM\n\n", [message("behind a BOM")]),
        ("id: 1\0\ndata: NUL\n\n", [message("NUL")]),
        ("data: not dispatched\n", []),
    ],
)
def test_the_standards_examples(stream: str, events: list[Event], end: str) -> None:
    """Each stream gives the events that the standard says, with each line ending."""
    text = stream.replace("\n", end)
    assert list(decoded(text.encode() + b":" * (end == "\r")).events) == events


def test_an_id_without_data_is_kept_and_dispatches_nothing() -> None:
    """So is a reconnection time; one that is no number is ignored."""
    decoder = decoded(b"id: 7\nretry: 20\n\nretry: soon\n\n: ping\n")
    assert not decoder.events
    assert (decoder.last_event_id, decoder.retry, list(decoder.comments)) == ("7", 20, ["ping"])


@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=5), st.sampled_from(["\r\n", "\n"])
)
def test_what_was_encoded_is_decoded(texts: list[str], separator: str) -> None:
    """Any text comes back, but for its line endings, which are all one."""
    encoder, decoder = Encoder(separator=separator), Decoder()
    decoder.feed(b"".join(encoder.encode(SSEMessage(text, "kind", id=5)) for text in texts))
    expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    assert [(event.type, event.data, event.id) for event in decoder.events] == [
        ("kind", text, "5") for text in expected
    ]


def test_json_is_decoded_as_a_type() -> None:
    """An event's data as what it is meant to be."""
    event = message("[1, 2]")
    assert event.json() == [1, 2]
    assert event.json(tuple[int, int]) == (1, 2)
