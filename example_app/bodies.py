"""The kinds of streams. Each body is written once and sent either way: nothing in here knows which library sends it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from example_app.ledger import Resource

__all__ = ["KINDS", "Event", "Kind", "Mailbox"]

Event = dict[str, Any]
Body = AsyncIterator[Event] | Iterator[Event]

ANSWER = """
A stream that ends is easy. A stream that is left is not: the tab closes, the train enters a tunnel, the deploy begins,
and somewhere a generator sits at its yield with a connection in its hand. Nobody will ever ask it for another word, and
nobody has told it so. A good server tells it once, waits while it says goodbye, and counts what came back.
"""
TOKENS_PER_SECOND = 12


class Mailbox:
    """Delivers each notification to everybody who is subscribed."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Queue[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=16)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def publish(self, text: str) -> int:
        for queue in self._queues:
            if not queue.full():
                queue.put_nowait(text)
        return len(self._queues)


async def answer(upstream: Resource, _: Mailbox) -> AsyncIterator[Event]:
    async with upstream:
        for word in chain.from_iterable(repeat(ANSWER.split(), 4)):
            await anyio.sleep(1 / TOKENS_PER_SECOND)
            yield {"event": "token", "data": word}


async def notifications(connection: Resource, mailbox: Mailbox) -> AsyncIterator[Event]:
    async with connection:
        with mailbox.subscribe() as queue:
            while True:
                yield {"event": "notification", "data": await queue.get()}


async def job(connection: Resource, _: Mailbox) -> AsyncIterator[Event]:
    async with connection:
        for percent in range(101):
            yield {"event": "progress", "data": json({"percent": percent})}
            await anyio.sleep(0.1)


async def dashboard(cursor: Resource, _: Mailbox) -> AsyncIterator[Event]:
    async with cursor:
        load = 50.0
        while True:
            load = min(99.0, max(1.0, load + random.uniform(-6, 6)))
            yield {"event": "tick", "data": json({"load": round(load, 1)})}
            await anyio.sleep(0.5)


def report(cursor: Resource, _: Mailbox) -> Iterator[Event]:
    with cursor:
        for row in range(1, 1001):
            time.sleep(0.3)
            yield {"event": "row", "id": row, "data": f"row {row} of 1000"}


async def export(file: Resource, _: Mailbox) -> AsyncIterator[Event]:
    async with file:
        for block in range(1, 20_001):
            yield {"event": "block", "id": block, "data": f"block {block} " + "·" * 4096}
            # Litestar's own response never lets the event loop turn while a gone client's events fall into nothing:
            # without this, one such client would freeze the demo.
            await anyio.lowlevel.checkpoint()


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True)
class Kind:
    """One kind of stream, and how the page speaks of it."""

    name: str
    title: str
    about: str
    holds: str
    body: Callable[[Resource, Mailbox], Body]
    crowd: int = 100
    tokens_per_second: float = 0.0
    slow_reader: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "notifications",
            "Notifications",
            "Waits on a queue, for ever if need be.",
            "a queue connection",
            notifications,
        ),
        Kind(
            "answer",
            "LLM answer",
            "Relays an upstream that bills every token.",
            "an upstream request",
            answer,
            tokens_per_second=TOKENS_PER_SECOND,
        ),
        Kind("job", "Job progress", "From 0 to 100 %, then it ends by itself.", "a database connection", job),
        Kind("dashboard", "Dashboard", "A reading every half second.", "a metrics cursor", dashboard),
        Kind(
            "report",
            "Blocking report",
            "A plain generator, run in a thread.",
            "a cursor of a blocking driver",
            report,
            crowd=20,  # each waits in a worker thread, and there are 40 of those
        ),
        Kind(
            "export",
            "Fast export",
            "Faster than you read: it stands at its yield.",
            "an open file",
            export,
            crowd=20,  # a socket buffers megabytes for a reader that does not read
            slow_reader=True,
        ),
    )
}
