"""Shows a price as it is now, then each change of it; after an outage of Redis, as it is then."""

import os
from collections.abc import AsyncIterator

import msgspec
from litestar import Litestar, get, put
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage
from litestar_safe_sse.sources import RedisPlugin, RedisPubSub

redis_plugin = RedisPlugin(
    os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
    decode_responses=True,
    retry=Retry(ExponentialBackoff(), retries=5),  # for the application's own commands: connections may be stale
    retry_on_error=[ConnectionError],
)
changes = RedisPubSub(redis_plugin)


class Price(msgspec.Struct):
    symbol: str
    price: float


@get("/prices/{symbol:str}")
async def watch_one(redis: Redis, symbol: str) -> SafeServerSentEvent:
    name = f"price:{symbol}"

    async def body() -> AsyncIterator[SSEMessage]:
        async with changes.subscribe(name) as messages:  # Redis has confirmed it: no change falls in between
            yield SSEMessage(await redis.get(name))
            async for message in messages:
                if message.event == "gap":  # Redis was away: changes may be missing
                    message = SSEMessage(await redis.get(name))
                yield message

    return SafeServerSentEvent(body(), event_type="price")


@get("/prices")
async def watch_all() -> SafeServerSentEvent:
    return SafeServerSentEvent(changes.subscribe(patterns=["price:*"], overflow="latest"), event_type="price")


@put("/prices")
async def change(redis: Redis, data: Price) -> None:
    name, text = f"price:{data.symbol}", msgspec.json.encode(data)
    await redis.set(name, text, ex=86_400)
    await changes.publish(name, text)


app = Litestar([watch_one, watch_all, change], plugins=[SafeSSEPlugin(), redis_plugin])
