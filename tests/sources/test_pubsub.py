"""Pub/Sub: one connection for all streams, and no silent gap."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest
from litestar import Litestar, Request, get
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis.connection import RedisConnection
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import GAP, PubSubMessage, RedisPubSub
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.clients import Visit, eventually, has_at_most

pytestmark = pytest.mark.anyio


async def take(subscription: Any, count: int) -> list[Any]:
    with anyio.fail_after(WAIT):
        return [await anext(subscription) for _ in range(count)]


async def test_what_is_published_is_received_in_order(plugin: RedisPlugin, redis: Redis) -> None:
    """Text, bytes and JSON; by name and by pattern; whoever publishes."""
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("news", patterns=["user:*"]) as subscription:
        assert await pubsub.publish("news", "a") == 1
        assert await pubsub.publish("other", "no") == 0
        await redis.publish("user:7", "b")
        await pubsub.publish("news", {"c": 1})
        assert await take(subscription, 3) == [
            PubSubMessage(data="a", channel="news"),
            PubSubMessage(data="b", channel="user:7", pattern="user:*"),
            PubSubMessage(data='{"c":1}', channel="news"),
        ]


async def test_it_is_the_content_of_a_response(plugin: RedisPlugin) -> None:
    """Streams come and go, and Redis is asked only for what somebody listens to."""
    pubsub = RedisPubSub(plugin)

    @get(["/a", "/b"])
    async def feed(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        return SafeServerSentEvent(pubsub.subscribe(request.url.path[1:]))

    async def listeners(channel: str) -> int:
        ((_, count),) = await plugin.client.pubsub_numsub(channel)
        return int(count)

    app = Litestar([feed], plugins=[SafeSSEPlugin(), plugin])
    async with app.lifespan():
        visits = {name: [Visit(app, f"/{name}").start() for _ in range(3)] for name in "ab"}
        for name in "ab":
            await eventually(lambda: listeners(name))  # noqa: B023
            await pubsub.publish(name, f"to {name}")
            for visit in visits[name]:
                await visit.until_data(f"to {name}")
        for visit in visits["a"]:
            await visit.leave_and_end()
        await eventually(lambda: _is(listeners("a"), 0))
        assert await listeners("b") == 1
        again = Visit(app, "/a").start()
        await eventually(lambda: _is(listeners("a"), 1))
        await pubsub.publish("a", "again")
        await again.until_data("again")
    for visit in [*visits["b"], again]:
        await visit.ended()


async def _is(value: Any, expected: Any) -> bool:
    return bool(await value == expected)


@pytest.mark.parametrize("how", ["killed", "stopped", "cut"])
async def test_a_gap_is_told_of_in_band(how: str, own_redis: RedisServer) -> None:
    """After an outage, each stream is told before anything that comes after it; new ones are not."""
    plugin = RedisPlugin(own_redis.url)
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("a", "b") as first, pubsub.subscribe(patterns=["a*"]) as second:
        await pubsub.publish("a", "before")
        await take(first, 1)
        await take(second, 1)
        waits = asyncio.ensure_future(take(first, 2))
        if how == "cut":
            await plugin.execute("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            (own_redis.kill if how == "killed" else own_redis.stop)()
            with pytest.raises(SourceUnavailableError):
                await pubsub.publish("a", "lost")
            own_redis.start_again()
        (gap,) = await take(second, 1)
        assert gap.event == GAP
        assert 0 <= gap.data.seconds < WAIT
        await eventually(lambda: _is(plugin.execute("PUBSUB", "NUMSUB", "b"), [b"b", 1]))
        await pubsub.publish("b", "after")
        got = await waits
        assert [message.event for message in got] == [GAP, None]
        assert got[1].data == "after"
        async with pubsub.subscribe("a") as third:
            await pubsub.publish("a", "new")
            assert [message.data for message in await take(third, 1)] == ["new"]
    await plugin.aclose()


async def test_subscribing_while_redis_is_away_waits(own_redis: RedisServer) -> None:
    """It begins when Redis is back, without a gap to tell of."""
    plugin = RedisPlugin(own_redis.url)
    pubsub = RedisPubSub(plugin)
    own_redis.kill()
    subscription = pubsub.subscribe("a")
    entering = asyncio.ensure_future(subscription.__aenter__())
    await asyncio.sleep(0.1)  # some attempts fail
    assert not entering.done()
    own_redis.start_again()
    with anyio.fail_after(WAIT):
        await entering
    await pubsub.publish("a", "1")
    assert [message.data for message in await take(subscription, 1)] == ["1"]
    await subscription.aclose()
    await plugin.aclose()


async def test_a_slow_subscriber_has_a_bounded_buffer(plugin: RedisPlugin) -> None:
    """The oldest go, and it is told how many; or the subscription ends; or the newest of each channel stays."""
    pubsub = RedisPubSub(plugin)
    async with (
        pubsub.subscribe("a", buffer=3) as dropping,
        pubsub.subscribe("a", buffer=3, overflow="close") as closing,
        pubsub.subscribe("a", buffer=3, overflow="latest") as latest,
        pubsub.subscribe("a") as roomy,
    ):
        for number in range(10):
            await pubsub.publish("a", str(number))
        await take(roomy, 10)
        assert [message.data for message in await take(dropping, 4)] == [{"dropped": 7}, "7", "8", "9"]
        assert [message.data async for message in closing] == ["0", "1", "2"]
        assert [message.data for message in await take(latest, 1)] == ["9"]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_thousands_of_subscribers_share_one_connection(plugin: RedisPlugin, redis: Redis) -> None:
    """And one that publishes."""
    pubsub = RedisPubSub(plugin)
    subscriptions = [pubsub.subscribe("all", f"own:{number}") for number in range(2000)]
    waits = [asyncio.ensure_future(anext(subscription)) for subscription in subscriptions]
    await eventually(lambda: _is(redis.pubsub_numsub("own:1999"), [(b"own:1999", 1)]))
    await pubsub.publish("all", "x")
    with anyio.fail_after(WAIT):
        assert {message.data for message in await asyncio.gather(*waits)} == {"x"}
    await eventually(lambda: has_at_most(redis, 2))
    for subscription in subscriptions:
        await subscription.aclose()
    await eventually(lambda: not plugin.loop_state().shared)  # the connection is closed when nobody listens
    await eventually(lambda: has_at_most(redis, 1))


async def test_dropped_and_cancelled_subscriptions_are_let_go(plugin: RedisPlugin) -> None:
    """Without a word, at any moment."""
    pubsub = RedisPubSub(plugin)

    async def drop(turns: int) -> None:
        wait = asyncio.ensure_future(anext(pubsub.subscribe("a", patterns=["b*"])))
        for _ in range(turns):
            await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    async with pubsub.subscribe("stays"):
        for number in range(40):
            await drop(number)
        gc.collect()
        await eventually(lambda: _is(plugin.execute("PUBSUB", "CHANNELS"), [b"stays"]))
        await eventually(lambda: _is(plugin.execute("PUBSUB", "NUMPAT"), 0))


async def test_a_cancelled_wait_loses_no_message(plugin: RedisPlugin) -> None:
    """It can be iterated over again."""
    pubsub = RedisPubSub(plugin)
    got: list[Any] = []
    async with pubsub.subscribe("a") as subscription:
        for number in range(100):
            wait = asyncio.ensure_future(anext(subscription))
            publish = asyncio.ensure_future(pubsub.publish("a", str(number)))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            wait.cancel()
            await publish
            await asyncio.wait([wait])
            if not wait.cancelled():
                got.append(wait.result())
        got += await take(subscription, 100 - len(got))
    assert [message.data for message in got] == [str(number) for number in range(100)]


async def test_unsubscribing_and_subscribing_again_at_once_is_live(plugin: RedisPlugin) -> None:
    """A confirmation of before is not taken for one of now."""
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("stays"):
        for number in range(50):
            async with pubsub.subscribe("a") as subscription:
                await pubsub.publish("a", str(number))
                assert [message.data for message in await take(subscription, 1)] == [str(number)]


async def test_a_missing_permission_is_a_typed_error(redis_url: str, redis: Redis) -> None:
    """Of the channel that is refused only; and nothing hangs."""
    await redis.acl_setuser(
        "guest", enabled=True, passwords=["+secret"], commands=["+@all"], channels=["open*"], reset_channels=True
    )
    plugin = RedisPlugin(redis_url, username="guest", password="secret")
    pubsub = RedisPubSub(plugin)
    try:
        async with pubsub.subscribe("open") as subscription:
            with pytest.raises(SourceRefusedError, match="NoPermission"):
                await take(pubsub.subscribe("closed"), 1)
            with pytest.raises(SourceRefusedError, match="NoPermission"):
                await pubsub.publish("closed", "x")
            await pubsub.publish("open", "y")
            assert [message.data for message in await take(subscription, 1)] == ["y"]
    finally:
        await plugin.aclose()
        await redis.acl_deluser("guest")


async def test_closing_the_plugin_ends_subscriptions(redis_url: str) -> None:
    """Whoever waits is told that there is no more."""
    plugin = RedisPlugin(redis_url)
    subscription = RedisPubSub(plugin).subscribe("a")
    await subscription.__aenter__()
    wait = asyncio.ensure_future(_all(subscription))
    await asyncio.sleep(0)
    await plugin.aclose()
    with anyio.fail_after(WAIT):
        assert await wait == []


async def test_whatever_ends_the_reader_is_told_to_all(plugin: RedisPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what nobody expected, and to those who still wait for the beginning; whoever subscribes next is served."""
    pubsub = RedisPubSub(plugin)
    live, also = pubsub.subscribe("a"), pubsub.subscribe("a", "b")
    async with live, also:
        waits = [asyncio.ensure_future(take(subscription, 1)) for subscription in (live, also)]
        await asyncio.sleep(0)

        async def receive(self: RedisConnection) -> Any:
            raise LookupError("never heard of")

        with monkeypatch.context() as patch:
            patch.setattr(RedisConnection, "receive", receive)
            await plugin.client.publish("a", "1")  # what is received now is so as before, what comes next is not
            for wait in waits:
                assert [message.data for message in await wait] == ["1"]
            with anyio.fail_after(WAIT):
                for subscription in (live, also, pubsub.subscribe("late")):
                    with pytest.raises(SourceUnavailableError, match="never heard of") as caught:
                        await take(subscription, 1)
                    assert isinstance(caught.value.__cause__, LookupError)
        async with pubsub.subscribe("a") as again:
            await pubsub.publish("a", "2")
            assert [message.data for message in await take(again, 1)] == ["2"]


async def test_a_reader_that_is_cancelled_ends_its_subscriptions(plugin: RedisPlugin) -> None:
    """As the end of an event loop does."""
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("a") as subscription:
        reader = pubsub._reader()._task
        assert reader is not None
        reader.cancel()
        with pytest.raises(SourceUnavailableError):
            await take(subscription, 1)


async def _all(subscription: Any) -> list[Any]:
    return [message async for message in subscription]


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((), {}),
        (("a",), {"buffer": 0}),
        ((), {"patterns": "a*"}),
        ((), {"patterns": 5}),
        ((), {"patterns": None}),
        ((1,), {}),
        (("a",), {"overflow": "no"}),
    ],
)
def test_arguments_are_checked(channels: Any, options: dict[str, Any]) -> None:
    """What won't do is refused when a subscription is made."""
    with pytest.raises(InvalidFieldError):
        RedisPubSub("redis://localhost").subscribe(*channels, **options)
