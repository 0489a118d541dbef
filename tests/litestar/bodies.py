"""Bodies, and what they note in a trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel

Trace = list[Any]

ENDLESS = ["body begins", "body ends", "cleaned: client_disconnected"]
BRIEF = ["body begins", "body ends", "cleaned: completed"]


async def endless(trace: Trace, *items: object) -> AsyncIterator[object]:
    """A body that yields some items and then waits, and that awaits while it ends."""
    trace.append("body begins")
    try:
        for item in items or ("begun",):
            yield item
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):  # as trio asks for
            await anyio.lowlevel.checkpoint()
        trace.append("body ends")


async def brief(trace: Trace, *items: object) -> AsyncIterator[object]:
    """A body that comes to its end by itself."""
    trace.append("body begins")
    for item in items or ("begun",):
        yield item
    trace.append("body ends")


class Closeable:
    """An async iterator that holds something from the moment it is made."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __aiter__(self) -> Closeable:
        self.trace.append("started")
        return self

    async def __anext__(self) -> str:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.trace.append("closed")
