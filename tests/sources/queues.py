"""Applications that stream the items of a queue, and what is left of it in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from litestar import Litestar, get
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.queue import RedisQueue
from tests.bounds import START

Queue = Any


@asynccontextmanager
async def serving(queue: Queue, plugin: RedisPlugin, **config: Any) -> AsyncIterator[Litestar]:
    """An application whose one handler streams the queue's items."""

    @get("/")
    async def items(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(queue.items(stream))

    @get("/body")
    async def body(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[Any]:
            async for item in stream.iterate(queue.items(stream)):
                yield item

        return SafeServerSentEvent(body())

    @get("/slow")
    async def slow(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[Any]:
            async for item in queue.items(stream):
                yield "working"
                await anyio.sleep_forever()  # the item is in hand, and not yielded
                yield item

        return SafeServerSentEvent(body())

    app = Litestar([items, body, slow], plugins=[SafeSSEPlugin(SafeSSEConfig(**config)), plugin])
    with anyio.fail_after(START):
        async with app.lifespan():
            yield app


async def waiting(queue: Queue, redis: Redis) -> list[str]:
    """What is in Redis, in order, whoever it has been delivered to."""
    client: Any = redis
    if isinstance(queue, RedisQueue):
        return [item.decode() for item in await client.lrange(queue.key, 0, -1)]
    return [fields[b"data"].decode() for _, fields in await client.xrange(queue.key)]


async def is_empty(queue: Queue, redis: Redis) -> bool:
    return not await waiting(queue, redis)
