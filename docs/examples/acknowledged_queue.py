"""Gives each job to a client at least once: what a killed worker held goes to another, and says that it comes again."""

import os
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, get, post
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.sources import RedisGroupQueue, RedisPlugin

redis_plugin = RedisPlugin(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
jobs = RedisGroupQueue(redis_plugin, "jobs", claim_after=float(os.environ.get("CLAIM_AFTER", "30")), max_deliveries=5)


@get("/jobs")
async def stream_jobs(stream: StreamContext) -> SafeServerSentEvent:
    async def body() -> AsyncIterator[SSEMessage]:
        async for item in jobs.items(stream):  # to ask for the next one says that the last one has been yielded
            yield SSEMessage(item.data, event="job" if item.deliveries == 1 else "job again", id=item.entry)

    return SafeServerSentEvent(body())


@post("/jobs")
async def push(data: dict[str, Any]) -> None:
    await jobs.push(data)


@get("/jobs/count")
async def count(redis: Redis) -> dict[str, int]:
    return {"open": await jobs.length(), "dead": await redis.xlen(jobs.dead_key)}


app = Litestar([stream_jobs, push, count], plugins=[SafeSSEPlugin(), redis_plugin])
