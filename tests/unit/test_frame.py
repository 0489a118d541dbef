"""Ready blocks of other encoders: sent as they are, once they have been checked."""

from __future__ import annotations

from typing import Any

import pytest

from litestar_safe_sse import Frame, InvalidFieldError
from litestar_safe_sse._core.encoding import Encoder

WHOLE = [
    "data: x\n\n",
    "data: x\r\n\r\n",
    "data: x\r\r",
    "event: a\ndata: x\n\ndata: y\n\n",
    "event: a\r\ndata: x\n\r\n",
    ": a comment\n\n",
    "id\ndata: x\n\n",
    "id: 5\n\n",
    "data: a\0b\n\n",
    "data: \u2028\u0085\n\n",
    "data: é\n\n",
    "data: \ufeff\n\n",
    "data: x\n\n\n",
]


@pytest.mark.parametrize("text", WHOLE)
def test_whole_blocks_are_sent_as_they_are(text: str) -> None:
    """Nothing of them is changed, whether they are text or bytes."""
    for block in (text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        frame = Frame(block)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert frame.block == text.encode()
        assert Encoder(event="other", id=1, retry=5, separator="\n").encode(frame) == text.encode()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("", "end with an empty line"),
        ("data: x", "end with an empty line"),
        ("data: x\n", "end with an empty line"),
        ("data: x\r\n", "end with an empty line"),
        ("data: x\n\ndata: y", "end with an empty line"),
        ("data: x\n\ndata: y\r\n", "end with an empty line"),
        ("data: x\u2028\u2028", "end with an empty line"),
        ("\ndata: x\n\n", "begin with a field or a comment"),
        ("\r\n\r\n", "begin with a field or a comment"),
        ("\ufeffdata: x\n\n", "byte order mark"),
        ("id: a\0b\ndata: x\n\n", "NUL in an id"),
        ("data: x\rid:\0\r\r", "NUL in an id"),
        (b"data: \xff\n\n", "UTF-8"),
        ("data: \ud800\n\n", "lone surrogate"),
        (5, "a str"),
        (None, "a str"),
    ],
)
def test_what_clients_would_take_for_something_else_is_refused(block: Any, reason: str) -> None:
    """When it is made, by an error that names the field and tells why."""
    with pytest.raises(InvalidFieldError, match=f"invalid block: must .*{reason}"):
        Frame(block)


def test_frame_is_a_value() -> None:
    """Frames are equal by what they hold, and cannot be changed."""
    assert Frame("data: x\n\n") == Frame(b"data: x\n\n")
    with pytest.raises(AttributeError):
        Frame("data: x\n\n").block = b""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_frame_of_a_subclass_is_a_frame() -> None:
    """Whoever derives a class from it has its items sent as they are too."""

    class Mine(Frame, frozen=True):
        pass

    assert Encoder().encode(Mine("data: x\n\n")) == b"data: x\n\n"


def test_a_type_may_be_made_of_frames() -> None:
    """A converter may return a frame, for ``str`` too."""
    encoder = Encoder(converters={str: Frame})
    assert encoder.encode("data: x\n\n") == b"data: x\n\n"
    with pytest.raises(InvalidFieldError, match="block"):
        encoder.encode("x")
