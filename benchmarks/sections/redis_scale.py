"""An event log on Redis at scale: many topics, and many clients that come back at once."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from benchmarks.sections import Options
from benchmarks.sections.redis_fan_out import running_redis
from benchmarks.tables import Table, percentile
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin

__all__ = ("a_log", "redis_scale")

TOPICS = (10, 1_000, 10_000, 100_000)
EVENTS = 5_000
"""For each number of topics."""
EVENT, JOIN, LEAVE = "an event", "a join", "a leave"
SENT, REACHED = "KiB to Redis an event", "ms until a subscriber has an event"

CLIENTS = (100, 1_000, 10_000)
AWAY = 3.0
RATES = (50, 200, 1_000)
CURRENT = 0.2
"""Seconds that the last event of a client who is live may be old."""
PATIENCE = 60.0


def redis_scale(options: Options) -> list[Table]:
    """What topics cost, and how long it takes to come back together."""
    if shutil.which("redis-server") is None:
        options.progress("without Redis: there is no redis-server")
        return []
    return [measure(options) for measure in (topics, coming_back)]


@asynccontextmanager
async def a_log(url: str) -> AsyncIterator[RedisEventLog]:
    plugin = RedisPlugin(url)
    yield RedisEventLog(plugin)
    await plugin.aclose()


# Topics


def topics(options: Options) -> Table:
    """A topic with one subscriber each, in one process."""
    table = Table(
        "redis-topics",
        "What an event costs, with a topic for each subscriber",
        [f"{many:,}" for many in TOPICS],
        f"Milliseconds of CPU; of one process, which appends {EVENTS:,} events to random topics too, one after the "
        "other, and looks at a thousand topics a second. The columns are the topics.",
        drawn=True,
        undrawn=(SENT, REACHED, JOIN, LEAVE),  # few joins have to bear the opening of the connections
    )
    for _ in range(options.rounds):
        for many in TOPICS:
            options.progress(f"redis-topics: {many:,}")
            with running_redis() as url:
                for row, value in asyncio.run(_with_topics(url, many)).items():
                    table.add(row, f"{many:,}", value, 3)
    return table


async def _with_topics(url: str, many: int) -> dict[str, float]:
    async with a_log(url) as log, Redis.from_url(url) as redis:
        began = time.process_time()
        subscriptions = [log.subscribe(f"user {number}") for number in range(many)]
        for start in range(0, many, 1000):
            await asyncio.gather(*(one.__anext__() for one in subscriptions[start : start + 1000]))
        await asyncio.sleep(1)
        joined = time.process_time() - began
        await log.append("user 0", "x")
        await subscriptions[0].__anext__()
        sent, began, lags = await _sent(redis), time.process_time(), []
        for _ in range(EVENTS):
            number = random.randrange(many)
            at = time.perf_counter()
            await log.append(f"user {number}", "x" * 50)
            await subscriptions[number].__anext__()
            lags.append((time.perf_counter() - at) * 1000)
        cpu, sent = time.process_time() - began, await _sent(redis) - sent
        began = time.process_time()
        for one in subscriptions:
            await one.aclose()
        await asyncio.sleep(0.5)
        left = time.process_time() - began
        return {
            EVENT: cpu * 1000 / EVENTS,
            LEAVE: left * 1000 / many,
            JOIN: joined * 1000 / many,
            REACHED: percentile(lags, 0.5),
            SENT: sent / EVENTS / 1024,
        }


async def _sent(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_net_input_bytes"])


# Coming back


def coming_back(options: Options) -> Table:
    """All clients of a topic lose their connections, and come back when they have missed something."""
    table = Table(
        "redis-coming-back",
        f"Clients that come back together after {AWAY:g} s",
        [f"{clients:,}" for clients in CLIENTS],
        "Seconds until all are live; to one topic, in one process, which appends too. A client is live when it has had "
        f"the last event within {CURRENT:g} s. The columns are the clients.",
        drawn=True,
    )
    for _ in range(options.rounds):
        for rate in RATES:
            for clients in CLIENTS:
                options.progress(f"redis-coming-back: {clients:,} clients, {rate} events a second")
                with running_redis() as url:
                    seconds = asyncio.run(_come_back(url, rate, clients))
                table.add(f"{rate:,} events a second", f"{clients:,}", seconds)
    return table


async def _come_back(url: str, rate: int, clients: int) -> float:
    async with a_log(url) as log:
        first, appended = await log.append("t", "0"), 0
        latest = [0.0] * clients

        async def append() -> None:
            nonlocal appended
            began = time.monotonic()
            while True:
                await log.append("t", f"{time.monotonic()}")
                appended += 1
                await asyncio.sleep(max(0.0, began + appended / rate - time.monotonic()))

        async def read(number: int) -> None:
            async for message in log.subscribe("t", after=first):
                latest[number] = float(message.data)

        appending = asyncio.ensure_future(append())
        await asyncio.sleep(AWAY)
        began = time.monotonic()
        reading = [asyncio.ensure_future(read(number)) for number in range(clients)]
        while time.monotonic() - min(latest) > CURRENT:
            if time.monotonic() - began > PATIENCE:
                began = float("-inf")  # they never are
                break
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        for task in (appending, *reading):
            task.cancel()
        await asyncio.wait([appending, *reading])
        return seconds
