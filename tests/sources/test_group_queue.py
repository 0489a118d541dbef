"""A consumer group: what is counted, claimed, and put aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from tests.sources.clients import Visit, eventually
from tests.sources.queues import is_empty, serving

pytestmark = pytest.mark.anyio


async def test_deliveries_are_counted(plugin: RedisPlugin, redis: Redis) -> None:
    """An item that comes again says so."""
    queue = RedisGroupQueue(plugin, "jobs", slice=0.2, settle=0.05)
    await queue.push("1")
    seen: list[int] = []

    @get("/")
    async def items(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[Any]:
            async for item in queue.items(stream):
                seen.append(item.deliveries)
                if item.deliveries < 3:
                    yield "again"
                    await anyio.sleep_forever()
                yield item

        return SafeServerSentEvent(body())

    app = Litestar([items], plugins=[SafeSSEPlugin(), plugin])
    async with app.lifespan():
        for expected in ("again", "again", "1"):
            visit = Visit(app).start()
            await visit.until_data(expected)
            if expected == "1":
                await eventually(lambda: is_empty(queue, redis))
            await visit.leave_and_end()
    assert seen == [1, 2, 3]


async def test_an_item_that_is_never_handed_over_becomes_a_dead_letter(plugin: RedisPlugin, redis: Redis) -> None:
    """After so many deliveries it is put aside, with what is known of it, and the queue goes on."""
    queue = RedisGroupQueue(plugin, "jobs", slice=0.2, settle=0.05, max_deliveries=2)
    await queue.push("bad", "good")
    async with serving(queue, plugin) as app:
        for _ in range(2):
            visit = Visit(app, "/slow").start()
            await visit.until_data("working")
            await visit.leave_and_end()
        visit = Visit(app).start()
        await visit.until_data("good")
        await eventually(lambda: is_empty(queue, redis))
        await visit.leave_and_end()
    letters: Any = await redis.xrange(queue.dead_key)
    ((_, letter),) = letters
    assert letter[b"data"] == b"bad"
    assert letter[b"deliveries"] == b"2"


async def test_an_entry_without_data_becomes_a_dead_letter(plugin: RedisPlugin, redis: Redis) -> None:
    """Read or claimed, with all that it has; it is no event, and no work is lost that somebody has named otherwise."""
    queue = RedisGroupQueue(plugin, "jobs", slice=0.1, settle=0, claim_after=0.3)
    await redis.xadd(queue.key, {"payload": "claimed"})
    await redis.xgroup_create(queue.key, queue.group, "0")
    await redis.xreadgroup(queue.group, "killed", {queue.key: ">"})
    await redis.xadd(queue.key, {"payload": "read", "more": "of it"})
    await queue.push("", "good")
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await visit.until_data("", "good")
        await eventually(lambda: _is_deleted(queue, redis))
        await visit.leave_and_end()
    letters: Any = await redis.xrange(queue.dead_key)
    found = {letter[b"payload"]: (letter[b"deliveries"], letter.get(b"more")) for _, letter in letters}
    assert found == {b"claimed": (b"2", None), b"read": (b"1", b"of it")}


async def _is_deleted(queue: RedisGroupQueue, redis: Redis) -> bool:
    return await redis.xlen(queue.key) == 0


async def test_what_a_dead_process_held_is_claimed(redis_url: str, redis: Redis) -> None:
    """Another process takes over after ``claim_after`` seconds, and the dead consumer is removed."""
    plugin = RedisPlugin(redis_url)
    queue = RedisGroupQueue(plugin, "jobs", slice=0.1, settle=0.05, claim_after=0.3)
    await queue.push("1")
    await redis.xgroup_create(queue.key, queue.group, "0")
    await redis.xreadgroup(queue.group, "killed", {queue.key: ">"}, count=1)  # and no more is heard of it
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await visit.until_data("1")
        await eventually(lambda: _consumers(queue, redis, 1))
        await eventually(lambda: is_empty(queue, redis))
        await visit.leave_and_end()
    assert await redis.xinfo_consumers(queue.key, queue.group) == []


async def _consumers(queue: RedisGroupQueue, redis: Redis, count: int) -> bool:
    return len(await redis.xinfo_consumers(queue.key, queue.group)) == count


async def test_what_is_worked_on_is_not_claimed(redis_url: str, redis: Redis) -> None:
    """A living process gives signs of life for what it holds, however long that takes."""
    first, second = RedisPlugin(redis_url), RedisPlugin(redis_url)
    queues = [RedisGroupQueue(plugin, "jobs", slice=0.05, settle=0.05, claim_after=0.2) for plugin in (first, second)]
    await queues[0].push("1")
    async with serving(queues[0], first) as app, serving(queues[1], second) as other:
        visit = Visit(app, "/slow").start()
        await visit.until_data("working")
        waits = Visit(other).start()
        await asyncio.sleep(0.8)  # four times `claim_after`
        assert waits.data == []
        await visit.leave_and_end()
        await waits.until_data("1")
        await waits.leave_and_end()


async def test_a_group_that_is_gone_is_made_again(plugin: RedisPlugin, redis: Redis) -> None:
    """Redis came back empty: the queue begins anew."""
    queue = RedisGroupQueue(plugin, "jobs", slice=0.1, settle=0.05)
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await queue.push("1")
        await visit.until_data("1")
        await redis.flushall()
        await queue.push("2")
        await visit.until_data("1", "2")
        await visit.leave_and_end()
