"""Litestar's channels as a source: bounded, and without a subscriber left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend, RedisChannelsStreamBackend
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEPlugin
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.channels import ChannelMessage, ChannelsSource
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.channels import Channels
from tests.sources.clients import Visit, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


@asynccontextmanager
async def started(backend: Any, **options: Any) -> AsyncIterator[ChannelsPlugin]:
    options = options or {"arbitrary_channels_allowed": True}
    async with Channels(backend, **options) as plugin:
        yield plugin


@asynccontextmanager
async def started_to_fail(backend: Any) -> AsyncIterator[ChannelsPlugin]:
    """Litestar raises again at its shutdown what has ended its receiver."""
    plugin = Channels(backend, arbitrary_channels_allowed=True)
    await plugin.__aenter__()
    try:
        yield plugin
    finally:
        with suppress(OSError, RedisConnectionError):
            await plugin.__aexit__(None, None, None)


@pytest.fixture(params=["memory", "pubsub", "stream"])
async def channels(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[ChannelsPlugin]:
    client = Redis.from_url(redis_url)
    backends: dict[str, Callable[[], Any]] = {
        "memory": lambda: MemoryChannelsBackend(history=10),
        "pubsub": lambda: RedisChannelsPubSubBackend(redis=client),
        "stream": lambda: RedisChannelsStreamBackend(history=10, redis=client),
    }
    async with started(backends[request.param]()) as plugin:
        yield plugin
    await client.aclose()


def subscribers(plugin: ChannelsPlugin) -> int:
    return sum(map(len, plugin._channels.values()))


async def take(subscription: Any, count: int) -> list[Any]:
    with anyio.fail_after(WAIT):
        return [await anext(subscription) for _ in range(count)]


async def test_what_receives_is_ended_though_it_has_lost_a_cancellation() -> None:
    """As redis-py may; or a test would wait for ever."""

    class Deaf(MemoryChannelsBackend):
        async def stream_events(self) -> AsyncGenerator[Any, None]:
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
            await anyio.sleep_forever()
            yield

    with anyio.fail_after(WAIT):
        async with started(Deaf()):
            await anyio.wait_all_tasks_blocked()


async def test_what_is_published_is_received(channels: ChannelsPlugin) -> None:
    """By every stream, of the channels it subscribed to."""
    source = ChannelsSource(channels)
    async with source.subscribe("a", "b") as first, source.subscribe("a") as second:
        await channels.wait_published("1", "a")
        await channels.wait_published({"n": 2}, "a")
        assert await take(second, 2) == [
            ChannelMessage(data="1", channel="a"),
            ChannelMessage(data='{"n":2}', channel="a"),
        ]
        assert [message.data for message in await take(first, 2)] == ["1", '{"n":2}']
        await channels.wait_published("3", "b")
        assert await take(first, 1) == [ChannelMessage(data="3", channel="b")]
    await eventually(lambda: subscribers(channels) == 0)


async def test_streams_share_a_subscriber_and_leave_none(channels: ChannelsPlugin) -> None:
    """As the content of responses whose clients leave."""
    source = ChannelsSource(channels)

    @get("/")
    async def feed() -> SafeServerSentEvent:
        return SafeServerSentEvent(source.subscribe("a"))

    app = Litestar([feed], plugins=[SafeSSEPlugin()])
    async with app.lifespan():
        async with source.subscribe("a"):
            visits = [Visit(app).start() for _ in range(10)]
            shared = source._subscribers()
            await eventually(lambda: len(shared._listeners["a"]) == 11)
            assert subscribers(channels) == 1
            await channels.wait_published("1", "a")
            for visit in visits:
                await visit.until_data("1")
        for visit in visits:
            await visit.leave_and_end()
        await eventually(lambda: subscribers(channels) == 0)


async def test_cancelled_at_any_moment_it_leaves_no_subscriber(channels: ChannelsPlugin) -> None:
    """Where Litestar's own ``subscribe`` would: while its backend subscribes."""
    source = ChannelsSource(channels)
    for number in range(30):
        subscription = source.subscribe("a")
        wait = asyncio.ensure_future(anext(subscription))
        for _ in range(number):
            await asyncio.sleep(0)
        wait.cancel()
        await asyncio.wait([wait])
        if number % 2:
            with anyio.fail_after(WAIT):
                await subscription.aclose()
            await eventually(lambda: subscribers(channels) == 0)
        del subscription, wait
    gc.collect()
    await eventually(lambda: subscribers(channels) == 0)


async def test_a_slow_backend_is_waited_for_in_turn() -> None:
    """One who subscribes while the last one is unsubscribed is subscribed in the end."""

    class Slow(MemoryChannelsBackend):
        async def subscribe(self, channels: Any) -> None:
            await asyncio.sleep(0.01)
            await super().subscribe(channels)

        async def unsubscribe(self, channels: Any) -> None:
            await asyncio.sleep(0.01)
            await super().unsubscribe(channels)

    async with started(Slow()) as plugin:
        source = ChannelsSource(plugin)
        for number in range(20):
            old = source.subscribe("a")
            await old.__aenter__()
            closing = asyncio.ensure_future(old.aclose())
            await asyncio.sleep(0.001 * number)
            async with source.subscribe("a") as new:
                await plugin.wait_published(str(number), "a")
                assert [message.data for message in await take(new, 1)] == [str(number)]
            await closing
        await eventually(lambda: subscribers(plugin) == 0)


async def test_a_slow_subscriber_has_a_bounded_buffer() -> None:
    """Here, also where the plugin's own backlog is unbounded."""
    async with started(MemoryChannelsBackend()) as plugin:
        source = ChannelsSource(plugin)
        async with (
            source.subscribe("a", buffer=3) as dropping,
            source.subscribe("a", buffer=3, overflow="close") as closing,
            source.subscribe("a") as roomy,
        ):
            for number in range(10):
                await plugin.wait_published(str(number), "a")
            await take(roomy, 10)
            assert [message.data for message in await take(dropping, 4)] == [{"dropped": 7}, "7", "8", "9"]
            assert [message.data async for message in closing] == ["0", "1", "2"]
            (subscriber,) = plugin._channels["a"]
            assert subscriber.qsize == 0


async def test_history_comes_first(channels: ChannelsPlugin) -> None:
    """As the backend has kept it; where it keeps none, that is a typed error."""
    source = ChannelsSource(channels)
    async with source.subscribe("a") as keeps:  # Litestar's memory backend forgets what nobody subscribes to
        for number in range(4):
            await channels.wait_published(str(number), "a")
        await take(keeps, 4)
        if isinstance(channels._backend, RedisChannelsPubSubBackend):
            with pytest.raises(SourceRefusedError, match="history"):
                await take(source.subscribe("a", history=2), 1)
            return
        subscription = source.subscribe("a", history=2)
        assert [message.data for message in await take(subscription, 2)] == ["2", "3"]
        await channels.wait_published("4", "a")
        assert [message.data for message in await take(subscription, 1)] == ["4"]
        await subscription.aclose()


async def test_an_unknown_channel_is_a_typed_error() -> None:
    """And others go on."""
    async with started(MemoryChannelsBackend(), channels=["known"]) as plugin:
        source = ChannelsSource(plugin)
        async with source.subscribe("known") as subscription:
            with pytest.raises(SourceRefusedError, match="Unknown channel"):
                await take(source.subscribe("known", "unknown"), 1)
            await plugin.wait_published("1", "known")
            assert [message.data for message in await take(subscription, 1)] == ["1"]
        await eventually(lambda: subscribers(plugin) == 0)


async def test_a_backend_that_fails_is_a_typed_error() -> None:
    """To those who subscribed; and they can try again."""

    class Failing(MemoryChannelsBackend):
        fails = True

        async def subscribe(self, channels: Any) -> None:
            if self.fails:
                raise ConnectionError("away")
            await super().subscribe(channels)

    backend = Failing()
    async with started(backend) as plugin:
        source = ChannelsSource(plugin)
        with pytest.raises(SourceUnavailableError, match="away"):
            await take(source.subscribe("a"), 1)
        backend.fails = False
        async with source.subscribe("b") as subscription:
            await plugin.wait_published("1", "b")
            assert [message.data for message in await take(subscription, 1)] == ["1"]


async def test_streams_end_when_litestar_has_lost_redis(own_redis: RedisServer) -> None:
    """The task that receives has ended for good: clients are told, at once and when they come back."""
    client = Redis.from_url(own_redis.url, retry=Retry(NoBackoff(), 0))
    sse = SafeSSEPlugin()
    async with started_to_fail(RedisChannelsPubSubBackend(redis=client)) as channels:
        source = ChannelsSource(channels)

        @get("/")
        async def feed() -> SafeServerSentEvent:
            return SafeServerSentEvent(source.subscribe("a"))

        app = Litestar([feed], plugins=[sse])
        async with app.lifespan():
            visit = Visit(app).start()
            await eventually(lambda: subscribers(channels) == 1)
            await channels.wait_published("1", "a")
            await visit.until_data("1")
            own_redis.kill()
            await visit.ended()
            assert sse.streams.statistics().closed == {CloseReason.ERROR: 1}
            await Visit(app).start().ended()
            assert sse.streams.statistics().closed == {CloseReason.ERROR: 2}
    await client.aclose()


class Receiving(MemoryChannelsBackend):
    """A backend that stops receiving when it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.gone = asyncio.Event()

    async def stream_events(self) -> AsyncGenerator[tuple[str, Any], None]:
        events = super().stream_events()
        while True:
            tasks: set[asyncio.Future[Any]] = {
                asyncio.ensure_future(anext(events)),
                asyncio.ensure_future(self.gone.wait()),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
            if self.gone.is_set():
                break
            for task in tasks:
                if task.done():
                    yield task.result()
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize("failure", [OSError("cable cut"), None])
async def test_what_came_before_the_receiver_ended_is_still_sent(failure: Exception | None) -> None:
    """Then the subscription raises, and so do new ones, whether they wait for a message or for the beginning."""
    backend = Receiving(failure)
    async with started_to_fail(backend) as plugin:
        source = ChannelsSource(plugin)
        async with source.subscribe("a") as subscription, source.subscribe("b") as waits:
            waiting = asyncio.ensure_future(take(waits, 1))
            await plugin.wait_published("1", "a")
            await eventually(lambda: subscription._listener is not None and len(subscription._listener.mailbox))
            backend.gone.set()
            with pytest.raises(SourceUnavailableError, match="cable cut" if failure else "receives nothing"):
                await waiting
            assert [message.data for message in await take(subscription, 1)] == ["1"]
            with pytest.raises(SourceUnavailableError):
                await take(subscription, 1)
            with pytest.raises(SourceUnavailableError):
                await source.subscribe("a").__aenter__()
            with pytest.raises(SourceUnavailableError):
                await take(source.subscribe("new"), 1)
        await eventually(lambda: subscribers(plugin) == 0)


async def test_a_plugin_that_was_started_again_is_received_from() -> None:
    """What has ended was the receiver of before; subscriptions of that time have been told."""
    plugin = ChannelsPlugin(MemoryChannelsBackend(), arbitrary_channels_allowed=True)
    source = ChannelsSource(plugin)
    async with plugin:
        old = source.subscribe("a")
        await old.__aenter__()
    with pytest.raises(SourceUnavailableError):
        await take(old, 1)
    async with plugin, source.subscribe("b") as new:
        await plugin.wait_published("1", "b")
        assert [message.data for message in await take(new, 1)] == ["1"]


async def test_a_plugin_whose_receiver_can_not_be_found_is_used_all_the_same() -> None:
    """Its attribute is Litestar's own affair, and may be gone in another version."""
    async with started(MemoryChannelsBackend()) as plugin:
        task = plugin._sub_task
        del plugin._sub_task
        async with ChannelsSource(plugin).subscribe("a") as subscription:
            await plugin.wait_published("1", "a")
            assert [message.data for message in await take(subscription, 1)] == ["1"]
        plugin._sub_task = task


async def test_a_backend_that_does_not_answer_is_not_waited_for() -> None:
    """A stream ends without it; the channel is unsubscribed from when the backend is back."""

    class Hanging(MemoryChannelsBackend):
        def __init__(self) -> None:
            super().__init__()
            self.back = asyncio.Event()
            self.unsubscribed = asyncio.Event()

        async def unsubscribe(self, channels: Any) -> None:
            await self.back.wait()
            await super().unsubscribe(channels)
            self.unsubscribed.set()

    backend = Hanging()
    async with started(backend) as plugin:
        subscription = ChannelsSource(plugin).subscribe("a")
        await subscription.__aenter__()
        with anyio.fail_after(WAIT):
            await subscription.aclose()
        assert not backend.unsubscribed.is_set()
        backend.back.set()
        with anyio.fail_after(WAIT):
            await backend.unsubscribed.wait()


def test_arguments_are_checked() -> None:
    """What won't do is refused when it is given."""
    with pytest.raises(InvalidFieldError):
        ChannelsSource("redis://")  # type: ignore[arg-type]
    source = ChannelsSource(ChannelsPlugin(MemoryChannelsBackend(), arbitrary_channels_allowed=True))
    for channels, options in (((), {}), (("a",), {"history": -1}), (("a",), {"buffer": 0}), ((1,), {})):
        with pytest.raises(InvalidFieldError):
            source.subscribe(*channels, **options)  # type: ignore[arg-type]
