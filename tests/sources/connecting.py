"""Clients that leave while their bodies connect to Redis, at every instant of it.

``python -m tests.sources.connecting`` prints how soon they are cleaned up, as a row of the table in ``docs/redis.md``.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import anyio
from redis.asyncio import Redis

from litestar_safe_sse import StreamContext
from tests.bounds import NEVER
from tests.core.apps import Probe, Server
from tests.core.clients import Connection
from tests.redis_server import running_redis

INSTANTS = 100
"""Turns of the event loop, in which a client has connected and begun to wait."""

Waiting = Callable[[Redis], Awaitable[None]]


async def blpop(client: Redis) -> None:
    await client.blpop(["nothing"], timeout=0)  # type: ignore[misc,unused-ignore]


async def ping_and_blpop(client: Redis) -> None:
    await client.ping()  # type: ignore[misc,unused-ignore]
    await client.blpop(["nothing"], timeout=0)  # type: ignore[misc,unused-ignore]


async def blpop_within_a_time(client: Redis) -> None:
    await asyncio.wait_for(blpop(client), NEVER)


async def subscribe(client: Redis) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("nothing")
        async for _ in pubsub.listen():
            pass


class Visits:
    """What became of each client, by its number. A body has an hour to end, and nobody waits for that.

    Args:
        url: Where Redis is.
        waiting: What each body does with a client of redis-py.
    """

    def __init__(self, url: str, waiting: Waiting) -> None:
        self.server = Server(self._body)
        self.stories: dict[int, list[str]] = {}
        self.seconds: list[float] = []
        """From leaving to the cleanup."""
        self._url = url
        self._waiting = waiting
        self._left: dict[int, float] = {}

    async def _body(self, probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        number = stream.request["number"]
        story = self.stories[number] = ["connects"]
        stream.callback(self._clean, number)
        client = Redis.from_url(self._url)
        try:
            probe.note(f"{number} connects")
            await self._waiting(client)
            yield "never"
        finally:
            await client.aclose()
            story.append("finally")

    def _clean(self, number: int) -> None:
        self.seconds.append(time.perf_counter() - self._left[number])
        self.stories[number].append("cleaned")

    async def run(self, count: int, *, at_once: int) -> None:
        """Has so many clients come and leave.

        Args:
            count: How many clients.
            at_once: How many of them at the same time.
        """
        for first in range(0, count, at_once):
            async with anyio.create_task_group() as group:
                for number in range(first, min(first + at_once, count)):
                    group.start_soon(self._visit, number)

    async def _visit(self, number: int) -> None:
        connection = Connection()
        connection.scope["number"] = number
        async with anyio.create_task_group() as group:
            group.start_soon(self.server.app, connection.scope, connection.receive, connection.send)
            await self.server.probe.until(f"{number} connects")
            for _ in range(number * 7 % INSTANTS):
                await asyncio.sleep(0)
            self._left[number] = time.perf_counter()
            connection.leave()


def main() -> None:
    with TemporaryDirectory() as directory, running_redis(Path(directory)) as redis:
        visits = Visits(redis.url, ping_and_blpop)
        asyncio.run(visits.run(1000, at_once=10))
    percents = [1000 * seconds for seconds in (*quantiles(visits.seconds, n=100), max(visits.seconds))]
    figures = " | ".join(f"{percents[index]:.1f}" for index in (49, 89, 98, -1))
    print(f"| {platform.python_version()}, redis-py {version('redis')} | {len(visits.seconds):,} | {figures} |")
    print(f"(load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
