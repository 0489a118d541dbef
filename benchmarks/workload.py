"""What every peer streams: the same items and the same bodies, so that only the peers differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

__all__ = (
    "BODIES",
    "CLEANED",
    "EVENT",
    "HEARTBEAT",
    "ID",
    "ITEM_OF",
    "KIB",
    "RETRY",
    "TEXT",
    "UNICODE",
    "Broadcast",
    "Order",
    "beat",
    "events_of",
    "fed_queue",
    "one",
    "order",
    "wire",
)

TEXT = "The quick brown fox jumps over it"
KIB = (TEXT * 32)[:1024]
UNICODE = "Der na\u00efve Fuchs springt \u00fcber den Hund"
RETRY = 5000
EVENT = "tick"
ID = 1234567
BURST = 100
"""Events that a queue is given at once."""
CLEANED = "*"
"""What a body prints when it cleans up, to be counted."""
HEARTBEAT = 1.0
"""Seconds between heartbeats, and between those that a body has to make itself."""


class Order(msgspec.Struct):
    """A small value as an API might send it."""

    id: int
    customer: str
    total: float
    paid: bool
    items: list[str]


def order() -> Order:
    return Order(id=ID, customer="Ada Lovelace", total=129.5, paid=True, items=["tea", "biscuits"])


def wire(text: str, event: str | None = None, id: int | None = None) -> bytes:
    """The bytes of one event."""
    return b"".join(
        (
            b"" if event is None else f"event: {event}\r\n".encode(),
            b"" if id is None else f"id: {id}\r\n".encode(),
            f"data: {text}\r\n\r\n".encode(),
        )
    )


def events_of(query: bytes | str) -> int:
    """How many events a request asks for."""
    text = query.decode() if isinstance(query, bytes) else query
    return int(parse_qs(text).get("events", ["1"])[0])


async def same(item: Any, events: int) -> AsyncIterator[Any]:
    """Never waits, and yields one item again and again."""
    for _ in range(events):
        yield item


async def ready(make: Callable[[], Any], events: int) -> AsyncIterator[Any]:
    """Never waits, and makes each item afresh."""
    for _ in range(events):
        yield make()


async def queue(make: Callable[[], Any], events: int) -> AsyncIterator[Any]:
    """Is fed by a queue."""
    source = fed_queue(make, events)
    for _ in range(events):
        yield await source.get()


async def tick(make: Callable[[], Any], events: int) -> AsyncIterator[Any]:
    """Gives the loop a turn after each item."""
    for _ in range(events):
        yield make()
        await asyncio.sleep(0)


async def one(item: Any, events: int) -> AsyncIterator[Any]:
    """Yields once, then waits for its end."""
    yield item
    await asyncio.Event().wait()


async def beat(items: tuple[Any, Any], events: int) -> AsyncIterator[Any]:
    """One event, and then by hand what a heartbeat does, for those that have none."""
    event, heartbeat = items
    yield event
    while True:
        await asyncio.sleep(HEARTBEAT)
        yield heartbeat


def fed_queue(make: Callable[[], Any], events: int) -> asyncio.Queue[Any]:
    """A queue that a task fills up whenever it has run empty."""
    source: asyncio.Queue[Any] = asyncio.Queue(BURST)

    async def feed() -> None:
        left = events
        while left > 0:
            for _ in range(min(BURST, left)):
                source.put_nowait(make())
            left -= BURST
            while not source.empty():  # noqa: ASYNC110 - what reads it tells nobody
                await asyncio.sleep(0)

    source.feeder = asyncio.create_task(feed())  # type: ignore[attr-defined]  # else nothing would hold the task
    return source


class Broadcast:
    """One event to everyone who waits."""

    def __init__(self) -> None:
        # One for each: of callbacks that wait for the same one, asyncio looks through all to take one back.
        self._waiting: dict[asyncio.Future[None], None] = {}

    def publish(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    async def body(self, item: Any) -> AsyncIterator[Any]:
        """An item at once, and one for each :meth:`publish`."""
        try:
            yield item
            while True:
                await self._wait()
                yield item
        finally:
            print(CLEANED, end="", flush=True)


BODIES: dict[str, Callable[[Any, int], AsyncIterator[Any]]] = {
    "ready": ready,
    "same": same,
    "strings": same,
    "queue": queue,
    "tick": tick,
    "kib": ready,
    "typed": same,
    "built": ready,
    "dict": ready,
    "foreign": ready,
    "fields": ready,
    "unicode": ready,
    "carried": ready,
    "one": one,
    "beat": beat,
}
"""The paths of a peer, and the body behind each."""

ITEM_OF = {
    "ready": "fresh",
    "same": "message",
    "strings": "text",
    "queue": "fresh",
    "tick": "fresh",
    "kib": "kib",
    "typed": "typed",
    "built": "make",
    "dict": "dict",
    "foreign": "foreign",
    "fields": "fields",
    "unicode": "unicode",
    "carried": "carried",
    "one": "message",
    "beat": "beat",
}
"""Which of a peer's items each path sends."""
