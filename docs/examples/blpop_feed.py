"""Gives each job of a list to one of the clients that wait, and takes back those of clients that leave."""

import os
from typing import Any

from litestar import Litestar, get, post

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources import RedisPlugin, RedisQueue

redis = RedisPlugin(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
jobs = RedisQueue(redis, key="jobs")  # a list that others push to as well; with a name, the key would be prefixed


@get("/jobs")
async def stream_jobs(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(jobs.items(stream), event_type="job")


@post("/jobs")
async def push(data: dict[str, Any]) -> dict[str, int]:
    return {"waiting": await jobs.push(data)}


app = Litestar([stream_jobs, push], plugins=[SafeSSEPlugin(), redis])
