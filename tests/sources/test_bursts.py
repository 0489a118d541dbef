"""A burst is not slowness: what comes at once reaches those who read as fast as they can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.sources import ChannelsSource, MemoryEventLog, RedisEventLog, RedisPlugin, RedisPubSub
from litestar_safe_sse.sources._subscription import Subscription
from tests.bounds import WAIT
from tests.servers.kinds import long_if
from tests.sources.channels import Channels
from tests.sources.clients import Visit, eventually

pytestmark = pytest.mark.anyio

MANY = 2000

Publish = Callable[[list[str]], Any]


@asynccontextmanager
async def running(
    kind: str, plugin: RedisPlugin, redis: Redis
) -> AsyncIterator[tuple[Any, Callable[..., Any], Publish]]:
    """A source: the plugins it needs, what subscribes to it, and what publishes many messages at once."""
    if kind == "pubsub":

        async def publish(messages: list[str]) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                for message in messages:
                    pipeline.publish("a", message)
                await pipeline.execute()

        pubsub = RedisPubSub(plugin)
        yield [plugin], lambda **options: pubsub.subscribe("a", **options), publish
    elif kind.startswith("channels"):
        backend = MemoryChannelsBackend() if kind == "channels-memory" else RedisChannelsPubSubBackend(redis=redis)
        channels = Channels(backend=backend, arbitrary_channels_allowed=True)

        async def publish(messages: list[str]) -> None:
            for message in messages:
                channels.publish(message, "a")

        source = ChannelsSource(channels)
        yield [channels], lambda **options: source.subscribe("a", **options), publish
    else:
        log = MemoryEventLog() if kind == "memory" else RedisEventLog(plugin)

        async def publish(messages: list[str]) -> None:
            if kind == "memory":
                for message in messages:
                    await log.append("a", message)
            else:
                await asyncio.gather(*(log.append("a", message) for message in messages))

        yield [plugin], lambda **options: log.subscribe("a", **options), publish


LEAST: dict[str, Any] = {"buffer": 16, "overflow": "drop_oldest"}
"""The smallest buffer that is documented to be enough."""

ALSO_AS_CONTENT = ("pubsub", "redis")
"""As the content of a response the others differ from these as little as where they are iterated."""


@pytest.mark.parametrize(
    ("kind", "body", "options"),
    [
        pytest.param(kind, body, options, id=f"{kind}-{name}", marks=long_if(not body and kind not in ALSO_AS_CONTENT))
        for kind in ("pubsub", "channels-memory", "channels-redis", "memory", "redis")
        for name, body, options in (("content", False, {}), ("iterated", True, {}), ("least", True, LEAST))
    ],
)
async def test_a_burst_reaches_fast_clients_whole(
    kind: str, body: bool, options: dict[str, Any], plugin: RedisPlugin, redis: Redis
) -> None:
    """Streamed to three, as content of a response, or by a body that goes through ``iterate``; in a small buffer."""
    async with running(kind, plugin, redis) as (plugins, subscribe, publish):
        live = 0

        @get("/", sync_to_thread=False)
        def feed(stream: StreamContext) -> SafeServerSentEvent:
            async def items() -> AsyncIterator[SSEMessage]:
                nonlocal live
                async with subscribe(**options) as subscription:
                    live += 1
                    async for message in stream.iterate(subscription) if body else subscription:
                        yield message

            return SafeServerSentEvent(items())

        app = Litestar([feed], plugins=[SafeSSEPlugin(), *plugins])
        async with app.lifespan():
            visits = [Visit(app).start() for _ in range(3)]
            await eventually(lambda: live == 3)
            with anyio.fail_after(WAIT):  # a log may still be asked where those begin who have just come
                while kind in ("memory", "redis") and not all("first" in visit.data for visit in visits):
                    await publish(["first"])
                    await anyio.sleep(0.01)
            messages = [f'{{"symbol":"ABC","bid":{number}}}' for number in range(MANY)]
            await publish(messages)
            for visit in visits:
                await visit.until(lambda: visit.data[-1:] == messages[-1:])  # noqa: B023
                assert visit.data[visit.data.index(messages[0]) :] == messages
                await visit.leave_and_end()


async def test_who_does_not_read_holds_up_nobody(plugin: RedisPlugin, redis: Redis) -> None:
    """One that is slow loses the oldest, as before; the others have all of it."""
    async with (
        running("pubsub", plugin, redis) as (_, subscribe, publish),
        subscribe() as slow,
        subscribe() as fast,
        anyio.create_task_group() as tasks,
    ):
        got: list[Any] = []

        async def read() -> None:
            async for message in fast:
                got.append(message.data)

        tasks.start_soon(read)
        await publish([str(number) for number in range(MANY)])
        await eventually(lambda: len(got) == MANY)
        with anyio.fail_after(WAIT):
            assert (await anext(slow)).data == {"dropped": MANY - 256}
            assert (await anext(slow)).data == str(MANY - 256)
        tasks.cancel_scope.cancel()


async def test_a_gap_never_goes_through_the_application_s_key(plugin: RedisPlugin, redis: Redis) -> None:
    """It is a function of the application's messages, and need not know others."""
    subscription: Subscription
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("a", overflow="latest", key=lambda channel, message: int(message.data)) as subscription:
        await pubsub.publish("a", "1")
        with anyio.fail_after(WAIT):
            assert (await anext(subscription)).data == "1"
            await redis.client_kill_filter(_type="pubsub")
            assert (await anext(subscription)).event == "gap"
            await pubsub.publish("a", "2")
            assert (await anext(subscription)).data == "2"


async def test_the_length_of_a_gap_counts_from_what_was_heard_last(plugin: RedisPlugin, redis: Redis) -> None:
    """And not from when the silence was noticed."""
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("a") as subscription:
        await pubsub.publish("a", "1")
        with anyio.fail_after(WAIT):
            assert (await anext(subscription)).data == "1"
            await asyncio.sleep(0.5)  # nothing comes
            await redis.client_kill_filter(_type="pubsub")
            assert (await anext(subscription)).data.seconds >= 0.5
