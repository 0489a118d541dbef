"""What only a log on Redis can meet: outages, lost data, wrong keys, other processes, thousands of subscribers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._cursor import Position, cursor, positions, record, tag
from litestar_safe_sse.sources._subscription import Subscription
from litestar_safe_sse.sources.event_log import History, Reset
from litestar_safe_sse.sources.redis._log_reader import POLL, LogReader
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.clients import connections, eventually, has_at_most
from tests.sources.proxies import running_proxy
from tests.sources.subscriptions import begin, data, take, until

pytestmark = pytest.mark.anyio

heavy = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
"""Once is enough."""


@pytest.fixture
async def own_plugin(own_redis: RedisServer) -> AsyncIterator[RedisPlugin]:
    made = RedisPlugin(own_redis.url)
    yield made
    await made.aclose()


@pytest.fixture
def log(plugin: RedisPlugin) -> RedisEventLog:
    return RedisEventLog(plugin)


async def append_until_stored(log: RedisEventLog, topic: str, item: str) -> str:
    """As a careful publisher does it."""
    with anyio.fail_after(WAIT):
        while True:
            try:
                return await log.append(topic, item, idempotency_key=item)
            except SourceUnavailableError:
                await asyncio.sleep(0.02)


def reader_of(log: RedisEventLog) -> LogReader:
    return log._fan_out()


# Redis goes away


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_nothing_is_missing_after_an_outage(
    own_redis: RedisServer, own_plugin: RedisPlugin, kill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Subscriptions wait, appends fail with a typed error, and the log says it once; then all goes on."""
    log = RedisEventLog(own_plugin)
    subscription = log.subscribe("a", "b")
    await begin(subscription)
    await log.append("a", "before")
    assert data(await take(subscription, 1)) == ["before"]
    own_redis.kill() if kill else own_redis.stop()
    with pytest.raises(SourceUnavailableError):
        await log.append("a", "while it is away")
    late = asyncio.ensure_future(take(log.subscribe("a", start="oldest"), 1))
    await until(lambda: any("waiting for Redis" in record.message for record in caplog.records))
    await asyncio.sleep(0.3)  # several attempts
    assert not late.done()
    await asyncio.to_thread(own_redis.start_again)
    await append_until_stored(log, "a", "after")
    assert data(await take(subscription, 1)) == ["after"]
    assert data(await late) == ["before"]
    await log.append("b", "live")
    assert data(await take(subscription, 1)) == ["live"]
    await eventually(lambda: log.statistics().reconnects == 1)  # noticed beside what delivers events
    said = [record.message for record in caplog.records if record.name == "litestar_safe_sse"]
    assert len(said) == 2, said
    await subscription.aclose()


async def test_what_others_appended_during_a_pause_is_not_missed(own_redis: RedisServer) -> None:
    """A reader whose connections break while others append finds all of it."""
    one, two = RedisPlugin(own_redis.url), RedisPlugin(own_redis.url)
    reader, writer = RedisEventLog(one), RedisEventLog(two)
    async with reader.subscribe("a") as subscription, Redis.from_url(own_redis.url) as client:
        await begin(subscription)
        for number in range(200):
            if number % 20 == 0:
                await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await append_until_stored(writer, "a", f"{number}")
        assert data(await take(subscription, 200)) == [f"{number}" for number in range(200)]
    await one.aclose()
    await two.aclose()


async def test_a_hanging_redis_makes_append_fail(own_redis: RedisServer, own_plugin: RedisPlugin) -> None:
    """After a bounded time; when it is back, subscribers get what was stored, once."""
    own_plugin.reply_timeout = 0.3
    log = RedisEventLog(own_plugin)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        own_redis.pause()
        with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
            await log.append("a", "maybe", idempotency_key="maybe")
        own_redis.resume()
        await append_until_stored(log, "a", "maybe")
        await log.append("a", "next")
        assert data(await take(subscription, 2)) == ["maybe", "next"]


# Redis loses data


async def test_an_emptied_redis_is_told_to_live_subscribers(log: RedisEventLog, redis: Redis) -> None:
    """With the first event of the new history; then they get it whole."""
    async with log.subscribe("a") as subscription, log.subscribe("a", on_reset="latest") as latest:
        await begin(subscription)
        await begin(latest)
        await log.append("a", "old")
        await take(subscription, 1)
        await take(latest, 1)
        await redis.flushall()
        await log.append("a", "new")
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new"]
        assert data(await take(latest, 1)) == [Reset({"a": "unknown"}, "latest")]
        await log.append("a", "next")
        assert data(await take(subscription, 1)) == data(await take(latest, 1)) == ["next"]


async def test_a_redis_that_came_back_empty_is_told_to_those_who_resume(log: RedisEventLog, redis: Redis) -> None:
    """Whether the topic is there again or not."""
    appended = [await log.append("a", f"{number}") for number in range(5)]
    await redis.flushall()
    async with log.subscribe("a", after=appended[2], on_reset="oldest") as subscription:
        assert data(await take(subscription, 1)) == [Reset({"a": "unknown"}, "oldest")]
    for number in range(10):
        await log.append("a", f"new{number}")
    async with log.subscribe("a", after=appended[2], on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new0"]


async def lose_tail(redis: Redis, many: int) -> None:
    """What a crash does that loses the last entries: they are gone, and their IDs are free again."""
    key = "{sse}:log:a"
    entries: Any = await redis.xrange(key)
    await redis.delete(key)
    for entry_id, fields in entries[:-many]:
        await redis.xadd(key, fields, id=entry_id)


@pytest.mark.parametrize("more", [2, 5, 10])
async def test_a_lost_tail_is_no_silent_gap(log: RedisEventLog, redis: Redis, more: int) -> None:
    """Redis loses its last 5 events, others take their numbers: whoever had seen the lost ones is told."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        appended = [await log.append("a", f"{number}") for number in range(20)]
        await take(subscription, 20)
        before_loss = appended[10]
        await lose_tail(redis, 5)
        for number in range(more):
            await log.append("a", f"new{number}")
        await redis.client_kill_filter(_type="normal", skipme=True)  # a crash breaks the connections too
        reset, *rest = await take(subscription, 1 + 15 + more)
    assert reset.data == Reset({"a": "unknown"}, "oldest")
    kept = [f"{number}" for number in range(15)] + [f"new{number}" for number in range(more)]
    assert data(rest) == kept
    async with log.subscribe("a", after=appended[-1], on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "0"]
    async with log.subscribe("a", after=before_loss) as subscription:
        assert data(await take(subscription, 4 + more)) == kept[11:]


async def test_a_lost_tail_shows_without_a_broken_connection(log: RedisEventLog, redis: Redis) -> None:
    """An event that does not follow the last one is not passed on as if it did."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for number in range(5):
            await log.append("a", f"{number}")
        await take(subscription, 5)
        await lose_tail(redis, 2)
        for number in range(4):
            await log.append("a", f"new{number}")
        reset, *rest = await take(subscription, 8)
    assert reset.event == "reset"
    assert data(rest) == ["0", "1", "2", *(f"new{number}" for number in range(4))]


async def test_a_reader_that_is_left_behind_by_trimming_says_so(plugin: RedisPlugin, own_redis: RedisServer) -> None:
    """Subscribers of a reader that comes too late get a reset, and then what is left."""
    log = RedisEventLog(plugin, max_events=10)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        reader = reader_of(log)
        await until(lambda: reader.listens)
        pipeline = plugin.client.pipeline(transaction=True)  # the reader sees nothing of it until it is done
        for number in range(300):
            nonce, before = f"{number + 1:x}", f"{number:x}" if number else f"{reader.topics['a'].position.nonce:x}"
            epoch = reader.topics["a"].position.epoch
            fields: dict[Any, Any] = {"nonce": nonce, "before": before, "data": f"{number}"}
            pipeline.xadd("{sse}:log:a", fields, id=f"{epoch}-{number + 1}", maxlen=11, approximate=False)
        await pipeline.execute()
        reset, *rest = await take(subscription, 12)
    assert reset.data == Reset({"a": "trimmed"}, "oldest")
    assert data(rest) == [f"{number}" for number in range(289, 300)]


# Expiry


@heavy
async def test_topics_expire_unless_somebody_is_subscribed(plugin: RedisPlugin, redis: Redis) -> None:
    """A topic in use is kept alive by the reader; another goes, and who comes back for it is told."""
    log = RedisEventLog(plugin, expire_after=1.0)
    idle = await log.append("idle", "x", idempotency_key="k")
    await log.append("used", "x")
    async with log.subscribe("used") as subscription:
        await begin(subscription)
        await asyncio.sleep(1.5)
        assert await redis.exists("{sse}:log:used")
        assert not await redis.exists("{sse}:log:idle")
        await log.append("used", "still the same history")
        assert data(await take(subscription, 1)) == ["still the same history"]
    async with log.subscribe("idle", after=idle, on_reset="oldest") as subscription:
        assert data(await take(subscription, 1)) == [Reset({"idle": "unknown"}, "oldest")]
    for key in await redis.keys("*"):
        assert await redis.pttl(key) > 0 or key == b"{sse}:log.secret"


# What Redis refuses


async def test_a_key_of_another_type_is_its_own_subscribers_affair(log: RedisEventLog, redis: Redis) -> None:
    """A typed error names the topic; other topics, read by the same command, go on."""
    await redis.set("{sse}:log:wrong", "a string")
    await redis.xadd("{sse}:log:foreign", {"some": "thing"})
    async with log.subscribe("a") as fine, log.subscribe("later") as later:
        await begin(fine)
        await begin(later)
        for topic in ("wrong", "foreign"):
            with pytest.raises(SourceRefusedError, match=topic):
                await log.append(topic, "x")
            with pytest.raises(SourceRefusedError, match=topic):
                await begin(log.subscribe("a", topic))
        await redis.set("{sse}:log:later", "a string")
        await log.append("a", "x")
        assert data(await take(fine, 1)) == ["x"]
        with pytest.raises(SourceRefusedError, match="later"):
            await take(later, 1)
        await log.append("a", "y")
        assert data(await take(fine, 1)) == ["y"]
    assert log.statistics().subscribers == 0


async def test_a_stranger_s_entry_in_a_topic_is_an_error(log: RedisEventLog, redis: Redis) -> None:
    """And no event."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await redis.xadd("{sse}:log:a", {"some": "thing"})
        with pytest.raises(SourceRefusedError, match="'a'"):
            await take(subscription, 1)


async def test_a_topic_whose_newest_event_was_removed_says_what_to_do(log: RedisEventLog, redis: Redis) -> None:
    """Redis gives no ID twice; what the error says helps, and who had the event that is gone is told."""
    await log.append("a", "stays")
    gone = await log.append("a", "goes")
    ((newest, _),) = await redis.xrevrange("{sse}:log:a", count=1)  # type: ignore[misc]
    await redis.xdel("{sse}:log:a", newest)  # type: ignore[arg-type]
    with pytest.raises(SourceRefusedError, match=r"'a': .* delete the topic"):
        await log.append("a", "next")
    await log.delete("a")
    await log.append("a", "next")
    assert data(await log.read("a")) == ["next"]
    assert data(await log.read("a", after=gone)) == [Reset({"a": "unknown"}, "oldest"), "next"]


@pytest.mark.parametrize(
    "end", ["garbage", "", "-", "1-1-", "1-1-xyz", "9" * 30 + "-1-1", "-1-1-1", "1-1-1ffffffff", b"\xff-1-1"]
)
async def test_an_end_that_is_none_is_a_typed_error(log: RedisEventLog, redis: Redis, end: Any) -> None:
    """Whatever stands in the key of a topic's end: each call says so, other topics go on, and to delete it helps."""
    await log.append("fine", "x")
    await redis.set("{sse}:log.finished:a", end)
    for call in (log.position("a"), log.read("a"), log.finish("a"), begin(log.subscribe("fine", "a"))):
        with anyio.fail_after(WAIT), pytest.raises(SourceRefusedError, match="no place in an event log"):
            await call
    async with log.subscribe("fine", start="oldest") as subscription:
        assert data(await take(subscription, 1)) == ["x"]
    await log.delete("a")
    await log.append("a", "new")


@pytest.mark.parametrize("denied", ["-eval", "-xrange", "-xadd"])
async def test_a_missing_permission_is_a_typed_error(redis_server: RedisServer, redis: Redis, denied: str) -> None:
    """For the one who appends, and for the one who subscribes; never a hang."""
    await redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", denied)
    plugin = RedisPlugin(f"redis://limited:secret@127.0.0.1:{redis_server.port}/0")
    log = RedisEventLog(plugin)
    try:
        if denied in ("-eval", "-xadd"):
            with anyio.fail_after(WAIT), pytest.raises(SourceRefusedError):
                await log.append("a", "x")
        if denied == "-xrange":
            with pytest.raises(SourceRefusedError):
                await take(log.subscribe("a"), 1)
    finally:
        await plugin.aclose()
        await redis.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("denied", ["pexpire", "set", "get", "time", "del", "xrevrange", "xadd"])
async def test_what_is_refused_is_not_stored(
    redis_server: RedisServer, redis: Redis, log: RedisEventLog, denied: str
) -> None:
    """Whichever command the account lacks: an append, an end or a deletion that raises has changed nothing."""
    await redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "+@all", f"-{denied}")
    plugin = RedisPlugin(redis_server.url, username="limited", password="secret")
    limited, refused = RedisEventLog(plugin), 0
    await log.append("a", "first")
    for call in (
        lambda: limited.append("a", "x"),
        lambda: limited.append("a", "x", idempotency_key="k"),
        lambda: limited.append("new", "x"),
        lambda: limited.append("newer", "x", idempotency_key="k"),
        lambda: limited.append_many("newest", ["x", "y"]),
        lambda: limited.append_many("a", ["x", "y"]),
        lambda: limited.finish("other"),
        lambda: limited.finish("a"),
        lambda: limited.delete("a"),
    ):
        keys = sorted(key for key in await redis.keys("*") if key != b"{sse}:log.secret")
        many = await redis.xlen("{sse}:log:a")
        try:
            await call()
        except SourceRefusedError:
            refused += 1
            assert sorted(key for key in await redis.keys("*") if key != b"{sse}:log.secret") == keys
            assert await redis.xlen("{sse}:log:a") == many
    assert refused
    await plugin.aclose()
    await redis.execute_command("ACL", "DELUSER", "limited")


def named(needs: str) -> list[str]:
    """The commands that the documentation names."""
    required = (RedisEventLog.__doc__ or "").partition(needs)[2].partition(".")[0]
    return [name.lower() for name in re.findall(r"``([A-Z]+)``", required)]


@heavy
async def test_the_permissions_that_are_named_are_enough(redis_server: RedisServer, redis: Redis) -> None:
    """To read needs no permission to write, not even for a topic that nothing was appended to."""
    reads, writes = named("Who subscribes needs"), named("who appends needs")
    for user, keys, commands in (("reader", "%R~{sse}:*", reads), ("writer", "~{sse}:*", writes)):
        rules = [keys, "resetchannels", "&{sse}:*", *(f"+{name}" for name in commands)]
        await redis.execute_command("ACL", "SETUSER", user, "reset", "on", ">secret", *rules)
    reader, writer = (RedisPlugin(redis_server.url, username=user, password="secret") for user in ("reader", "writer"))
    try:
        await RedisEventLog(writer).append("other", "x")
        async with RedisEventLog(reader).subscribe("a") as early:
            await begin(early)
            assert not await redis.exists("{sse}:log:a")
            await RedisEventLog(writer).append("a", "1", idempotency_key="once")
            async with RedisEventLog(reader).subscribe("a", start="oldest") as late:
                await RedisEventLog(writer).append("a", "2")
                assert data(await take(early, 2)) == data(await take(late, 2)) == ["1", "2"]
    finally:
        for plugin in (reader, writer):
            await plugin.aclose()
        await redis.acl_deluser("reader", "writer")


@heavy
async def test_to_subscribe_writes_nothing_for_a_topic(log: RedisEventLog, redis: Redis) -> None:
    """Names that clients made up fill nothing: all that is kept is the secret of the log."""
    for number in range(100):
        async with log.subscribe(f"user {number}") as subscription:
            await begin(subscription)
    assert await redis.keys("*") == [b"{sse}:log.secret"]


async def test_a_beginning_cannot_be_made_up(log: RedisEventLog, redis: Redis) -> None:
    """Whoever knows when a topic began is not given what was appended before he came."""
    async with log.subscribe("other") as subscription:
        own = positions(str((await begin(subscription)).id)) or {}
    await log.append("a", "said before")
    ((identity, _),) = await redis.xrange("{sse}:log:a")  # type: ignore[misc]
    epoch = int(identity.partition(b"-")[0])  # type: ignore[arg-type, union-attr]
    for place in (*own.values(), Position(epoch, 0, 0), Position(epoch - 1, 0, next(iter(own.values())).nonce)):
        async with log.subscribe("a", after=cursor([record(tag("a"), place)]), on_reset="latest") as subscription:
            assert data(await take(subscription, 1)) == [Reset({"a": "unknown"}, "latest")]


@heavy
async def test_a_history_that_came_and_went_is_no_silent_gap(redis: Redis, plugin: RedisPlugin) -> None:
    """Who subscribed before it, and comes back after it, learns that something is missing."""
    log = RedisEventLog(plugin, expire_after=1.0)
    async with log.subscribe("flushed", "expired") as subscription:
        start = str((await begin(subscription)).id)
    await log.append("flushed", "lost")
    await redis.flushall()
    await log.append("flushed", "new")
    async with log.subscribe("flushed", "expired", after=start, on_reset="oldest") as subscription:
        (reset,) = await take(subscription, 1)
        assert reset.data == Reset({"flushed": "unknown", "expired": "unknown"}, "oldest")
    async with log.subscribe("expired") as subscription:
        start = str((await begin(subscription)).id)
    await log.append("expired", "lost")
    await eventually(lambda: _is_gone(redis, "{sse}:log:expired"))
    await log.append("expired", "new")
    async with log.subscribe("expired", after=start, on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"expired": "unknown"}, "oldest"), "new"]


@heavy
async def test_a_subscriber_of_a_quiet_topic_is_sent_its_first_event(redis: Redis, plugin: RedisPlugin) -> None:
    """However long it has waited for it."""
    log = RedisEventLog(plugin, expire_after=1.0)
    async with log.subscribe("a") as subscription, log.subscribe("a") as other:
        start = await begin(subscription)
        await begin(other)
        await asyncio.sleep(1.3)  # longer than its beginning would be accepted from a client
        async with log.subscribe("a", after=str(start.id)) as late:
            assert (await take(late, 1))[0].event == "reset"
        await log.append("a", "x")
        assert data(await take(subscription, 1)) == data(await take(other, 1)) == ["x"]


@heavy
async def test_who_stayed_with_a_quiet_topic_can_come_back(plugin: RedisPlugin) -> None:
    """However long nothing came: the ID is renewed before it is accepted no more, for all of the topics at once."""
    log = RedisEventLog(plugin, expire_after=3.0)
    async with log.subscribe("a", "b") as subscription:
        start = epochs(await begin(subscription))
        newest = start
        while newest["a"] - start["a"] < 3000:
            renewed = epochs(await begin(subscription))
            assert renewed["a"] > newest["a"]
            assert renewed["a"] == renewed["b"]
            newest = renewed
    await log.append("a", "missed")
    async with log.subscribe("a", "b", after=subscription.cursor) as again:
        assert data(await take(again, 1)) == ["missed"]


def epochs(message: SSEMessage) -> dict[str, int]:
    """Where the history of each topic begins that an ID is of, or would begin."""
    places = positions(str(message.id)) or {}
    return {topic: places[tag(topic)].epoch for topic in message.data.topics}


async def _is_gone(redis: Redis, key: str) -> bool:
    return not await redis.exists(key)


@pytest.mark.parametrize("denied", ["-ssubscribe", "-spublish", "resetchannels", "-xread"])
async def test_without_permission_to_publish_or_to_listen_events_come_later(
    redis_server: RedisServer, redis: Redis, denied: str
) -> None:
    """When it is their topic's turn to be looked at."""
    rules = ("reset", "on", ">secret", "~*", "&*", "+@all")
    try:
        await redis.execute_command("ACL", "SETUSER", "limited", *rules, denied)
    except ResponseError:  # before Redis 7 no channels were sharded
        await redis.execute_command("ACL", "SETUSER", "limited", *rules, denied.replace("-s", "-"))
    plugin = RedisPlugin(f"redis://limited:secret@127.0.0.1:{redis_server.port}/0")
    log = RedisEventLog(plugin)
    try:
        async with log.subscribe("a") as first, log.subscribe("b") as second:
            await begin(first)
            await log.append("a", "x")
            assert data(await take(first, 1)) == ["x"]
            await begin(second)
            for number in range(3):
                await log.append("b", f"{number}")
            assert data(await take(second, 3)) == ["0", "1", "2"]
    finally:
        await plugin.aclose()
        await redis.execute_command("ACL", "DELUSER", "limited")


async def test_a_channel_that_may_not_be_listened_to_is_polled(
    redis_server: RedisServer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As when none may be, and over the same connections: what is refused for good is not tried again and again."""
    rules = ("reset", "on", ">secret", "~*", "resetchannels", "&{sse}:log:", "&{sse}:log:b", "+@all")
    await redis.execute_command("ACL", "SETUSER", "limited", *rules)
    plugin = RedisPlugin(f"redis://limited:secret@127.0.0.1:{redis_server.port}/0")
    log, other = RedisEventLog(plugin), RedisEventLog(redis_server.url)
    try:
        async with log.subscribe("a") as first, log.subscribe("b") as second:
            await begin(first)
            await begin(second)
            await other.append("a", "x")
            assert data(await take(first, 1)) == ["x"]
            opened = (await redis.info("stats"))["total_connections_received"]
            for number in range(2):
                await other.append("a", f"{number}")
                assert data(await take(first, 1)) == [f"{number}"]
                await other.append("b", f"{number}")
                assert data(await take(second, 1)) == [f"{number}"]
            assert (await redis.info("stats"))["total_connections_received"] == opened
            await first.aclose()
            async with log.subscribe("a") as third:
                await begin(third)
                await other.append("a", "y")
                assert data(await take(third, 1)) == ["y"]
    finally:
        await plugin.aclose()
        await other._redis.aclose()
        await redis.execute_command("ACL", "DELUSER", "limited")
    assert caplog.messages == []


async def test_where_nobody_can_listen_redis_is_not_said_to_be_back(
    redis_url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands that are answered are not enough for that, nor for the next pause to be a short one again."""
    async with running_proxy(lambda: redis_server.port) as proxy:
        proxy.drops = b"SUBSCRIBE"
        plugin = RedisPlugin(proxy.url)
        log = RedisEventLog(plugin)
        async with log.subscribe("a") as events:
            await begin(events)
            await eventually(lambda: proxy.dropped == 4)
            assert [message.split(":")[0] for message in caplog.messages] == ["the event log is waiting for Redis"]
            proxy.drops = None
            await log.append("a", "x")
            assert data(await take(events, 1)) == ["x"]
            await eventually(lambda: "reads from Redis again" in caplog.text)
            assert len(caplog.messages) == 2
        await plugin.aclose()


@pytest.mark.parametrize(
    "settings", [{"max_events": 0}, {"expire_after": 0.5}, {"max_bytes": 0}, {"name": ""}, {"name": "a:b"}], ids=str
)
async def test_settings_that_won_t_do_are_refused(settings: dict[str, Any]) -> None:
    """When the log is made."""
    with pytest.raises(InvalidFieldError):
        RedisEventLog("redis://127.0.0.1:1/0", **settings)


# Several processes


async def test_a_cursor_from_a_process_that_was_ahead(redis_url: str, plugin: RedisPlugin) -> None:
    """A client that comes from a faster process gets nothing twice from one that has not read as far."""
    slow, fast = RedisEventLog(plugin), RedisEventLog(other := RedisPlugin(redis_url))
    async with slow.subscribe("a") as behind:
        await begin(behind)
        reader = reader_of(slow)
        await until(lambda: reader.listens)
        held: Any = reader.publish
        reader.publish = lambda topic, event: None  # type: ignore[assignment]
        appended = [await fast.append("a", f"{number}") for number in range(3)]
        subscription = slow.subscribe("a", after=appended[-1])
        waiting = asyncio.ensure_future(take(subscription, 1))
        await until(lambda: reader.statistics().subscribers == 2)
        reader.publish = held  # type: ignore[method-assign]
        await fast.append("a", "3")
        assert data(await waiting) == ["3"]
        assert data(await take(behind, 4)) == ["0", "1", "2", "3"]
        await subscription.aclose()
    await other.aclose()


async def test_a_new_topic_is_read_at_once(log: RedisEventLog) -> None:
    """The reader that waits for the topics it had is interrupted."""
    async with log.subscribe("a") as first:
        await begin(first)
        await until(lambda: reader_of(log).listens)
        for number in range(10):
            async with log.subscribe(f"new{number}") as second:
                await begin(second)
                began = asyncio.get_running_loop().time()
                await log.append(f"new{number}", "x")
                await take(second, 1)
                assert asyncio.get_running_loop().time() - began < POLL / 2


# Many


@heavy
async def test_two_thousand_subscribers_share_two_connections(log: RedisEventLog, redis: Redis) -> None:
    """Whatever their topics; every one gets its events."""
    many = 2000
    subscriptions = [log.subscribe("all", f"topic{number % 500}") for number in range(many)]
    async with anyio.create_task_group() as tasks:
        for subscription in subscriptions:
            tasks.start_soon(begin, subscription)
    assert (log.statistics().subscribers, log.statistics().topics) == (many, 501)
    await log.append("all", "x")
    await log.append("topic7", "y")
    for number, subscription in enumerate(subscriptions):
        got = await take(subscription, 2 if number % 500 == 7 else 1)
        assert sorted(data(got)) == ["x", "y"][: len(got)]
    await eventually(lambda: has_at_most(redis, 2))
    for subscription in subscriptions:
        await subscription.aclose()
    assert log.statistics().subscribers == 0


@heavy
async def test_nothing_is_left_of_ten_thousand_subscribers(log: RedisEventLog, redis: Redis) -> None:
    """Cancelled at any time, closed, or let go: connections, tasks and descriptors are as before."""
    resume = await log.append("a", "x")
    chance = random.Random(1)
    holds = await connections(redis)
    before = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

    async def visit(number: int) -> None:
        topics = chance.sample(["a", "b", "c", f"own{number % 50}"], 2)
        subscription: Subscription = log.subscribe(*topics, after=chance.choice([None, resume, "bogus"]))
        with anyio.move_on_after(chance.choice([0, 0.001, 0.01, 0.05])):
            for _ in range(3):
                await subscription.__anext__()
        if chance.random() < 0.5:
            await subscription.aclose()

    with anyio.fail_after(WAIT):
        for start in range(0, 10_000, 500):
            async with anyio.create_task_group() as tasks:
                for number in range(start, start + 500):
                    tasks.start_soon(visit, number)
                tasks.start_soon(log.append, "a", "y")
            await eventually(lambda: has_at_most(redis, holds + 1))  # the reader's
    gc.collect()
    assert (log.statistics().subscribers, log.statistics().topics) == (0, 0)
    await until(lambda: (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))) == before)
    await eventually(lambda: has_at_most(redis, holds))
    # And it can be used.
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "z")
        assert data(await take(subscription, 1)) == ["z"]


async def test_closing_the_plugin_ends_subscriptions(log: RedisEventLog, plugin: RedisPlugin, redis: Redis) -> None:
    """And every connection and task."""
    before = len(asyncio.all_tasks()), await connections(redis)
    subscription = log.subscribe("a")
    await begin(subscription)
    waiting = asyncio.ensure_future(take(subscription, 1))
    await until(lambda: subscription._busy)
    await plugin.aclose()
    with pytest.raises(SourceUnavailableError):
        await waiting
    assert log.statistics().subscribers == 0
    assert len(asyncio.all_tasks()) == before[0]
    await eventually(lambda: has_at_most(redis, before[1]))


async def test_one_event_loop_after_another(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A log may be made before there is a loop, and outlive one, whatever is open at its end."""
    plugin = RedisPlugin(redis_url)
    log = RedisEventLog(plugin)

    async def leave_open() -> None:
        waiting = asyncio.ensure_future(take(log.subscribe("a"), 1))
        async with log.subscribe("b") as subscription:
            await begin(subscription)
            await plugin.aclose()
        with pytest.raises(SourceUnavailableError):
            await waiting

    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await asyncio.to_thread(asyncio.run, leave_open())
            gc.collect()
    assert not caplog.records


async def test_the_life_of_a_topic_is_its_own(plugin: RedisPlugin, redis: Redis) -> None:
    """The key expires when the topic's history says so, also while it is read."""
    lives = {"short": History(expire_after=100), "long": History(expire_after=100_000)}
    log = RedisEventLog(plugin, history=lives.get)
    for topic, least, most in (("short", 50, 100), ("long", 99_000, 100_000), ("other", 86_000, 86_400)):
        async with log.subscribe(topic, start="oldest") as subscription:
            await begin(subscription)
            await log.append(topic, "1")
            assert data(await take(subscription, 1)) == ["1"]
            await until(lambda: log._fan_out().listens)
        assert least < await redis.ttl(f"{{sse}}:log:{topic}") <= most
