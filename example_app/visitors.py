"""A crowd of visitors: real connections from this process to itself, all hung up at the same instant.

Browsers allow six connections a site over HTTP/1.1; a crowd has to come from somewhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median

import anyio
import msgspec

from example_app.ledger import Ledger, Resource

__all__ = ["Crowd", "send_crowd"]

ARRIVE_WITHIN = 5.0
STAY = 0.8  # long enough to be seen
WATCH = 2.0


class Crowd(msgspec.Struct):
    """What became of a crowd. ``held`` is what its streams still hold ``watched_seconds`` after the last has left."""

    opened: int
    held: int
    watched_seconds: float
    median_ms: float | None
    slowest_ms: float | None


class Visitor:
    """One connection that asks for a stream, and neither reads on nor says goodbye."""

    def __init__(self, writer: asyncio.StreamWriter, number: int) -> None:
        self._writer = writer
        self.number = number

    @classmethod
    async def arrive(cls, host: str, port: int, path: str) -> Visitor | None:
        reader, writer = await asyncio.open_connection(host, port)
        name = f"[{host}]" if ":" in host else host
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nAccept: text/event-stream\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except BaseException:
            writer.transport.abort()
            raise
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        if " 200 " not in f"{head[0]} " or "x-stream" not in headers:
            writer.transport.abort()
            return None
        return cls(writer, int(headers["x-stream"]))

    def hang_up(self) -> None:
        self._writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    # Blocking bodies open and release in threads, where no event of the loop can be set.
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.01)


async def send_crowd(host: str, port: int, path: str, size: int, ledger: Ledger) -> Crowd:
    """Opens ``size`` streams, waits until each holds its resource, leaves them all at once, and watches."""
    visitors: list[Visitor] = []

    async def arrive() -> None:
        try:
            visitor = await Visitor.arrive(host, port, path)
        except (OSError, asyncio.IncompleteReadError):
            return
        if visitor is not None:
            visitors.append(visitor)

    resources: list[Resource] = []
    try:
        with anyio.move_on_after(ARRIVE_WITHIN):
            async with anyio.create_task_group() as arrivals:
                for _ in range(size):
                    arrivals.start_soon(arrive)
            await until(lambda: all(ledger.find(visitor.number) for visitor in visitors))
        await anyio.sleep(STAY)
        held = (ledger.find(visitor.number) for visitor in visitors)
        resources.extend(resource for resource in held if resource is not None)
        for resource in resources:
            resource.leave()
    finally:
        for visitor in visitors:
            visitor.hang_up()

    left = time.monotonic()
    with anyio.move_on_after(WATCH):
        await until(lambda: all(resource.released_at is not None for resource in resources))

    times = [resource.cleanup * 1000 for resource in resources if resource.cleanup is not None]
    return Crowd(
        opened=len(resources),
        held=len(resources) - len(times),
        watched_seconds=round(time.monotonic() - left, 1),
        median_ms=round(median(times), 1) if times else None,
        slowest_ms=round(max(times), 1) if times else None,
    )
