"""What type checkers know of ``@sse_websocket``: mypy and pyright check this file, as ``test_sse_types.py``."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec import Struct

from litestar_safe_sse import InvalidFieldError, StreamContext, sse, sse_websocket
from litestar_safe_sse.websocket import SSEWebSocketHandler


class Progress(Struct, tag="progress"):
    percent: int


@sse_websocket("/right", mode="binary", resume_timeout=1, ping_interval=None, guards=[])
async def right(count: int, stream: StreamContext) -> AsyncIterator[Progress | str]:
    yield Progress(count)
    yield "[DONE]"


@sse_websocket("/wrong")
async def wrong() -> AsyncIterator[Progress]:
    yield Progress(1)
    yield "text"  # type: ignore[misc]


@sse("/both", websocket="/ws")
async def both() -> AsyncIterator[Progress]:
    yield Progress(1)


def test_handler_keeps_the_type_of_its_events() -> None:
    """And of its parameters."""
    handler: SSEWebSocketHandler[[int, StreamContext], AsyncIterator[Progress | str]] = right
    assert handler is right


def test_wrong_options_are_errors() -> None:
    """Of a name, and of a type."""

    async def scores() -> AsyncIterator[Progress]:
        yield Progress(1)

    with pytest.raises(InvalidFieldError):
        sse_websocket("/", prefetch=1)(scores)  # type: ignore[call-arg]
    with pytest.raises(InvalidFieldError):
        sse_websocket("/", mode="json")  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError):
        sse("/", websocket=1)  # type: ignore[arg-type]
