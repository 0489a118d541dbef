"""The application of the delivery test: one queue, streamed by every worker."""

from __future__ import annotations

import os

from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.queue import RedisQueue

SETTLE = 0.3

redis = RedisPlugin(os.environ["QUEUE_REDIS"])
queue = (
    RedisGroupQueue(redis, "jobs", settle=SETTLE, slice=0.3, claim_after=1.0)
    if os.environ["QUEUE_KIND"] == "group"
    else RedisQueue(redis, "jobs", settle=SETTLE, slice=0.3)
)


@get("/")
async def items(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(queue.items(stream), headers={"X-Pid": str(os.getpid())})


app = Litestar([items], plugins=[SafeSSEPlugin(SafeSSEConfig(shutdown_grace=0)), redis])
