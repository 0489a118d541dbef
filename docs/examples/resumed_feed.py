"""A feed that a page has in full, whichever worker it comes back to, and how long it was away."""

import os
from typing import Any

from litestar import Litestar, MediaType, Request, get, post
from litestar.exceptions import HTTPException
from msgspec import Struct

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import EventLog, MemoryEventLog, RedisEventLog, RedisPlugin

PAGE = """<!doctype html>
<title>Feed</title>
<ol></ol>
<script>
  const list = document.querySelector("ol");
  const events = new EventSource("/feed" + location.pathname);  // comes back by itself, with the ID of its last event
  events.addEventListener("post", (event) => {
    list.append(Object.assign(document.createElement("li"), { textContent: JSON.parse(event.data).text }));
  });
  events.addEventListener("reset", (event) => {  // some events can't be had any more; all that are stored follow
    console.log("begins anew:", event.data);
    list.replaceChildren();
  });
</script>
"""


class Post(Struct):
    text: str


plugins: list[SafeSSEPlugin | RedisPlugin] = [SafeSSEPlugin()]
log: EventLog
if url := os.environ.get("REDIS_URL"):
    redis = RedisPlugin(url)
    log = RedisEventLog(redis, max_events=1000)
    plugins.append(redis)
else:  # one worker is enough, and a restart may forget
    log = MemoryEventLog(max_events=1000)


@get("/{user:str}", media_type=MediaType.HTML)
async def page(user: str) -> str:
    return PAGE


@get("/feed/{user:str}")
async def feed(stream: StreamContext, user: str) -> SafeServerSentEvent:
    events = log.subscribe("all", f"user {user}", after=stream.last_event_id, start="oldest", on_reset="oldest")
    return SafeServerSentEvent(events, retry_duration=500)


@post("/posts/{topic:str}")
async def append(topic: str, data: Post, request: Request[Any, Any, Any]) -> dict[str, str]:
    key = request.headers.get("Idempotency-Key")
    try:
        return {"id": await log.append(topic, SSEMessage(data, event="post"), idempotency_key=key)}
    except SourceUnavailableError as error:
        raise HTTPException("Try again later, with the same key.", status_code=503) from error


app = Litestar([page, feed, append], plugins=plugins)
