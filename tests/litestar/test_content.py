"""What a response can be made of: a source of items, or a single item; also as type checkers see it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import pydantic
import pytest
from litestar import get
from litestar.response import ServerSentEventMessage
from msgspec import Struct

from litestar_safe_sse import InvalidFieldError, SafeServerSentEvent, SSEMessage
from tests.litestar.apps import serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


class Job(pydantic.BaseModel):
    id: int
    name: str


class Generic(pydantic.BaseModel, extra="allow"):
    """A model without fields of its own."""


class Point(NamedTuple):
    id: int
    name: str


class IterableStruct(Struct):
    id: int
    name: str

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it is one event")


@dataclass
class IterableDataclass:
    id: int
    name: str

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it is one event")


@attrs.define
class IterableAttrs:
    id: int
    name: str

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it is one event")


JSON = b'data: {"id":1,"name":"x"}\r\n\r\n'

RECORDS: list[tuple[Any, bytes]] = [
    (Job(id=1, name="x"), JSON),
    (Generic(id=1, name="x"), JSON),  # type: ignore[call-arg]
    (Point(1, "x"), b'data: [1,"x"]\r\n\r\n'),
    (IterableStruct(1, "x"), JSON),
    (IterableDataclass(1, "x"), JSON),
    (IterableAttrs(1, "x"), JSON),
]


if sys.version_info < (3, 14):  # for which there is no pydantic 1
    import pydantic.v1

    class OldJob(pydantic.v1.BaseModel):
        id: int
        name: str

    RECORDS.append((OldJob(id=1, name="x"), JSON))


async def body_of(content: Any, **options: Any) -> bytes:
    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(content, **options)

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.complete
        return response.body


@pytest.mark.parametrize(("content", "body"), RECORDS, ids=lambda value: type(value).__name__)
async def test_a_record_is_one_event(content: Any, body: bytes) -> None:
    """A record that can be iterated over for its fields is one event, alone as among others."""
    assert await body_of(content) == body
    assert await body_of(lambda: content) == body
    assert await body_of([content, content]) == body * 2


class Feed:
    """A source that happens to be a record."""

    def __aiter__(self) -> AsyncIterator[int]:
        return self._items()

    async def _items(self) -> AsyncIterator[int]:
        yield 1
        yield 2


@dataclass
class DataclassFeed(Feed):
    name: str = "x"


@dataclass
class IteratorOfDataclass:
    left: int = 2

    def __iter__(self) -> IteratorOfDataclass:
        return self

    def __next__(self) -> int:
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return self.left


async def test_a_record_that_is_a_source() -> None:
    """A record that is an async iterable or an iterator is a source, as it could be nothing else."""
    assert await body_of(DataclassFeed()) == b"data: 1\r\n\r\ndata: 2\r\n\r\n"
    assert await body_of(IteratorOfDataclass()) == b"data: 1\r\n\r\ndata: 0\r\n\r\n"


class Colour(Enum):
    RED = "red"


class Bare:
    """An async iterator that is no iterable."""

    async def __anext__(self) -> int:
        raise StopAsyncIteration


def test_what_type_checkers_take() -> None:
    """All of these pass as content by their types."""
    SafeServerSentEvent("text")
    SafeServerSentEvent(b"bytes")
    SafeServerSentEvent(1)
    SafeServerSentEvent(1.5)
    SafeServerSentEvent(True)
    SafeServerSentEvent({"data": 1})
    SafeServerSentEvent(SSEMessage("x"))
    SafeServerSentEvent(ServerSentEventMessage("x"))
    SafeServerSentEvent(Job(id=1, name="x"))
    SafeServerSentEvent(IterableStruct(1, "x"))
    SafeServerSentEvent(IterableDataclass(1, "x"))
    SafeServerSentEvent(IterableAttrs(1, "x"))
    SafeServerSentEvent(Point(1, "x"))
    SafeServerSentEvent(Colour.RED)
    SafeServerSentEvent(UUID(int=1))
    SafeServerSentEvent(Decimal(1))
    SafeServerSentEvent(datetime.now(timezone.utc))
    SafeServerSentEvent(timedelta(1))
    SafeServerSentEvent([1, 2])
    SafeServerSentEvent(range(3))
    SafeServerSentEvent(iter([1]))
    SafeServerSentEvent(Feed())
    SafeServerSentEvent(Bare())
    SafeServerSentEvent(lambda: [1])
    SafeServerSentEvent(number for number in (1, 2))


async def test_what_type_checkers_refuse() -> None:
    """What is refused when a response is made is refused by its type as well, where there is a type for it."""

    async def coroutine() -> int:
        raise AssertionError

    with pytest.raises(InvalidFieldError, match="not None"):
        SafeServerSentEvent(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError, match="not a coroutine"):
        SafeServerSentEvent(coroutine())  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError, match="not the class"):
        SafeServerSentEvent(Job)  # type: ignore[arg-type]
