"""Commands as Redis reads them."""

from __future__ import annotations

from typing import Any

import pytest

from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources.redis._commands import frame, pack, plain


@pytest.mark.parametrize(
    ("command", "packed"),
    [
        (("GET", "é"), b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n"),
        ((b"a\r\n", 7, 0.5), b"*3\r\n$3\r\na\r\n\r\n$1\r\n7\r\n$3\r\n0.5\r\n"),
        ((memoryview(b"m"), bytearray(b"b")), b"*2\r\n$1\r\nm\r\n$1\r\nb\r\n"),
    ],
    ids=["str", "numbers", "buffers"],
)
def test_commands_are_packed_as_redis_reads_them(command: Any, packed: bytes) -> None:
    """Every kind of argument, with its length in bytes."""
    assert pack(command) == packed


@pytest.mark.parametrize("argument", [None, True, {}, "\ud800", ["a"]], ids=ascii)
def test_what_is_no_argument_is_refused(argument: Any) -> None:
    """As an error of its own."""
    with pytest.raises(InvalidFieldError, match="must be"):
        pack(("SET", "a", argument))


def test_what_is_framed_is_sent_as_if_it_was_not() -> None:
    """The arguments are counted one by one, and redis-py is given them so."""
    command = ("EVAL", frame("é", 7, b"x" * 300), "end", frame("a"))
    assert pack(command) == pack(("EVAL", "é", 7, b"x" * 300, "end", "a"))
    assert list(plain(command)) == ["EVAL", "é".encode(), b"7", b"x" * 300, "end", b"a"]


@pytest.mark.parametrize("argument", [None, "\ud800"], ids=ascii)
def test_what_is_no_argument_is_not_framed(argument: Any) -> None:
    """As it is not packed."""
    with pytest.raises(InvalidFieldError, match="must be"):
        frame("a", argument)
