"""The figures that sources tell of themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend

from litestar_safe_sse.sources.channels import ChannelsSource
from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import RedisPubSub
from litestar_safe_sse.sources.redis.queue import RedisQueue
from litestar_safe_sse.sources.statistics import EventLogStatistics, QueueStatistics, SourceStatistics
from tests.redis_server import RedisServer
from tests.sources.clients import Visit, eventually
from tests.sources.queues import serving
from tests.sources.subscriptions import begin, take, take_all, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[MemoryEventLog, RedisEventLog])
def log(request: pytest.FixtureRequest, plugin: RedisPlugin) -> Any:
    return request.param(plugin) if request.param is RedisEventLog else request.param()


async def test_a_log_tells_who_is_where(log: Any) -> None:
    """Who is replaying, what waits, what was dropped, and who could not keep up."""
    for number in range(250):
        await log.append("a", f"{number}")
    replaying = log.subscribe("a", "b", start="oldest")
    await take(replaying, 1)
    assert log.statistics() == EventLogStatistics(
        subscribers=1, topics=2, backlog=0, lag=0, dropped=0, overflows=0, reconnects=0, gaps=0,
        replaying=1, replayed=100, appended=250,
    )  # fmt: skip
    await take(replaying, 249)
    dropping = log.subscribe("a", buffer=2, overflow="drop_oldest")
    closing = log.subscribe("a", buffer=2)
    lost = log.subscribe("a", after="bogus")
    await begin(dropping)
    await begin(closing)
    await take(lost, 1)
    for number in range(5):
        await log.append("a", f"{number}")
    await take(replaying, 5)
    await eventually(lambda: log.statistics().lag == 5)
    assert log.statistics() == EventLogStatistics(
        subscribers=4, topics=2, backlog=9, lag=5, dropped=3, overflows=1, reconnects=0, gaps=1,
        replaying=0, replayed=250, appended=255,
    )  # fmt: skip
    await take_all(closing)
    for subscription in (replaying, dropping, lost):
        await subscription.aclose()
    assert (log.statistics().subscribers, log.statistics().backlog, log.statistics().overflows) == (0, 0, 1)


async def test_a_log_counts_the_times_that_redis_was_away(own_redis: RedisServer) -> None:
    """Once for each, however many attempts it took."""
    plugin = RedisPlugin(own_redis.url)
    log = RedisEventLog(plugin)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for times in range(1, 3):
            await until(lambda: log._fan_out().listens)
            own_redis.kill()
            await asyncio.to_thread(own_redis.start_again)
            await eventually(lambda: log.statistics().reconnects == times)  # noqa: B023
    await plugin.aclose()


async def test_pubsub_tells_of_buffers_and_gaps(own_redis: RedisServer) -> None:
    """And goes on counting when nobody has been subscribed for a while."""
    plugin = RedisPlugin(own_redis.url)
    pubsub = RedisPubSub(plugin)
    async with pubsub.subscribe("a", "b", buffer=2) as slow, pubsub.subscribe("a") as fast:
        for number in range(3):
            await pubsub.publish("a", f"{number}")
        await take(fast, 3)
        await pubsub.publish("a", "last")
        await eventually(lambda: pubsub.statistics().backlog == 3)
        assert pubsub.statistics() == SourceStatistics(
            subscribers=2, topics=2, backlog=3, lag=2, dropped=2, overflows=0, reconnects=0, gaps=0
        )
        await take(fast, 1)
        await plugin.execute("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await take(fast, 1))[0].event == "gap"
        await eventually(lambda: pubsub.statistics().gaps == 2)
        assert (await take(slow, 1))[0].event == "dropped"
    reader = pubsub._reader()
    await eventually(lambda: pubsub._reader() is not reader)
    assert pubsub.statistics() == SourceStatistics(
        subscribers=0, topics=0, backlog=0, lag=0, dropped=3, overflows=0, reconnects=1, gaps=2
    )
    await plugin.aclose()


async def test_channels_tell_of_buffers() -> None:
    """As far as they are ours."""
    async with ChannelsPlugin(MemoryChannelsBackend(), arbitrary_channels_allowed=True) as channels:
        source = ChannelsSource(channels)
        async with source.subscribe("a", "b", buffer=2, overflow="close"), source.subscribe("a") as fast:
            for number in range(3):
                await channels.wait_published(f"{number}", "a")
            await take(fast, 3)
            assert source.statistics() == SourceStatistics(
                subscribers=2, topics=2, backlog=2, lag=2, dropped=0, overflows=1, reconnects=0, gaps=0
            )
        assert source.statistics().subscribers == 0


@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
async def test_a_queue_tells_what_is_with_streams(kind: Any, plugin: RedisPlugin) -> None:
    """What has settled is delivered, and what a client left behind has gone back."""
    queue = kind(plugin, "jobs", settle=0)
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await eventually(lambda: queue.statistics().waiting == 1)
        await queue.push("1", "2")
        await visit.until_data("1", "2")
        await eventually(lambda: queue.statistics().delivered == 2)
        assert queue.statistics() == QueueStatistics(waiting=1, in_hand=0, delivered=2, returned=0, reconnects=0)
        await visit.leave_and_end()
        slow = Visit(app, "/slow").start()
        await queue.push("3")
        await slow.until_data("working")
        assert queue.statistics() == QueueStatistics(waiting=0, in_hand=1, delivered=2, returned=0, reconnects=0)
        await slow.leave_and_end()
        assert queue.statistics() == QueueStatistics(waiting=0, in_hand=0, delivered=2, returned=1, reconnects=0)
