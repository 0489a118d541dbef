"""What a body yields, as lines of JSON: one a message of a WebSocket."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest
from msgspec import Raw, Struct

from litestar_safe_sse import Frame, InvalidFieldError, SSEMessage
from litestar_safe_sse._core.json_lines import JSONLines, make_json_preamble


class Progress(Struct, tag="progress"):
    percent: int


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", {"data": "text"}),
        ("two\r\nlines", {"data": "two\r\nlines"}),
        ('"quoted" é \u2028', {"data": '"quoted" é \u2028'}),
        (b"bytes", {"data": "bytes"}),
        (bytearray(b"bytes"), {"data": "bytes"}),
        (Colour.RED, {"data": "red"}),
        (7, {"data": 7}),
        (1.5, {"data": 1.5}),
        (True, {"data": True}),
        ([1, "a"], {"data": [1, "a"]}),
        (Progress(1), {"data": {"type": "progress", "percent": 1}}),
        (Raw(b'{\n"a":\r\n1}'), {"data": {"a": 1}}),
        ({"data": "x", "event": "e", "id": 3, "retry": 5}, {"event": "e", "id": "3", "retry": 5, "data": "x"}),
        (SSEMessage({"a": 1}, id="z"), {"id": "z", "data": {"a": 1}}),
        (SSEMessage(data=None), {"data": None}),
        (SSEMessage(event="e"), {"event": "e", "data": ""}),
        (SSEMessage(id=""), {"id": ""}),
        (SSEMessage(retry=5), {"retry": 5}),
        (SSEMessage(comment="nothing"), {}),
        (Frame("event: e\nid: 1\ndata: a\ndata: b\n\n"), {"event": "e", "id": "1", "data": "a\nb"}),
        (Frame(": comment\n\n"), {}),
        (Frame("id: 4\n\n"), {"id": "4"}),
    ],
)
def test_each_item_is_one_line(item: Any, message: dict[str, Any]) -> None:
    """With the fields that it has; data is JSON itself, and text a string."""
    line = JSONLines().encode(item)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == message


def test_several_events_of_a_frame_are_several_messages() -> None:
    """As a client of an event stream would dispatch them."""
    lines = JSONLines().encode(Frame("data: a\n\ndata: b\n\n")).splitlines()
    assert [json.loads(line) for line in lines] == [{"data": "a"}, {"data": "b"}]


def test_defaults_complete_events() -> None:
    """Those with data, and no others."""
    encoder = JSONLines(event="tick", id="0", retry=9)
    assert json.loads(encoder.encode("x")) == {"event": "tick", "id": "0", "retry": 9, "data": "x"}
    assert json.loads(encoder.encode(SSEMessage("x", event="own"))) == {
        "event": "own",
        "id": "0",
        "retry": 9,
        "data": "x",
    }
    assert json.loads(encoder.encode(SSEMessage(id="7"))) == {"id": "7"}


def test_what_is_joined_is_what_is_encoded() -> None:
    """Whether one by one, or together as the buffer does it."""
    encoder = JSONLines(event="tick")
    alone = encoder.encode([1]) + encoder.encode([2])
    parts: list[bytes] = []
    encoder.json_types[list].join([b"[1]", b"[2]"], parts)
    assert b"".join(parts) == alone


@pytest.mark.parametrize("retry", [None, 9])
@pytest.mark.parametrize("event", [None, "own", "é"])
def test_messages_with_an_id_are_joined_as_they_are_encoded(event: str | None, retry: int | None) -> None:
    """Each a line with all of its fields."""
    encoder = JSONLines(event="tick", retry=retry)
    messages = [SSEMessage("one", event, 1), SSEMessage('"two"\r\nlines', event, '"2"')]
    head = encoder.message_head(messages[0])
    assert head is not None
    assert head is encoder.message_head(messages[1])
    parts: list[bytes] = []
    head.join([head.piece(message) for message in messages], parts)
    assert b"".join(parts) == b"".join(map(encoder.encode, messages))
    assert [json.loads(line)["id"] for line in b"".join(parts).splitlines()] == ["1", '"2"']


@pytest.mark.parametrize("item", [None, b"\xff", "\ud800", object(), {"unknown": 1}])
def test_what_cannot_be_sent_is_an_error(item: object) -> None:
    """Of the same kind as over HTTP."""
    with pytest.raises(InvalidFieldError):
        JSONLines().encode(item)


def test_reconnection_time_is_a_message_of_its_own() -> None:
    """Ahead of the first event."""
    assert make_json_preamble(3000).comment == b'{"retry":3000}\n'
    assert make_json_preamble(None).comment == b""
