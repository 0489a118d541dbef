from __future__ import annotations

import pickle
from enum import Enum, IntEnum
from typing import Any

import msgspec
import pytest

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError


class Kind(str, Enum):
    JOB = "job"
    BROKEN = "a\nb"


class Number(IntEnum):
    SEVEN = 7


def test_fields_are_those_of_the_standard_and_comment() -> None:
    """Positions and names are those that people know from Litestar."""
    message = SSEMessage("hello", "greeting", "7", 1000, "note")
    assert message == SSEMessage(data="hello", event="greeting", id="7", retry=1000, comment="note")


@pytest.mark.parametrize("field", ["event", "id", "retry", "comment"])
def test_fields_left_out_are_none(field: str) -> None:
    """A field nobody gave is absent."""
    assert getattr(SSEMessage("x"), field) is None


def test_absent_data_is_told_from_none() -> None:
    """Data left out is no data, whereas `None` is data."""
    assert SSEMessage(comment="x").data is msgspec.UNSET
    assert SSEMessage(data=None).data is None


def test_empty_message_is_refused() -> None:
    """A message must say something, and the error tells what it may say."""
    with pytest.raises(
        InvalidFieldError, match="invalid data: must be given where event, id, retry and comment are not"
    ):
        SSEMessage()


def message_with(name: str, value: Any) -> SSEMessage:
    return SSEMessage("x", **{name: value})


@pytest.mark.parametrize("name", ["event", "id"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nb", "\n", "x\n\ndata: forged", "é\n", Kind.BROKEN])
def test_line_break_is_refused_in_one_line_fields(name: str, value: str) -> None:
    """An event type or ID that holds a line break can't forge another field."""
    with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be one line") as raised:
        message_with(name, value)
    assert raised.value.field == name


def test_nul_is_refused_in_an_id() -> None:
    """An ID that clients would ignore is refused."""
    with pytest.raises(InvalidFieldError, match="invalid id: must be without NUL"):
        SSEMessage("x", id="a\0b")


@pytest.mark.parametrize("value", [5, b"job", 1.5, ["job"]])
@pytest.mark.parametrize("name", ["event", "comment"])
def test_text_fields_refuse_other_types(name: str, value: Any) -> None:
    """An event type or comment that is no str is refused by name."""
    with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be a str, not {type(value).__name__} "):
        message_with(name, value)


@pytest.mark.parametrize("value", [b"5", 1.5, True, ["5"]])
def test_id_refuses_other_types(value: Any) -> None:
    """An ID is a str or an int, and a bool is no int."""
    with pytest.raises(
        InvalidFieldError, match=f"invalid id: must be a str, an int or None, not {type(value).__name__} "
    ):
        SSEMessage("x", id=value)


def test_id_refuses_an_int_without_decimal_form() -> None:
    """An int past Python's limit of digits is refused when the message is made, not when it is sent."""
    with pytest.raises(InvalidFieldError, match=r"invalid id: must be a str if"):
        SSEMessage("x", id=10**5000)


@pytest.mark.parametrize(
    "value", [-1, 1.5, True, "5", "5\ndata: x", 10**5000], ids=lambda value: f"{type(value).__name__}"
)
def test_retry_refuses_what_is_no_count_of_milliseconds(value: Any) -> None:
    """A reconnection time is a non-negative int, so it can neither be ignored nor inject."""
    with pytest.raises(InvalidFieldError, match=r"invalid retry: must be an int from 0"):
        SSEMessage("x", retry=value)


@pytest.mark.parametrize("name", ["event", "id", "comment"])
def test_lone_surrogate_is_refused(name: str) -> None:
    """Text that UTF-8 can't encode is refused by the name of its field."""
    with pytest.raises(InvalidFieldError, match=rf"invalid {name}: must be text .*lone surrogate U\+DC80"):
        message_with(name, "a\udc80")


@pytest.mark.parametrize(
    ("name", "value"),
    [("event", ""), ("event", "a: b"), ("id", ""), ("id", 0), ("id", -5), ("id", "é\u2028"), ("retry", 0)],
)
def test_edge_values_are_kept(name: str, value: Any) -> None:
    """What is allowed is kept as it was given, empty or not."""
    assert getattr(message_with(name, value), name) == value


def test_comment_may_have_lines() -> None:
    """A comment may be any text, since it can be sent on several lines."""
    assert SSEMessage(comment="a\r\nb\0").comment == "a\r\nb\0"


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("event", Kind.JOB, "job"),
        ("id", Kind.JOB, "job"),
        ("comment", Kind.JOB, "job"),
        ("id", Number.SEVEN, 7),
        ("retry", Number.SEVEN, 7),
    ],
)
def test_enum_members_become_their_values(name: str, value: Any, plain: object) -> None:
    """A member of an enumeration of str or int stands for its value."""
    kept = getattr(message_with(name, value), name)
    assert (type(kept), kept) == (type(plain), plain)


def test_message_is_frozen() -> None:
    """Fields that were checked stay as they are."""
    message = SSEMessage("x")
    with pytest.raises(AttributeError):
        message.event = "a\nb"  # type: ignore[misc]


def test_replaced_fields_are_checked_too() -> None:
    """There is no way round the checks by copying a message."""
    with pytest.raises(InvalidFieldError, match="invalid event"):
        msgspec.structs.replace(SSEMessage("x"), event="a\nb")


def test_repr_shows_only_what_was_given() -> None:
    """A message in a log is short."""
    assert repr(SSEMessage("x", id=5)) == "SSEMessage(data='x', id=5)"


def test_message_survives_pickling() -> None:
    """A message can travel between processes, and absent data stays absent."""
    message = SSEMessage(id=5)
    assert pickle.loads(pickle.dumps(message)) == message
