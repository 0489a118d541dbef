"""What is counted: streams of a whole application, from the request to a ``send`` that does nothing.

It runs in Valgrind, as ``python -m benchmarks.instructions.driver LIBRARY``, and by itself to see whether it works.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

STEP = 1e-6
"""Seconds that pass between two looks at the clock, since what a stream does depends on the time."""

FEW, MANY = 20, 220

# Before the package is imported, which takes the function by its name.
time.monotonic = itertools.count(1.0, STEP).__next__  # type: ignore[assignment]

from litestar import Litestar, get  # noqa: E402
from litestar.response import ServerSentEventMessage  # noqa: E402

from benchmarks.workload import EVENT, ID, KIB, TEXT, order  # noqa: E402
from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage  # noqa: E402

__all__ = ("FEW", "MANY", "REQUEST", "main")

MESSAGE = SSEMessage(TEXT, event=EVENT)
ORDER = order()
REQUEST = "request"
ITEMS: dict[str, Callable[[], Any]] = {
    "messages": lambda: SSEMessage(TEXT, event=EVENT),
    "strings": lambda: TEXT,
    "dict": lambda: {"data": TEXT, "event": EVENT},
    "Litestar's": lambda: ServerSentEventMessage(data=TEXT, event=EVENT),
    "with an ID": lambda: SSEMessage(TEXT, event=EVENT, id=ID),
    "all fields": lambda: SSEMessage(TEXT, event=EVENT, id=ID, retry=5000, comment=TEXT),
    "not ASCII": lambda: SSEMessage("na\u00efve", event=EVENT),
    "1 KiB": lambda: SSEMessage(KIB, event=EVENT),
    "Struct": lambda: ORDER,
    "Struct in a message": lambda: SSEMessage(ORDER, event=EVENT),
    "the same message": lambda: MESSAGE,
}
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "scheme": "http",
    "headers": [],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 80),
    "extensions": {},
}


async def ready(make: Callable[[], Any], events: int) -> AsyncIterator[Any]:
    for _ in range(events):
        yield make()


async def tick(events: int) -> AsyncIterator[Any]:
    for _ in range(events):
        yield MESSAGE
        await asyncio.sleep(0)


async def queue(events: int) -> AsyncIterator[Any]:
    source: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(events):
        source.put_nowait(SSEMessage(TEXT, event=EVENT))
    for _ in range(events):
        yield await source.get()


class Driver:
    """One application, and a client that takes all that it is sent."""

    def __init__(self) -> None:
        self.body: AsyncIterator[Any] | None = None
        self.sent = 0

        @get("/")
        async def stream() -> SafeServerSentEvent:
            return SafeServerSentEvent(self.body)

        self.app = Litestar([stream], plugins=[SafeSSEPlugin()], logging_config=None, openapi_config=None)

    async def request(self, body: AsyncIterator[Any]) -> None:
        self.body = body
        request = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            for message in request:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            self.sent += message.get("body", b"").count(b"data: ")

        await self.app({**SCOPE, "state": {}}, receive, send)  # type: ignore[arg-type]

    async def events(self, make: Callable[[int], AsyncIterator[Any]], count: int) -> None:
        self.sent = 0
        await self.request(make(count))
        if self.sent != count:
            raise RuntimeError(f"{self.sent} of {count} events were sent")

    async def requests(self, count: int) -> None:
        for _ in range(count):
            await self.events(lambda events: ready(lambda: TEXT, events), 1)


def bodies() -> dict[str, Callable[[int], AsyncIterator[Any]]]:
    made = {name: (lambda events, make=make: ready(make, events)) for name, make in ITEMS.items()}
    return {**made, "tick": tick, "queue": queue}


async def drive(begin: Callable[[], object], note: Callable[[bytes], object]) -> None:
    driver = Driver()
    works: dict[str, Callable[[int], Awaitable[None]]] = {
        name: (lambda count, body=body: driver.events(body, count)) for name, body in bodies().items()
    }
    works[REQUEST] = driver.requests
    async with driver.app.lifespan():
        for work in works.values():  # what is done once is not counted
            await work(FEW)
        gc.collect()
        gc.disable()
        begin()
        for name, work in works.items():
            for count in (FEW, MANY):
                note(b"between")
                await work(count)
                note(f"{name} {count}".encode())


def main(library: str | None) -> None:
    if library is None:
        asyncio.run(drive(lambda: None, print))
    else:
        counter = ctypes.CDLL(library)
        asyncio.run(drive(counter.begin, counter.note))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
