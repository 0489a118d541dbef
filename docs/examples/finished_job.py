"""Tells how far a job is, at any worker, until it is done: then a page stops asking."""

import os
import secrets

import anyio
from litestar import Litestar, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import NotFoundException

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.sources import EventLog, History, MemoryEventLog, RedisEventLog, RedisPlugin


def history(topic: str) -> History:
    return History(max_events=200, expire_after=3600)  # a job is looked at for an hour


plugins: list[SafeSSEPlugin | RedisPlugin] = [SafeSSEPlugin()]
log: EventLog
if url := os.environ.get("REDIS_URL"):
    redis = RedisPlugin(url)
    log = RedisEventLog(redis, history=history)
    plugins.append(redis)
else:
    log = MemoryEventLog(history=history)


async def work(topic: str) -> None:
    for percent in range(10, 101, 10):
        await anyio.sleep(0.05)
        await log.append(topic, SSEMessage({"percent": percent}, event="progress"))
    await log.finish(topic)  # streams end, once they have sent what was appended before


@post("/jobs")
async def start() -> Response[dict[str, str]]:
    name = secrets.token_hex(8)
    await log.append(f"job {name}", SSEMessage({"percent": 0}, event="progress"))
    return Response({"id": name}, background=BackgroundTask(work, f"job {name}"))


@get("/jobs/{name:str}")
async def watch(stream: StreamContext, name: str) -> SafeServerSentEvent | Response[None]:
    topic, after = f"job {name}", stream.last_event_id
    if await log.is_finished(topic, after=after):
        return Response(None, status_code=204)  # tells an EventSource not to come again
    if not await log.read(topic, limit=1):
        raise NotFoundException(f"There is no job {name!r}.")  # so does this
    return SafeServerSentEvent(log.subscribe(topic, after=after, start="oldest"), retry_duration=100)


app = Litestar([start, watch], plugins=plugins)
