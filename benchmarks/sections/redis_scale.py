"""An event log on Redis at scale: many topics, many clients that come back at once, and what an append costs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from benchmarks.sections import Options
from benchmarks.sections.redis_fan_out import running_redis
from benchmarks.tables import Table, percentile
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin

__all__ = ("redis_scale",)

TOPICS = (10, 1_000, 10_000, 100_000)
EVENTS = 500
"""For each number of topics."""
CLIENTS = 1000
AWAY = 3.0
RATES = (50, 200)
APPENDS = 2000
LARGE = ((100, 65_536), (30, 1_048_576))
"""Clients, and bytes of each of the events that they missed."""


def redis_scale(options: Options) -> list[Table]:
    """What topics cost, how long it takes to come back together, and what an append costs beside ``XADD``."""
    if shutil.which("redis-server") is None:
        options.progress("without Redis: there is no redis-server")
        return []
    return [measure(options) for measure in (topics, coming_back, appends, replays)]


@asynccontextmanager
async def a_log(url: str) -> AsyncIterator[RedisEventLog]:
    plugin = RedisPlugin(url)
    yield RedisEventLog(plugin)
    await plugin.aclose()


async def _sent(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_net_input_bytes"])


# Topics


def topics(options: Options) -> Table:
    """A topic with one subscriber each, in one process."""
    table = Table(
        "redis-topics",
        "What an event costs, with a topic for each subscriber",
        ["CPU ms a join", "CPU ms an event", "KiB to Redis an event", "ms to the subscriber", "CPU ms a leave"],
        f"In one process, which appends too: {EVENTS} events to random topics, one after the other. CPU is its own.",
    )
    for _ in range(options.rounds):
        for many in TOPICS:
            options.progress(f"redis-topics: {many:,}")
            with running_redis() as url:
                for column, value in asyncio.run(_with_topics(url, many)).items():
                    table.add(f"{many:,} topics", column, value, 3)
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
            "CPU ms a join": joined * 1000 / many,
            "CPU ms an event": cpu * 1000 / EVENTS,
            "KiB to Redis an event": sent / EVENTS / 1024,
            "ms to the subscriber": percentile(lags, 0.5),
            "CPU ms a leave": left * 1000 / many,
        }


# Coming back


def coming_back(options: Options) -> Table:
    """All clients of a topic lose their connections, and come back when they have missed something."""
    table = Table(
        "redis-coming-back",
        f"{CLIENTS:,} clients that come back together after {AWAY:g} s",
        ["events missed by each", "s until all are live"],
        "To one topic, in one process, which appends too; they are live when each has had the last event within 0.2 s.",
    )
    for _ in range(options.rounds):
        for rate in RATES:
            options.progress(f"redis-coming-back: {rate} events a second")
            with running_redis() as url:
                missed, seconds = asyncio.run(_come_back(url, rate))
            table.add(f"{rate} events a second", "events missed by each", missed, 0)
            table.add(f"{rate} events a second", "s until all are live", seconds)
    return table


async def _come_back(url: str, rate: int) -> tuple[int, float]:
    async with a_log(url) as log:
        first, appended = await log.append("t", "0"), 0
        latest = [0.0] * CLIENTS

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
        missed, began = appended, time.monotonic()
        reading = [asyncio.ensure_future(read(number)) for number in range(CLIENTS)]
        while time.monotonic() - min(latest) > 0.2 and time.monotonic() - began < 30:  # noqa: ASYNC110 - is polled
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        for task in (appending, *reading):
            task.cancel()
        await asyncio.wait([appending, *reading])
        return missed, seconds


# Appends


def appends(options: Options) -> Table:
    """An append beside the command that it consists of."""
    table = Table(
        "redis-append",
        "An append beside a bare `XADD`",
        ["appends a second", "ratio to XADD"],
        f"Of 50 bytes, {APPENDS:,} one after the other, by turns; and as many by 50 tasks. `XADD` is redis-py's.",
    )
    with running_redis() as url:
        for _ in range(options.rounds):
            for tasks in (1, 50):
                options.progress(f"redis-append: {tasks} tasks")
                ours, bare = asyncio.run(_append(url, tasks))
                for name, rate in (("RedisEventLog.append", ours), ("XADD", bare)):
                    row = f"{name}, {tasks} at once"
                    table.add(row, "appends a second", rate, 0)
                    table.add(row, "ratio to XADD", rate / bare)
    return table


async def _append(url: str, tasks: int) -> tuple[float, float]:
    async with a_log(url) as log, Redis.from_url(url) as redis:
        works: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append("t", "x" * 50),
            lambda: redis.xadd("bare", {"data": "x" * 50}, maxlen=10_000),
        ]
        spent = [0.0, 0.0]
        for work in works:
            await work()
        for _ in range(APPENDS // 200):
            for number, work in enumerate(works):
                began = time.perf_counter()
                await asyncio.gather(*(_repeat(work, 200 // tasks) for _ in range(tasks)))
                spent[number] += time.perf_counter() - began
        return APPENDS / spent[0], APPENDS / spent[1]


async def _repeat(work: Callable[[], Awaitable[object]], times: int) -> None:
    for _ in range(times):
        await work()


# Replays


def replays(options: Options) -> Table:
    """Clients that missed large events, and the appends of the same process meanwhile."""
    table = Table(
        "redis-replays",
        "Large events that were missed, and appends meanwhile",
        ["MiB that were missed", "MiB more at the most", "p99 ms of an append", "p99 ms, idle"],
        "100 events, missed by each client. The memory is the process's resident set at its highest.",
    )
    for clients, size in LARGE:
        options.progress(f"redis-replays: {clients} clients")
        row = f"{clients} clients, events of {size // 1024:,} KiB"
        with running_redis() as url:
            grown, busy, idle = asyncio.run(_replay(url, clients, size))
        table.add(row, "MiB that were missed", clients * 100 * size / 2**20, 0)
        table.add(row, "MiB more at the most", grown)
        table.add(row, "p99 ms of an append", busy)
        table.add(row, "p99 ms, idle", idle)
    return table


async def _replay(url: str, clients: int, size: int) -> tuple[float, float, float]:
    async with a_log(url) as log:
        first = await log.append("t", "0")
        for _ in range(100):
            await log.append("t", "x" * size)
        idle = [await _timed(log) for _ in range(300)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        busy = []

        async def read() -> None:
            subscription = log.subscribe("t", after=first)
            for _ in range(100):
                await subscription.__anext__()
                await asyncio.sleep(0.001)
            await subscription.aclose()

        reading = asyncio.gather(*(read() for _ in range(clients)))
        with contextlib.suppress(asyncio.CancelledError):
            while not reading.done():
                busy.append(await _timed(log))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        return grown, percentile(busy, 0.99), percentile(idle, 0.99)


async def _timed(log: RedisEventLog) -> float:
    began = time.perf_counter()
    await log.append("other", "y")
    return (time.perf_counter() - began) * 1000
