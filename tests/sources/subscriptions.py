"""Reading from subscriptions: every wait is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel

from litestar_safe_sse import SSEMessage
from tests.bounds import WAIT


async def take(source: AsyncIterator[SSEMessage], many: int) -> list[SSEMessage]:
    """The next messages, as many as asked for; the one that only gives an ID is passed over."""
    taken: list[SSEMessage] = []
    with anyio.fail_after(WAIT):
        while len(taken) < many:
            message = await source.__anext__()
            if message.event != "subscribed":
                taken.append(message)
    return taken


async def take_all(source: AsyncIterator[SSEMessage]) -> list[SSEMessage]:
    """What is left until the source ends."""
    with anyio.fail_after(WAIT):
        return [message async for message in source]


async def begin(source: AsyncIterator[SSEMessage]) -> SSEMessage:
    """Starts a subscription that has nothing to be sent yet; its first message, which gives the ID."""
    with anyio.fail_after(WAIT):
        message = await source.__anext__()
    assert message.event == "subscribed"
    assert message.id
    return message


def data(messages: Iterable[SSEMessage]) -> list[Any]:
    return [message.data for message in messages]


def ids(messages: Iterable[SSEMessage]) -> list[str]:
    return [str(message.id) for message in messages]


async def until(condition: Callable[[], object]) -> None:
    """Lets everything else run until a condition holds."""
    with anyio.fail_after(WAIT):
        while not condition():
            await anyio.lowlevel.checkpoint()
