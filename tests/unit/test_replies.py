"""Replies of Redis, however what arrives is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from litestar_safe_sse.sources.redis import _replies
from litestar_safe_sse.sources.redis._replies import Replies

ONE = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40)
ANY = st.recursive(ONE, lambda items: st.lists(items, max_size=4), max_leaves=12)


def sent(reply: Any) -> bytes:
    """Return a reply as Redis sends it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(sent, reply))


@given(st.lists(ANY, min_size=1, max_size=4), st.lists(st.integers(0, 300), max_size=6))
def test_replies_come_out_as_they_were_sent(replies: list[Any], cuts: list[int]) -> None:
    """Each as soon as its last byte is there."""
    data = b"".join(map(sent, replies))
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    reader = Replies()
    found: list[Any] = []
    for begin, end in pairwise(places):
        found += reader.feed(data[begin:end])
        whole = [sum(len(sent(reply)) for reply in replies[: number + 1]) for number in range(len(replies))]
        assert len(found) == sum(size <= end for size in whole)
    assert found == replies


def test_a_large_reply_is_looked_at_once_it_is_whole() -> None:
    """Not with each part of it anew."""
    reader = Replies()
    assert [*reader.feed(b"*2\r\n$1\r\na\r\n$1000000\r\n")] == []
    for _ in range(999):
        assert [*reader.feed(b"x" * 1000)] == []
        assert len(reader._parts) > 1
    assert [*reader.feed(b"x" * 1000 + b"\r\n+OK\r\n")] == [[b"a", b"x" * 1_000_000], b"OK"]


def test_an_item_of_an_array_is_parsed_once() -> None:
    """Not again with each part of what follows: the members of a large presence come in many parts."""
    reader, many = Replies(), 50_000
    items = b"".join(b"$%d\r\n%d\r\n" % (len(b"%d" % number), number) for number in range(many))
    data = b"*2\r\n*%d\r\n" % many + items + b":7\r\n"
    parsed, parse = 0, _replies._parse

    def counted(data: bytes, at: int) -> Any:
        nonlocal parsed
        parsed += 1
        return parse(data, at)

    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_replies, "_parse", counted)
        for begin in range(0, len(data), 1000):
            found += reader.feed(data[begin : begin + 1000])
    assert found == [[[b"%d" % number for number in range(many)], 7]]
    assert parsed <= many + 2 + len(data) // 1000 + 1


def test_arrays_may_be_as_deep_as_they_like() -> None:
    """A server that sends garbage is told so, or answers garbage; the loop's callback fails by nothing else."""
    [reply] = Replies().feed(b"*1\r\n" * 5000 + b":1\r\n")
    depth = 0
    while isinstance(reply, list):
        [reply], depth = reply, depth + 1
    assert (reply, depth) == (1, 5000)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"-ERR wrong number\r\n", ResponseError, "wrong number"),
        (b"-NOSCRIPT No matching script\r\n", NoScriptError, "No matching script"),
        (b"-ERR \xff\r\n", ResponseError, "\ufffd"),
        (b"-MOVED\r\n", ResponseError, "MOVED"),
        (b"-ASK 1 nowhere\r\n", ResponseError, "ASK 1 nowhere"),
    ],
    ids=["error", "with a class of its own", "no text", "moved nowhere", "ask nobody"],
)
def test_errors_are_those_of_redis_py(data: bytes, kind: type[Exception], text: str) -> None:
    """Inside of a transaction's reply too."""
    alone, [within] = Replies().feed(data + b"*1\r\n" + data)
    for error in (alone, within):
        assert type(error) is kind
        assert text in str(error)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 No\r\n", b"$one\r\n", b"*x\r\n", b":\r\n", b"\r\n"], ids=ascii)
def test_what_is_no_reply_is_an_error(data: bytes) -> None:
    """What was before it is handed over."""
    replies = Replies().feed(b"+OK\r\n" + data)
    assert next(replies) == b"OK"
    with pytest.raises(InvalidResponse, match="no reply of Redis"):
        next(replies)
