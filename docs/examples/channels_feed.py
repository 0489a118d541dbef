"""Streams what is published by Litestar's channels, and survives an outage of their Redis."""

import os
from contextlib import aclosing

import anyio
from litestar import Litestar, get, post
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from litestar.exceptions import HTTPException, NotFoundException
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin
from litestar_safe_sse.sources import ChannelsSource

client = Redis.from_url(
    os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
    retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=-1),  # for ever: Litestar gives up at the first failure
)
channels = ChannelsPlugin(RedisChannelsPubSubBackend(redis=client), channels=["news", "sport"])
source = ChannelsSource(channels)


def check(channel: str) -> str:
    if channel not in ("news", "sport"):
        raise NotFoundException(f"There is no channel {channel!r}.")
    return channel


@get("/channels/{channel:str}")
async def listen(channel: str) -> SafeServerSentEvent:
    return SafeServerSentEvent(source.subscribe(check(channel)), event_type="message")


@post("/channels/{channel:str}")
async def publish(channel: str, data: dict[str, str]) -> None:
    try:
        with anyio.fail_after(5):
            await channels.wait_published(data, check(channel))
    except TimeoutError as error:
        raise HTTPException("Try again later.", status_code=503) from error


app = Litestar([listen, publish], plugins=[SafeSSEPlugin(), channels], lifespan=[lambda app: aclosing(client)])
