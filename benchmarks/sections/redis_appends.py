"""What an append to an event log on Redis costs: beside the command that it consists of, and while others replay."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from benchmarks.sections import Options
from benchmarks.sections.redis_fan_out import running_redis
from benchmarks.sections.redis_scale import a_log
from benchmarks.tables import Table, percentile
from litestar_safe_sse.sources import RedisEventLog
from litestar_safe_sse.sources.redis._appending import APPEND
from litestar_safe_sse.sources.redis._commands import plain

__all__ = ("redis_appends",)

T = TypeVar("T")

APPENDS = 2000
AT_ONCE = (1, 10, 50, 100)
RATIO, RATIO_OF_SCRIPT = "ratio", "ratio of `EVALSHA`"

MISSED = 100
"""Events that each client has missed."""
CLIENTS = (10, 30, 100)
BESIDE = {65_536: 100, 1_048_576: 30}
"""Sizes of large events, and the clients that replay them while appends are timed."""
IDLE = 2000
"""Appends to an idle log."""


def redis_appends(options: Options) -> list[Table]:
    """An append beside ``XADD``; what replays take, and what they leave to appends."""
    if shutil.which("redis-server") is None:
        options.progress("without Redis: there is no redis-server")
        return []
    return [appends(options), *replays(options)]


def appends(options: Options) -> Table:
    """An append beside the command that it consists of."""
    ours, bare, script = "`RedisEventLog.append`", "`XADD`", "`EVALSHA`"
    table = Table(
        "redis-append",
        "An append beside a bare `XADD`",
        [f"{tasks} at once" for tasks in AT_ONCE],
        f"Appends a second; of 50 bytes, {APPENDS:,} of each by turns. `XADD` is redis-py's, by a pool, and so is "
        "`EVALSHA`, which is the log's own script.",
        drawn=True,
        undrawn=(RATIO, RATIO_OF_SCRIPT),
    )
    with running_redis() as url:
        for _ in range(options.rounds):
            for tasks in AT_ONCE:
                options.progress(f"redis-append: {tasks} at once")
                column = f"{tasks} at once"
                rates = asyncio.run(_append(url, tasks))
                for row, rate in zip((ours, bare, script), rates, strict=True):
                    table.add(row, column, rate, 0)
                table.add(RATIO, column, rates[0] / rates[1])
                table.add(RATIO_OF_SCRIPT, column, rates[2] / rates[1])
    return table


async def _append(url: str, tasks: int) -> list[float]:
    async with a_log(url) as log, Redis.from_url(url) as redis:
        script = [APPEND.digest, *plain(log._appending.append("t", "x" * 50, None))]
        works: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append("t", "x" * 50),
            lambda: redis.xadd("bare", {"data": "x" * 50}, maxlen=10_000),
            lambda: redis.execute_command("EVALSHA", *script),
        ]
        spent = [0.0] * len(works)
        turns = max(1, APPENDS // max(200, tasks))
        for work in works:
            await work()
        for _ in range(turns):
            for number, work in enumerate(works):
                began = time.perf_counter()
                await asyncio.gather(*(_repeat(work, APPENDS // turns // tasks) for _ in range(tasks)))
                spent[number] += time.perf_counter() - began
        done = APPENDS // turns // tasks * tasks * turns
        return [done / each for each in spent]


async def _repeat(work: Callable[[], Awaitable[object]], times: int) -> None:
    for _ in range(times):
        await work()


def replays(options: Options) -> list[Table]:
    """Clients that missed large events, and the appends of their process and of another one meanwhile."""
    memory = Table(
        "redis-replays",
        "Large events that were missed",
        [f"{clients}" for clients in CLIENTS],
        f"MiB that a process grows by at the most; clients that have missed {MISSED} events each. The columns are the "
        "clients.",
        drawn=True,
    )
    latency = Table(
        "redis-replays-appends",
        "Appends while large events are replayed",
        ["p50, idle", "p50", "p99, idle", "p99", "a trip through the loop, p99"],
        f"Milliseconds; clients that have missed {MISSED} events each. The trip is two turns of the process's event "
        "loop, the least that an append takes.",
    )
    for _ in range(options.rounds):
        for size, beside in BESIDE.items():
            events = f"events of {size // 1024:,} KiB"
            for clients in CLIENTS:
                options.progress(f"redis-replays: {clients} clients, {events}")
                with running_redis() as url:
                    memory.add(events, f"{clients}", in_a_process(_grown, url, clients, size))
            for where, measure in (("their process", _beside), ("another process", _elsewhere)):
                options.progress(f"redis-replays: appends of {where}, {events}")
                with running_redis() as url:
                    for column, figure in in_a_process(measure, url, beside, size).items():
                        latency.add(f"by {where}, beside {beside} clients and {events}", column, figure)
    return [memory, latency]


def in_a_process(work: Callable[..., T], *arguments: Any) -> T:
    """Returns what a function returns in a new process, whose highest memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _grown(url: str, clients: int, size: int) -> float:
    async def run() -> float:
        async with a_log(url) as log:
            first = await _fill(log, size)
            before = _peak()
            await _replay(log, first, clients)
            return _peak() - before

    return asyncio.run(run())


def _peak() -> float:
    """Returns the most MiB that this program had; ``ru_maxrss`` remembers the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _beside(url: str, clients: int, size: int) -> dict[str, float]:
    async def run() -> dict[str, float]:
        async with a_log(url) as log:
            first = await _fill(log, size)
            idle = [await _timed(log) for _ in range(IDLE)]
            replaying = asyncio.ensure_future(_replay(log, first, clients))
            turning = asyncio.ensure_future(_trips(replaying))
            busy = []
            while not replaying.done():
                busy.append(await _timed(log))
            return _figures(idle, busy) | {"a trip through the loop, p99": percentile(await turning, 0.99)}

    return asyncio.run(run())


def _elsewhere(url: str, clients: int, size: int) -> dict[str, float]:
    """What :func:`_beside` measures, with the replays in a process of their own."""

    async def run() -> dict[str, float]:
        async with a_log(url) as log:
            first = await _fill(log, size)
            idle = [await _timed(log) for _ in range(IDLE)]
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                await asyncio.wrap_future(pool.submit(_peak))  # it is up
                replaying = pool.submit(_replay_apart, url, first, clients)
                busy = []
                while not replaying.done():
                    busy.append(await _timed(log))
                replaying.result()
            return _figures(idle, busy)

    return asyncio.run(run())


def _replay_apart(url: str, first: str, clients: int) -> None:
    async def run() -> None:
        async with a_log(url) as log:
            await _replay(log, first, clients)

    asyncio.run(run())


async def _fill(log: RedisEventLog, size: int) -> str:
    first = await log.append("t", "0")
    for _ in range(MISSED):
        await log.append("t", "x" * size)
    return first


async def _replay(log: RedisEventLog, first: str, clients: int) -> None:
    async def read() -> None:
        subscription = log.subscribe("t", after=first)
        for _ in range(MISSED):
            await subscription.__anext__()
            await asyncio.sleep(0.001)
        await subscription.aclose()

    await asyncio.gather(*(read() for _ in range(clients)))


async def _trips(until: asyncio.Future[None]) -> list[float]:
    taken = []
    while not until.done():
        began = time.perf_counter()
        for _ in range(2):
            await asyncio.sleep(0)
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.001)
    return taken


async def _timed(log: RedisEventLog) -> float:
    began = time.perf_counter()
    await log.append("other", "y")
    return (time.perf_counter() - began) * 1000


def _figures(idle: list[float], busy: list[float]) -> dict[str, float]:
    return {
        "p50, idle": percentile(idle, 0.5),
        "p50": percentile(busy, 0.5),
        "p99, idle": percentile(idle, 0.99),
        "p99": percentile(busy, 0.99),
    }
