"""Streams that come and go leave nothing: no connection, no task, no descriptor, no subscriber, no item."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources.channels import ChannelsSource
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import RedisPubSub
from litestar_safe_sse.sources.redis.queue import RedisQueue
from tests.bounds import WAIT
from tests.sources.channels import Channels
from tests.sources.clients import Visit, eventually
from tests.suspensions import Suspensions

pytestmark = pytest.mark.anyio

CYCLES = int(os.environ.get("SAFE_SSE_CYCLES", "2500"))
"""Visits to each of the four kinds of sources: ten thousand in all."""

AT_ONCE = 250
MANY = 400


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


class Feed:
    """A source of each kind, and how it is fed."""

    def __init__(self, plugin: RedisPlugin, kind: str, channels: ChannelsPlugin) -> None:
        self.plugin = plugin
        self.kind = kind
        self.queue: Any = None
        self.channels = channels
        self._pubsub = RedisPubSub(plugin)
        self._source = ChannelsSource(channels)
        if kind == "queue":
            self.queue = RedisQueue(plugin, "jobs", slice=0.1, settle=0.05)
        elif kind == "group":
            self.queue = RedisGroupQueue(plugin, "jobs", slice=0.1, settle=0.05)

    def subscribe(self, stream: StreamContext) -> Any:
        if self.queue is not None:
            return self.queue.items(stream)
        if self.kind == "pubsub":
            return self._pubsub.subscribe("news", patterns=["n*"])
        return self._source.subscribe("news")

    async def feed(self, text: str) -> None:
        if self.queue is not None:
            await self.queue.push(text)
        elif self.kind == "pubsub":
            await self._pubsub.publish("news", text)
        else:
            await self.channels.wait_published(text, "news")


@asynccontextmanager
async def feeding(redis_url: str, kind: str) -> AsyncIterator[tuple[Litestar, Feed]]:
    plugin = RedisPlugin(redis_url)
    client = Redis.from_url(redis_url)
    channels = Channels(RedisChannelsPubSubBackend(redis=client), arbitrary_channels_allowed=True)
    feed = Feed(plugin, kind, channels)

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(feed.subscribe(stream))

    app = Litestar([handler], plugins=[SafeSSEPlugin(), plugin, channels])
    try:
        async with app.lifespan():
            yield app, feed
    finally:
        await client.aclose()


async def state(redis: Redis) -> tuple[int, int, int]:
    """Connections, tasks and descriptors."""
    return len(await redis.client_list()), len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["queue", "group", "pubsub", "channels"])
async def test_thousands_of_visits_leave_no_trace(redis_url: str, redis: Redis, kind: str) -> None:
    """Clients that leave at random moments, while items come."""
    chance = random.Random(kind)
    async with feeding(redis_url, kind) as (app, feed):

        async def visit() -> None:
            visit = Visit(app).start()
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            await visit.leave_and_end()

        async def round(number: int) -> None:
            await asyncio.gather(feed.feed(str(number)), *(visit() for _ in range(AT_ONCE)))

        await round(-1)
        await eventually(lambda: not feed.plugin.loop_state().shared)
        gc.collect()
        before = await state(redis)
        for number in range(CYCLES // AT_ONCE):
            await round(number)
        await eventually(lambda: not feed.plugin.loop_state().shared)
        gc.collect()
        await eventually(lambda: _same(redis, before))
        assert sum(map(len, feed.channels._channels.values())) == 0
        if feed.queue is not None:
            assert await feed.queue.length() <= CYCLES // AT_ONCE + 1


async def _same(redis: Redis, before: tuple[int, int, int]) -> bool:
    return await state(redis) <= before


@pytest.mark.parametrize("kind", ["queue", "group", "pubsub", "channels"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancellation_at_any_await_leaves_nothing_behind(
    redis_url: str, redis: Redis, kind: str, times: int
) -> None:
    """Of one who iterates: what comes after has a connection that answers, and every item is somewhere."""
    async with feeding(redis_url, kind) as (_, feed):
        got: list[str] = []

        async def consume(stream: Any) -> None:
            async with feed.queue.items(None) if kind == "queue" else feed.subscribe(stream) as source:
                for _ in range(2):
                    with anyio.move_on_after(0.02):  # a wait is cut off as well
                        got.append(text_of(await anext(source)))

        at = 0
        pushed = 0
        while True:
            at += 1
            assert at < MANY
            seen = 0
            tasks: list[asyncio.Task[Any]] = []

            def suspended(number: int) -> None:
                nonlocal seen
                seen = number
                if at <= number < at + times:  # noqa: B023
                    asyncio.get_running_loop().call_soon(tasks[0].cancel)  # noqa: B023

            stream = Steady()

            async def run() -> None:
                await Suspensions(consume(stream), suspended)  # noqa: B023

            await feed.feed(str(pushed))
            pushed += 1
            tasks.append(asyncio.ensure_future(run()))
            done, _ = await asyncio.wait(tasks, timeout=WAIT)
            assert done
            with suppress(asyncio.CancelledError):
                tasks[0].result()
            await stream.end()
            with anyio.fail_after(WAIT):
                assert await feed.plugin.execute("ECHO", str(at)) == str(at).encode()
            if seen < at:
                break
        assert at > 2
        gc.collect()
        await eventually(lambda: not feed.plugin.loop_state().shared)
        await eventually(lambda: sum(map(len, feed.channels._channels.values())) == 0)
        if kind == "group":
            entries: Any = await redis.xrange(feed.queue.key)
            left = [fields[b"data"].decode() for _, fields in entries]
            assert {*got, *left} == {str(number) for number in range(pushed)}
        if kind == "queue":
            items: Any = await redis.lrange(feed.queue.key, 0, -1)
            left = [item.decode() for item in items]
            assert sorted([*got, *left], key=int) == [str(number) for number in range(pushed)]


class Steady:
    """A stream that takes everything at once, until its client leaves."""

    def __init__(self) -> None:
        self.close_reason: CloseReason | None = None
        self.callbacks: list[Any] = []

    def push_async_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    async def end(self) -> None:
        self.close_reason = CloseReason.CLIENT_DISCONNECTED
        for callback in self.callbacks:
            await callback()

    async def flush(self) -> None:
        await asyncio.sleep(0)


def text_of(item: Any) -> str:
    data = item if isinstance(item, bytes) else item.data
    return data.decode() if isinstance(data, bytes) else str(data)


def test_a_loop_that_ends_without_a_word_ends(shared_redis: Any) -> None:
    """Nobody closed anything: ``asyncio.run`` returns all the same, and no item that waits in Redis is lost."""
    plugin = RedisPlugin(shared_redis.url)

    async def leave() -> None:
        await plugin.execute("FLUSHALL")
        queue = RedisQueue(plugin, "jobs")
        wait = asyncio.ensure_future(anext(queue.items(None)))
        subscription = RedisPubSub(plugin).subscribe("a")
        await subscription.__aenter__()
        await asyncio.sleep(0.05)  # the pop is under way
        assert not wait.done()
        await plugin.loop_state().commands.aclose()

    async def look() -> int:
        queue = RedisQueue(plugin, "jobs")
        await queue.push("1")
        with anyio.fail_after(WAIT):
            await eventually(lambda: _has_one(queue))
        length = await queue.length()
        await plugin.aclose()
        return length

    asyncio.run(leave())
    assert asyncio.run(look()) == 1


async def _has_one(queue: RedisQueue) -> bool:
    return await queue.length() == 1
