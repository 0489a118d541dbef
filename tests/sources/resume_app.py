"""The application of ``test_resume.py``: one of several processes on the same log."""

from __future__ import annotations

import os

from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

redis = RedisPlugin(os.environ["REDIS_URL"])
log = RedisEventLog(redis)


@get("/events")
async def events(stream: StreamContext, topics: str) -> SafeServerSentEvent:
    """What was missed, then what comes."""
    return SafeServerSentEvent(log.subscribe(*topics.split(","), after=stream.last_event_id, start="oldest"))


app = Litestar([events], plugins=[SafeSSEPlugin(), redis])
