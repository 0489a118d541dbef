"""What type checkers know of ``@sse``: mypy and pyright check this file, where an error that is not one is an error.

Each line that is wrong says so, and by which rule of either checker.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from msgspec import Struct
from typing_extensions import assert_type

from litestar_safe_sse import Event, Frame, InvalidFieldError, SSEMessage, StreamContext, sse
from tests.litestar.apps import serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


class Progress(Struct, tag="progress"):
    percent: int


class Done(Struct, tag="done"):
    pass


@dataclass
class Note:
    text: str


@sse("/right", prefetch=1, validate=True, ping_interval=None, tags=["jobs"])
async def right(count: int, stream: StreamContext) -> AsyncIterator[Progress | Annotated[Note, Event("note")] | str]:
    yield Progress(count)
    yield Note("a")
    yield "[DONE]"
    await stream.send(Progress(count))


@sse("/wrong")
async def wrong() -> AsyncIterator[Progress | Done]:
    yield Progress(1)
    yield "text"  # type: ignore[misc]
    yield Note("a")  # type: ignore[misc]


@sse("/sync")
def sync(names: list[str]) -> Iterator[Note]:
    yield Note(names[0])
    yield Done()  # type: ignore[misc]


@sse("/messages")
async def messages() -> AsyncIterator[SSEMessage[Progress] | Frame]:
    yield SSEMessage(Progress(1), id=1)
    yield SSEMessage(comment="nothing")
    yield Frame("data: x\n\n")
    yield SSEMessage(Done())  # type: ignore[arg-type]


@sse("/any_messages")
async def any_messages() -> AsyncIterator[SSEMessage]:
    yield SSEMessage({"a": 1})
    yield SSEMessage(comment="nothing")


def test_function_keeps_its_parameters() -> None:
    """It can be called by them, and returns what it is annotated with."""

    def calls(stream: StreamContext) -> None:
        assert_type(right.fn(count=1, stream=stream), AsyncIterator[Progress | Note | str])
        assert_type(sync.fn(["a"]), Iterator[Note])
        right.fn(count="1", stream=stream)  # type: ignore[arg-type]
        right.fn(stream=stream)  # type: ignore[call-arg]

    assert callable(calls)


def test_message_knows_its_data() -> None:
    """Of a message without data nothing is known."""
    assert_type(SSEMessage(Progress(1)).data, Progress)
    assert_type(SSEMessage(comment="x"), SSEMessage[Any])
    one: SSEMessage[Progress] = SSEMessage(Progress(1))
    either: SSEMessage[Progress | Done] = one
    assert either is one


def test_wrong_options_are_errors() -> None:
    """Of a name, and of a type."""

    async def ticks() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(InvalidFieldError):
        sse("/", prefech=1)(ticks)  # type: ignore[call-arg]
    with pytest.raises(InvalidFieldError):
        sse("/", ping_interval="soon")  # type: ignore[arg-type]


def test_function_that_is_no_generator_is_an_error() -> None:
    """Neither a coroutine function, nor one that returns a value."""

    async def coroutine() -> int:
        return 1

    with pytest.raises(InvalidFieldError):
        sse("/")(coroutine)  # type: ignore[type-var]
    with pytest.raises(InvalidFieldError):
        sse("/")(lambda: 1)  # type: ignore[type-var]


async def test_what_is_right_works() -> None:
    """At run time too."""
    async with serving(messages, any_messages) as (app, _):
        assert b"id: 1" in (await request(app, "/messages")).body
        assert b'data: {"a":1}' in (await request(app, "/any_messages")).body
