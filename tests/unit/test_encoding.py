from __future__ import annotations

import base64
import gc
import json
import math
import re
import subprocess
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum, IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct

from litestar_safe_sse._core.encoding import Encoder, decode_last_event_id, encode_comment, has_data, make_preamble
from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError
from tests.node import install_node_packages

SEPARATORS = ["\r\n", "\n", "\r"]


class Tick(msgspec.Struct):
    n: int


@dataclass
class Point:
    x: int


class Kind(str, Enum):
    JOB = "job"


class Number(IntEnum):
    SEVEN = 7


class Count(int):
    pass


class Unknown:
    pass


@dataclass
class Row:
    """Stands for a message class of somebody else's, such as Litestar's."""

    text: str


class SpecialRow(Row):
    pass


def encode(item: object, **options: Any) -> bytes:
    return Encoder(**options).encode(item)


# --- Data, item by item ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "block"),
    [
        ("hello", "data: hello\r\n\r\n"),
        ("", "data: \r\n\r\n"),
        (" x", "data:  x\r\n\r\n"),
        ("a\nb", "data: a\r\ndata: b\r\n\r\n"),
        ("a\rb", "data: a\r\ndata: b\r\n\r\n"),
        ("a\r\nb", "data: a\r\ndata: b\r\n\r\n"),
        ("a\n\rb", "data: a\r\ndata: \r\ndata: b\r\n\r\n"),
        ("a\n", "data: a\r\ndata: \r\n\r\n"),
        ("\n", "data: \r\ndata: \r\n\r\n"),
        ("x\n\nevent: forged", "data: x\r\ndata: \r\ndata: event: forged\r\n\r\n"),
        ("\ufeffx", "data: \ufeffx\r\n\r\n"),
        ("a\0b", "data: a\0b\r\n\r\n"),
        (Kind.JOB, "data: job\r\n\r\n"),
    ],
)
def test_text_is_sent_line_by_line(item: str, block: str) -> None:
    """Each CR, LF or CRLF in a text ends one data line, and every other character is kept."""
    assert encode(item) == block.encode()
    assert encode(SSEMessage(item)) == block.encode()


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_cr_and_lf_break_lines(character: str) -> None:
    """What only Python takes for a line break stays inside its line."""
    assert encode(f"a{character}b") == f"data: a{character}b\r\n\r\n".encode()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_text(kind: Callable[[bytes], object]) -> None:
    """Bytes-like items hold UTF-8 text, and are framed like any text."""
    raw = "\ufeffé\r\nb".encode()
    expected = "data: \ufeffé\r\ndata: b\r\n\r\n".encode()
    assert encode(kind(raw)) == expected
    assert encode(SSEMessage(kind(raw))) == expected


def test_bytes_of_a_strided_view_are_text() -> None:
    """A view need not be contiguous."""
    assert encode(memoryview(b"h-i-")[::2]) == b"data: hi\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-5, "-5"),
        (2**70, str(2**70)),
        (Number.SEVEN, "7"),
        (Count(8), "8"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, "a\nb"], r'[1,"a\nb"]'),
        (Tick(1), '{"n":1}'),
        (Point(1), '{"x":1}'),
        (datetime(2025, 1, 2, tzinfo=timezone.utc), '"2025-01-02T00:00:00Z"'),
        ({"x"}, '["x"]'),
        (("é", None), '["é",null]'),
        (msgspec.Raw(b"[1,\n\r\n2]"), "[1,\r\ndata: \r\ndata: 2]"),
    ],
)
def test_other_objects_are_json(value: object, text: str) -> None:
    """What is no text is sent as JSON, yielded alone or as the data of a message."""
    expected = f"data: {text}\r\n\r\n".encode()
    assert encode(value) == expected
    assert encode(SSEMessage(value)) == expected
    assert encode({"data": value}) == expected


@pytest.mark.parametrize(("value", "text"), [(None, "null"), ({"event": "a\nb"}, '{"event":"a\\nb"}')])
def test_none_and_dict_inside_data_are_json(value: object, text: str) -> None:
    """`None` and a dict mean something else as items, but inside `data` they are data."""
    assert encode(SSEMessage(value)) == f"data: {text}\r\n\r\n".encode()
    assert encode({"data": value}) == f"data: {text}\r\n\r\n".encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_null_for_what_it_has_no_number_for(number: float) -> None:
    """NaN and infinity are sent as null, which every JSON parser reads."""
    assert encode(number) == b"data: null\r\n\r\n"
    assert encode([number]) == b"data: [null]\r\n\r\n"


def test_enc_hook_encodes_unknown_types() -> None:
    """What msgspec doesn't know is handed to the hook, inside other objects too."""

    def hook(value: object) -> object:
        return type(value).__name__

    assert encode([Unknown()], enc_hook=hook) == b'data: ["Unknown"]\r\n\r\n'
    assert encode(SSEMessage(Unknown()), enc_hook=hook) == b'data: "Unknown"\r\n\r\n'


def endless_list() -> list[object]:
    endless: list[object] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Unknown(), "Unknown"),
        (1j, "complex"),
        (UNSET, "UnsetType"),
        (endless_list(), "list"),
        (["\ud800"], "list"),
        (Count(10**5000), "int"),
        (msgspec.Raw(b"\xff"), "Raw"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_that_is_no_json_is_refused(value: object, named: str) -> None:
    """What can't be JSON is refused with the name of its type."""
    with pytest.raises(
        InvalidFieldError, match=f"invalid data: must be what msgspec encodes .*, unlike this {named} "
    ) as raised:
        encode(value)
    assert raised.value.field == "data"
    assert raised.value.__cause__ is not None


def test_failing_enc_hook_is_a_refusal_that_names_its_cause() -> None:
    """An error raised by the hook is the cause of the refusal."""
    with pytest.raises(InvalidFieldError, match=r"unlike this Unknown .*division") as raised:
        encode(Unknown(), enc_hook=lambda value: 1 / 0)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("item", [b"\xff", bytearray(b"a\xe9"), SSEMessage(b"\xff"), {"data": b"\xff"}])
def test_bytes_that_are_no_utf8_are_refused(item: object) -> None:
    """Bytes in another encoding are refused before anything is written."""
    with pytest.raises(InvalidFieldError, match=r"invalid data: must be UTF-8"):
        encode(item)


@pytest.mark.parametrize("item", ["a\udc80", "a\n\udc80", SSEMessage("\udc80", event="é"), {"data": "\udc80"}])
def test_lone_surrogate_in_data_is_refused(item: object) -> None:
    """Text that UTF-8 can't encode is refused before anything is written."""
    with pytest.raises(InvalidFieldError, match=r"invalid data: must be text .*lone surrogate U\+DC80"):
        encode(item)


@pytest.mark.parametrize("fields", [{}, {"event": "patch"}, {"id": 1}])
def test_a_frame_in_a_message_is_refused(fields: dict[str, Any]) -> None:
    """It holds whole events, and would be JSON of its bytes."""
    with pytest.raises(InvalidFieldError, match=r"invalid data: must not be a Frame, .* yield it by itself"):
        encode(SSEMessage(Frame("data: a\n\n"), **fields))


def test_none_is_refused_with_what_to_yield_instead() -> None:
    """A body that yields nothing in particular is told how to say what it means."""
    with pytest.raises(InvalidFieldError, match=r"SSEMessage\(data=None\).*SSEMessage\(comment=\.\.\.\)"):
        encode(None)


# --- Messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "block"),
    [
        (SSEMessage("x", "e", "i", 5, "c"), ": c\r\nid: i\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("a\nb", "e"), "event: e\r\ndata: a\r\ndata: b\r\n\r\n"),
        (SSEMessage(comment="c"), ": c\r\n\r\n"),
        (SSEMessage(comment=""), ": \r\n\r\n"),
        (SSEMessage(comment="a\ndata: x\rid: 5"), ": a\r\n: data: x\r\n: id: 5\r\n\r\n"),
        (SSEMessage(id="5"), "id: 5\r\n\r\n"),
        (SSEMessage(id=5), "id: 5\r\n\r\n"),
        (SSEMessage(id=0), "id: 0\r\n\r\n"),
        (SSEMessage(id=""), "id: \r\n\r\n"),
        (SSEMessage(retry=0), "retry: 0\r\n\r\n"),
        (SSEMessage("", "e"), "event: e\r\ndata: \r\n\r\n"),
        (SSEMessage("x", ""), "event: \r\ndata: x\r\n\r\n"),
        (SSEMessage(None, id=Number.SEVEN), "id: 7\r\ndata: null\r\n\r\n"),
        (SSEMessage("x", Kind.JOB, Kind.JOB, Number.SEVEN), "id: job\r\nevent: job\r\ndata: x\r\nretry: 7\r\n\r\n"),
    ],
)
def test_message_has_a_line_for_each_field_it_carries(message: SSEMessage, block: str) -> None:
    """Fields that a message carries are sent in Litestar's order, and no others."""
    assert encode(message) == block.encode()


def test_event_without_data_is_dispatched() -> None:
    """A bare event type gets the empty data line without which clients would drop it."""
    assert encode(SSEMessage(event="done")) == b"event: done\r\ndata: \r\n\r\n"
    assert encode({"event": "done"}) == b"event: done\r\ndata: \r\n\r\n"


def test_subclass_of_message_is_a_message() -> None:
    """A message class of one's own is no JSON."""

    class Job(SSEMessage, frozen=True):
        pass

    assert encode(Job("x", event="job")) == b"event: job\r\ndata: x\r\n\r\n"


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_dict_holds_fields(kind: type[dict[str, Any]]) -> None:
    """A dict is a message by its field names, and is left as it was."""
    item = kind(data="a\nb", event="e", id=5, retry=7, comment="c", sep="\n")
    before = dict(item)
    assert encode(item) == b": c\nid: 5\nevent: e\ndata: a\ndata: b\nretry: 7\n\n"
    assert item == before


def test_dict_fields_that_are_none_are_absent() -> None:
    """As in Litestar, `None` for a field other than data leaves it out."""
    assert encode({"data": "x", "event": None, "id": None, "retry": None, "sep": None}) == b"data: x\r\n\r\n"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"data": "x", "evnt": "e"}, "evnt"),
        ({1: 2}, "1"),
        ({}, "data"),
        ({"sep": "\n"}, "data"),
        ({"data": "x", "sep": "X"}, "sep"),
        ({"data": "x", "sep": "\n\n"}, "sep"),
        ({"data": "x", "event": "a\nb"}, "event"),
        ({"data": "x", "id": "a\0"}, "id"),
        ({"data": "x", "retry": -1}, "retry"),
        ({"comment": 5}, "comment"),
    ],
)
def test_dict_with_a_bad_field_is_refused(item: dict[Any, Any], field: str) -> None:
    """A key that is no field, or a value its field can't carry, is named."""
    with pytest.raises(InvalidFieldError) as raised:
        encode(item)
    assert raised.value.field == field


def test_unknown_key_is_refused_with_the_known_ones() -> None:
    """Someone who meant to send JSON learns how."""
    with pytest.raises(InvalidFieldError, match=r"data, event, id, retry, comment and sep.*SSEMessage\(data="):
        encode({"user": 5})


# --- Converters -----------------------------------------------------------------------------------------------


def test_converter_makes_a_message_of_its_type_and_subclasses() -> None:
    """A type of somebody else's is sent as its converter says."""
    converters = {Row: lambda row: SSEMessage(row.text, event="row")}
    assert encode(Row("x"), converters=converters) == b"event: row\r\ndata: x\r\n\r\n"
    assert encode(SpecialRow("x"), converters=converters) == b"event: row\r\ndata: x\r\n\r\n"
    assert encode(Point(1), converters=converters) == b'data: {"x":1}\r\n\r\n'


def test_converter_of_the_items_own_type_wins() -> None:
    """The closest class decides, in whichever order the converters stand."""
    converters = {
        Row: lambda row: SSEMessage("base"),
        SpecialRow: lambda row: SSEMessage("own"),
    }
    assert encode(SpecialRow("x"), converters=converters) == b"data: own\r\n\r\n"
    assert encode(Row("x"), converters=converters) == b"data: base\r\n\r\n"


def test_converter_may_choose_the_separator() -> None:
    """A message that brings its own line ends keeps them, in every line of its block."""
    converters: dict[type, Any] = {Row: lambda row: (SSEMessage(row.text), "\n")}
    encoder = Encoder(event="e", retry=5, converters=converters)
    assert encoder.encode(Row("a\r\nb")) == b"event: e\ndata: a\ndata: b\nretry: 5\n\n"


def test_converter_may_not_choose_any_separator() -> None:
    """A separator that ends no line is refused wherever it comes from."""
    with pytest.raises(InvalidFieldError, match="invalid sep: "):
        encode(Row("x"), converters={Row: lambda row: (SSEMessage(row.text), "X")})


# --- What a stream says for all its items -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "block"),
    [
        ("x", "id: 1\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (Tick(1), 'id: 1\r\nevent: e\r\ndata: {"n":1}\r\nretry: 5\r\n\r\n'),
        (SSEMessage("x"), "id: 1\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("x", id="2"), "id: 2\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("x", id=""), "id: \r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("x", event="f"), "id: 1\r\nevent: f\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("x", event=""), "id: 1\r\nevent: \r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage("x", retry=0), "id: 1\r\nevent: e\r\ndata: x\r\nretry: 0\r\n\r\n"),
        (SSEMessage("x", comment="c"), ": c\r\nid: 1\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        ({"data": "x", "id": 3}, "id: 3\r\nevent: e\r\ndata: x\r\nretry: 5\r\n\r\n"),
        (SSEMessage(event="f"), "id: 1\r\nevent: f\r\ndata: \r\nretry: 5\r\n\r\n"),
    ],
)
def test_defaults_complete_events_that_carry_none(item: object, block: str) -> None:
    """A stream's event type, ID and retry stand in each event that has none of its own."""
    assert encode(item, event="e", id=1, retry=5) == block.encode()


@pytest.mark.parametrize(
    ("message", "block"),
    [
        (SSEMessage(comment="c"), ": c\r\n\r\n"),
        (SSEMessage(id="2"), "id: 2\r\n\r\n"),
        (SSEMessage(retry=7), "retry: 7\r\n\r\n"),
    ],
)
def test_defaults_leave_alone_what_is_no_event(message: SSEMessage, block: str) -> None:
    """A comment must not set the client back to the default ID."""
    assert encode(message, event="e", id=1, retry=5) == block.encode()


def test_default_that_looks_like_data_is_kept_apart() -> None:
    """A default may hold any text that fits its field."""
    assert encode("x", event="data: y") == b"event: data: y\r\ndata: x\r\n\r\n"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"event": "a\nb"}, "event"),
        ({"event": 5}, "event"),
        ({"id": "a\rb"}, "id"),
        ({"id": "\0"}, "id"),
        ({"id": True}, "id"),
        ({"retry": "5\ndata: x"}, "retry"),
        ({"retry": -1}, "retry"),
        ({"separator": "X"}, "separator"),
        ({"separator": None}, "separator"),
    ],
)
def test_bad_default_is_refused_before_the_stream_starts(options: dict[str, Any], field: str) -> None:
    """What every event would carry is checked once, when the encoder is made."""
    with pytest.raises(InvalidFieldError) as raised:
        Encoder(**options)
    assert raised.value.field == field


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separator_ends_every_line(separator: str) -> None:
    """A stream has the line ends it was given, in text on the wire as between fields."""
    encoder = Encoder(separator=separator, event="e")
    lines = ["event: e", "data: a", "data: b", "", ""]
    for item in ("a\r\nb", SSEMessage("a\nb"), SSEMessage("a\rb", event="e")):
        assert encoder.encode(item) == separator.join(lines).encode()


# --- Comments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "separator", "lines"),
    [
        ("ping", "\r\n", ": ping\r\n"),
        ("", "\n", ": \n"),
        ("a\ndata: x\r\n\rb", "\r", ": a\r: data: x\r: \r: b\r"),
        ("é\u2028b", "\n", ": é\u2028b\n"),
    ],
)
def test_comment_has_a_colon_on_every_line(text: str, separator: str, lines: str) -> None:
    """No line of a comment can be read as a field, and none ends a block."""
    assert encode_comment(text, separator) == lines.encode()


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_a_stream_says_by_itself_is_no_block(separator: str) -> None:
    """Clients dispatch events for empty lines: heartbeats, openings, comments and the retry of streams have none."""
    encoder = Encoder(separator=separator)
    preamble = make_preamble(separator, "hello", 500)
    lines = [encoder.heartbeat, encoder.opening, preamble.comment, preamble.fields]
    assert b"".join(lines).decode().split(separator) == [": ping", ":", ": hello", "retry: 500", ""]
    assert make_preamble(separator, None, None) == (b"", b"")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("", True),
        (SSEMessage(event="e"), True),
        (SSEMessage("x", id=5, comment="c"), True),
        (SSEMessage(id=5), False),
        (SSEMessage(comment="x\ndata: y"), False),
        (SSEMessage(id="data: x", retry=5), False),
    ],
)
@pytest.mark.parametrize("separator", SEPARATORS)
def test_blocks_with_data_are_told_from_others(item: object, separator: str, expected: bool) -> None:
    """As clients do, by the lines that begin with the name of the field."""
    assert has_data(Encoder(separator=separator).encode(item)) is expected


@pytest.mark.parametrize(
    ("text", "separator", "field"),
    [("ping", "X", "separator"), ("\ud800", "\n", "comment"), (b"ping", "\n", "comment")],
)
def test_comment_that_cannot_be_sent_is_refused(text: Any, separator: str, field: str) -> None:
    """A comment is checked like any other field."""
    with pytest.raises(InvalidFieldError) as raised:
        encode_comment(text, separator)
    assert raised.value.field == field


# --- Last-Event-ID ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "5", "é€", "\U0001f600", "a b:c", "\ufeffx"])
def test_last_event_id_is_utf8(text: str) -> None:
    """An incoming ID is what the client was once sent."""
    assert decode_last_event_id(text.encode(), 1024) == text


def test_last_event_id_may_be_as_long_as_allowed() -> None:
    """The limit counts bytes, and is itself allowed."""
    assert decode_last_event_id("é".encode() * 4, 8) == "éééé"
    with pytest.raises(InvalidFieldError, match="invalid Last-Event-ID: must be at most 8 bytes long, not 9"):
        decode_last_event_id(b"x" * 9, 8)


@pytest.mark.parametrize("raw", [b"a\0", b"a\rb", b"a\nb", "é".encode("latin-1"), b"\xed\xa0\x80"])
def test_last_event_id_that_no_client_sends_is_refused(raw: bytes) -> None:
    """An ID that no event can have had is refused, not repaired."""
    with pytest.raises(InvalidFieldError) as raised:
        decode_last_event_id(raw, 1024)
    assert raised.value.field == "Last-Event-ID"


# --- Round trips through decoders of others -----------------------------------------------------------------------


@dataclass
class Sent:
    """What a client must see of a message, by the standard and not by the encoder."""

    event: str
    data: str
    id: str | None

    @classmethod
    def by(cls, message: SSEMessage) -> Sent | None:
        if message.data is UNSET and message.event is None:
            return None
        data = "" if message.data is UNSET else message.data
        id = None if message.id is None else f"{message.id}"
        return cls(message.event or "", re.sub("\r\n|\r", "\n", data), id)


TRICKY = st.sampled_from(["\r", "\n", "\r\n", " ", ":", "data: ", "\0", "\ufeff", "\u2028", "\x85", "\x0b", "id", "é€"])
TEXT = st.lists(TRICKY | st.text(max_size=5), max_size=8).map("".join)
LINE = TEXT.map(lambda text: re.sub("[\r\n]", "", text))
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "data": TEXT,
        "event": LINE,
        "id": LINE.map(lambda text: text.replace("\0", "")) | st.integers(),
        "retry": st.integers(0, 2**53 - 1),
        "comment": TEXT,
    },
).filter(bool)


def made(fields: dict[str, Any]) -> SSEMessage:
    return SSEMessage(**fields)


# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
STREAMS = st.lists(MESSAGES.map(made), max_size=5)
STEPS = st.sampled_from([1, 2, 3, 1_000_000])


def joined(messages: list[SSEMessage], separator: str) -> bytes:
    encoder = Encoder(separator=separator)
    # After a CR a client waits for what might be an LF: something has to follow the last event.
    return b"".join(encoder.encode(message) for message in messages) + b": end\n"


@unhurried
@given(STREAMS, st.sampled_from(SEPARATORS), STEPS)
def test_httpx_sse_reads_what_was_sent(messages: list[SSEMessage], separator: str, step: int) -> None:
    """A stream of any messages is read back by httpx-sse, however it is cut."""
    text = joined(messages, separator).decode()
    lines, fields = SSELineDecoder(), SSEDecoder()
    seen = []
    has_data = False  # httpx-sse also reports blocks without data, once it has an ID
    for start in range(0, len(text), step):
        for line in lines.decode(text[start : start + step]):
            has_data |= line.startswith("data:")
            event = fields.decode(line)
            if line:
                continue
            if event is not None and has_data:
                seen.append((event.event, event.data, event.id, event.retry))
            has_data = False
    expected = []
    last_id = ""
    for message in messages:
        last_id = last_id if message.id is None else f"{message.id}"
        sent = Sent.by(message)
        if sent is not None:
            expected.append((sent.event or "message", sent.data, last_id, message.retry))
    assert seen == expected


Parse = Callable[[bytes, int], dict[str, Any]]


@pytest.fixture(scope="module")
def eventsource_parser() -> Iterator[Parse]:
    """Parse streams with the npm package that the `eventsource` polyfill is built on, in one process."""
    install_node_packages()
    command = ["node", str(Path(__file__).with_name("eventsource_decoder.mjs"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def parse(stream: bytes, step: int) -> dict[str, Any]:
            request = {"stream": base64.b64encode(stream).decode(), "step": step}
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
            parsed: dict[str, Any] = json.loads(answers.readline())
            return parsed

        yield parse


@unhurried
@given(messages=STREAMS, separator=st.sampled_from(SEPARATORS), step=STEPS)
def test_eventsource_parser_reads_what_was_sent(
    eventsource_parser: Parse, messages: list[SSEMessage], separator: str, step: int
) -> None:
    """A stream of any messages is read back by eventsource-parser, however it is cut, with nothing left over."""
    seen = eventsource_parser(joined(messages, separator), step)
    expected = []
    for sent in filter(None, map(Sent.by, messages)):
        event = {"data": sent.data}
        if sent.event:
            event["event"] = sent.event
        if sent.id is not None:
            event["id"] = sent.id
        expected.append(event)
    comments = [
        line for message in messages if message.comment is not None for line in re.split("\r\n|\r|\n", message.comment)
    ]
    assert seen == {
        "events": expected,
        "comments": [*comments, "end"],
        "retries": [message.retry for message in messages if message.retry is not None],
        "errors": [],
    }


@pytest.mark.parametrize(("separator", "at_once"), [("\r\n", True), ("\n", True), ("\r", False)])
def test_eventsource_parser_holds_an_event_back_that_ends_with_a_cr(
    eventsource_parser: Parse, separator: str, at_once: bool
) -> None:
    """An LF may follow, which would belong to it; so the event is there when the next bytes are."""
    event = Encoder(separator=separator).encode("x")
    assert eventsource_parser(event, 1_000_000)["events"] == [{"data": "x"}] * at_once
    assert eventsource_parser(event + b":", 1_000_000)["events"] == [{"data": "x"}]


@unhurried
@given(text=TEXT)
@example(text="\ufeff")
def test_eventsource_parser_reads_text_and_bytes_alike(eventsource_parser: Parse, text: str) -> None:
    """Text arrives the same whether it was yielded as str or as bytes."""
    expected = [{"data": re.sub("\r\n|\r", "\n", text)}]
    for item in (text, text.encode()):
        assert eventsource_parser(Encoder().encode(item), 1_000_000)["events"] == expected


ANY_TEXT = st.lists(TRICKY | st.text(max_size=5) | st.just("\ud800"), max_size=5).map("".join)
ANY_VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | ANY_TEXT
ANY_ITEM = st.recursive(
    ANY_VALUE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3)
) | st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(["data", "event", "id", "retry", "comment", "sep"], ANY_VALUE | st.sampled_from(SEPARATORS)),
)
FIELD_LINE = re.compile(r"(?:|id|event|data): .*|retry: [0-9]+", re.DOTALL)


@unhurried
@given(item=ANY_ITEM, separator=st.sampled_from(SEPARATORS), event=LINE | st.none())
def test_any_item_is_one_block_or_refused(item: object, separator: str, event: str | None) -> None:
    """Whatever is yielded becomes exactly one well-formed block, or nothing and a typed error."""
    encoder = Encoder(separator=separator, event=event)
    try:
        block = encoder.encode(item).decode()
    except InvalidFieldError:
        return
    *lines, end, rest = re.split("\r\n|\r|\n", block)
    assert (end, rest) == ("", "")
    assert lines
    assert all(FIELD_LINE.fullmatch(line) for line in lines)
    names = [line.partition(":")[0] for line in lines]
    order = ["", "id", "event", "data", "retry"]
    assert all(order.index(one) <= order.index(other) for one, other in pairwise(names))
    assert all(names.count(name) <= 1 for name in ("id", "event", "retry"))


class Reading(Struct):
    value: object


@pytest.mark.parametrize("defaults", [{}, {"event": "reading", "id": "7", "retry": 5}])
def test_struct_is_the_same_event_each_time(defaults: dict[str, Any]) -> None:
    """A Struct whose type has been seen takes a shorter way to the same bytes, or to the same refusal."""
    encoder = Encoder(**defaults)
    first, second = encoder.encode(Reading(1)), encoder.encode(Reading(1))
    assert first == second
    assert b'data: {"value":1}\r\n' in first
    for _ in range(2):
        with pytest.raises(InvalidFieldError, match="Reading"):
            encoder.encode(Reading(object()))
    assert encoder.encode(Reading(Raw(b"[\n1]"))).count(b"data: ") == 2


@pytest.mark.parametrize("data", ["plain", "two\nlines", "é"])
@pytest.mark.parametrize("event", [None, "e"])
@pytest.mark.parametrize("id", [None, "i"])
@pytest.mark.parametrize("retry", [None, 3])
def test_message_of_text_is_the_same_with_and_without_the_shorter_way(
    data: str, event: str | None, id: str | None, retry: int | None
) -> None:
    """A message of text alone is written in one piece, which is what its fields come to one by one."""
    message = SSEMessage(data, event, id, retry)
    commented = SSEMessage(data, event, id, retry, comment="c")
    assert b": c\r\n" + Encoder().encode(message) == Encoder().encode(commented)


def test_an_encoder_is_let_go_of_at_once() -> None:
    """One that belongs to a single response is no work for the garbage collector."""
    gc.collect()
    encoder = Encoder(event="e")
    for item in ("x", Reading(1), SSEMessage("x", id=1), SSEMessage([1]), {"data": "x"}):
        encoder.encode(item)
        if type(item) is SSEMessage:
            encoder.message_head(item)
    del encoder
    assert gc.collect() == 0


def test_event_types_without_end_are_not_kept() -> None:
    """There may be one for each event."""
    encoder = Encoder()
    tracemalloc.start()
    try:
        for number in range(10_000):
            message = SSEMessage("x", event=f"{number}" * 100)
            assert encoder.message_head(message) is encoder.message_head(message)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000


def test_a_large_message_is_not_kept() -> None:
    """What has been encoded for one stream is not held in memory for those that may never come."""
    encoder, size = Encoder(), 10_000_000
    tracemalloc.start()
    try:
        for length in (size, 1000, 10, size):
            message = SSEMessage("x" * length)
            encoder.encode(message)
            encoder.message_head(message)
        del message
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > size > 100 * kept
