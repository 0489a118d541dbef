"""An application whose workers are replaced one after the other, while its pages read an event log."""

from __future__ import annotations

import os

from litestar import Litestar, Response, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin
from tests.servers.app import on_startup
from tests.servers.restarting import RETRY

redis = RedisPlugin(os.environ["SAFE_SSE_REDIS_URL"])
log = RedisEventLog(redis)


@get("/page", media_type="text/html")
async def page() -> Response[str]:
    return Response("<title>A page with an EventSource</title>")


@get("/feed")
async def feed(stream: StreamContext) -> SafeServerSentEvent:
    """What the client has missed, from the first event on, and what comes."""
    return SafeServerSentEvent(
        log.subscribe("feed", after=stream.last_event_id, start="oldest"), retry_duration=RETRY, ping_interval=0.5
    )


app = Litestar([page, feed], plugins=[SafeSSEPlugin(), redis], on_startup=[on_startup], openapi_config=None)
