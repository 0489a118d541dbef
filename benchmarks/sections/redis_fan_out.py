"""One event on Redis to thousands of subscribers in one process: the cost of the source alone, without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from statistics import median

from litestar.channels import ChannelsPlugin
from litestar.channels.backends.base import ChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend, RedisChannelsStreamBackend
from redis.asyncio import Redis

from benchmarks.sections import Options
from benchmarks.servers import free_port
from benchmarks.tables import Table
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin

__all__ = ("redis_fan_out",)

SUBSCRIBERS = (20, 200, 2000)
EVENTS = 20
"""For each round: one after the other, each when everyone has the one before."""
FEWER = 10
"""A connection for each stream is so slow that every tenth event will do."""
OURS = "RedisEventLog"
EACH = "a connection for each (`XREAD`)"
COLUMNS = ["connections", "ms an event", "CPU ms an event", "ms, ratio to ours", "CPU, ratio to ours"]

Publish = Callable[[str], Awaitable[object]]


class Tally:
    """Counts what has arrived, and tells when everyone has it."""

    def __init__(self, subscribers: int) -> None:
        self.subscribers = subscribers
        self.left = 0
        self.all_there = asyncio.Event()

    def expect(self) -> None:
        self.left = self.subscribers
        self.all_there.clear()

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            self.all_there.set()


def redis_fan_out(options: Options) -> list[Table]:
    """The event log, Litestar's channels with either of its Redis backends, and a connection for each stream."""
    table = Table(
        "redis-fan-out",
        f"One event on Redis to {SUBSCRIBERS[-1]:,} subscribers",
        COLUMNS,
        "In one process, from the call that publishes until every subscriber's loop has the event. CPU is that of the "
        f"process, without Redis's. A round is the median of {EVENTS} events, for each of which the peers take turns.",
        OURS,
        {"connections": -3.0},
    )
    each = Table(
        "redis-fan-out-each",
        "One event on Redis, for each of its subscribers",
        [f"{many:,}" for many in SUBSCRIBERS],
        "Microseconds of CPU a subscriber; the columns are the subscribers.",
        drawn=True,
    )
    if shutil.which("redis-server") is None:
        options.progress("without Redis: there is no redis-server")
        return []
    for many in SUBSCRIBERS:
        with running_redis() as url:
            asyncio.run(_measure(options, url, many, table if many == SUBSCRIBERS[-1] else None, each))
    return [table, each]


async def _measure(options: Options, url: str, many: int, table: Table | None, each: Table) -> None:
    async with AsyncExitStack() as stack:
        counting = await stack.enter_async_context(Redis.from_url(url))
        peers: dict[str, tuple[Tally, Publish]] = {}
        for name, peer in PEERS.items():
            options.progress(f"redis-fan-out: {name}, {many:,} subscribe")
            before = await counting.info("clients")
            tally = Tally(many)
            peers[name] = tally, await stack.enter_async_context(peer(url, tally))
            await _one(*peers[name])
            after = await counting.info("clients")
            if table is not None:
                table.add(name, "connections", after["connected_clients"] - before["connected_clients"], 0)
        for number in range(options.rounds):
            options.progress(f"redis-fan-out: round {number + 1}")
            spent = await _round(peers)
            for name, (wall, cpu) in spent.items():
                each.add(name, f"{many:,}", 1000 * cpu / many)
                if table is not None:
                    table.add(name, "ms an event", wall)
                    table.add(name, "CPU ms an event", cpu)
                    table.add(name, "ms, ratio to ours", wall / spent[OURS][0])
                    table.add(name, "CPU, ratio to ours", cpu / spent[OURS][1])


async def _round(peers: dict[str, tuple[Tally, Publish]]) -> dict[str, tuple[float, float]]:
    """The peers take turns event by event, so that whatever else the machine does is shared out evenly."""
    walls: dict[str, list[float]] = {name: [] for name in peers}
    cpus: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(EVENTS):
        for name, peer in peers.items():
            if name == EACH and number % FEWER:
                continue
            await _one(*peer)  # not measured: it brings back the caches that the others have used
            cpu, began = time.process_time(), time.perf_counter()
            await _one(*peer)
            walls[name].append((time.perf_counter() - began) * 1000)
            cpus[name].append((time.process_time() - cpu) * 1000)
    return {name: (median(walls[name]), median(cpus[name])) for name in peers}


async def _one(tally: Tally, publish: Publish) -> None:
    tally.expect()
    await publish("x" * 100)
    await asyncio.wait_for(tally.all_there.wait(), 30)


@asynccontextmanager
async def consuming(consumers: list[Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(consume()) for consume in consumers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def event_log(url: str, tally: Tally) -> AsyncIterator[Publish]:
    plugin = RedisPlugin(url)
    log = RedisEventLog(plugin)
    subscriptions = [log.subscribe("all") for _ in range(tally.subscribers)]
    for subscription in subscriptions:
        await subscription.__anext__()  # the ID to resume from

    async def consume(number: int) -> None:
        async for _ in subscriptions[number]:
            tally.count()

    async with consuming([lambda number=number: consume(number) for number in range(tally.subscribers)]):  # type: ignore[misc]
        yield lambda text: log.append("all", text)
    await plugin.aclose()


@asynccontextmanager
async def channels(make: Callable[[Redis], ChannelsBackend], url: str, tally: Tally) -> AsyncIterator[Publish]:
    redis = Redis.from_url(url)
    async with redis, ChannelsPlugin(backend=make(redis), channels=["all"]) as plugin:
        subscribers = [await plugin.subscribe("all") for _ in range(tally.subscribers)]

        async def consume(number: int) -> None:
            async for _ in subscribers[number].iter_events():
                tally.count()

        async with consuming([lambda number=number: consume(number) for number in range(tally.subscribers)]):  # type: ignore[misc]
            yield lambda text: plugin.wait_published(text, "all")
        for subscriber in subscribers:
            await plugin.unsubscribe(subscriber)


def stream_backend(redis: Redis) -> ChannelsBackend:
    return RedisChannelsStreamBackend(history=100, redis=redis)


def pubsub_backend(redis: Redis) -> ChannelsBackend:
    return RedisChannelsPubSubBackend(redis=redis)


@asynccontextmanager
async def connection_each(url: str, tally: Tally) -> AsyncIterator[Publish]:
    async with Redis.from_url(url) as publisher, AsyncExitStack() as stack:
        first = await publisher.xadd("each", {"data": ""})
        clients = [
            await stack.enter_async_context(Redis.from_url(url, single_connection_client=True))
            for _ in range(tally.subscribers)
        ]

        async def consume(client: Redis) -> None:
            last = first
            while True:
                for _, entries in await client.xread({"each": last}, block=0):
                    last = entries[-1][0]
                    for _ in entries:
                        tally.count()

        async with consuming([lambda client=client: consume(client) for client in clients]):  # type: ignore[misc]
            blocked = 0
            while blocked < tally.subscribers:
                blocked = (await publisher.info("clients"))["blocked_clients"]
            yield lambda text: publisher.xadd("each", {"data": text}, maxlen=100)


PEERS: dict[str, Callable[[str, Tally], contextlib.AbstractAsyncContextManager[Publish]]] = {
    OURS: event_log,
    "Litestar channels, Streams backend": lambda url, tally: channels(stream_backend, url, tally),
    "Litestar channels, Pub/Sub backend": lambda url, tally: channels(pubsub_backend, url, tally),
    EACH: connection_each,
}


@contextmanager
def running_redis() -> Iterator[str]:
    """A server of our own, with nothing on disk."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = ["redis-server", "--port", f"{port}", "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        popen = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while popen.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            popen.kill()
            popen.wait()
