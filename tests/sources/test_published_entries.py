"""An append publishes what it stores: an event costs those who listen to it, and what is not heard is read."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import anyio
import pytest
from msgspec.msgpack import encode
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin
from litestar_safe_sse.sources.redis import _log_reader
from litestar_safe_sse.sources.redis._entries import to_published
from tests.bounds import WAIT
from tests.sources.clients import eventually
from tests.sources.subscriptions import begin, data, ids, take, until

pytestmark = pytest.mark.anyio


async def publish(redis: Redis, channel: str, payload: bytes) -> None:
    """Publishes where a log listens."""
    try:
        await redis.execute_command("SPUBLISH", channel, payload)
    except ResponseError:  # before Redis 7 no channels were sharded
        await redis.publish(channel, payload)


@pytest.fixture
def log(plugin: RedisPlugin) -> RedisEventLog:
    return RedisEventLog(plugin)


@pytest.fixture
def never_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not heard, or read for a reason, does not come within a test."""
    monkeypatch.setattr(_log_reader, "POLL", 2 * WAIT)


async def append_silently(redis: Redis, log: RedisEventLog, topic: str, number: int, before: str) -> str:
    """As an older release of this package does it, which is running still in the middle of a deployment."""
    nonce = f"{number + 1000:x}"
    last: Any = await redis.xrevrange(f"{{sse}}:log:{topic}", count=1)
    epoch, _, seq = last[0][0].decode().partition("-")
    fields: dict[Any, Any] = {"nonce": nonce, "before": before, "data": f"{number}"}
    await redis.xadd(f"{{sse}}:log:{topic}", fields, id=f"{epoch}-{int(seq) + 1}")
    return nonce


async def nonce_of_last(redis: Redis, topic: str) -> str:
    last: Any = await redis.xrevrange(f"{{sse}}:log:{topic}", count=1)
    return str(last[0][1][b"nonce"].decode())


async def test_what_is_appended_and_not_published_comes_too(log: RedisEventLog, redis: Redis) -> None:
    """Old and new releases append to the same topic, in turn: nothing is missing, nothing comes twice."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "-1")
        for number in range(5):
            await append_silently(redis, log, "a", number, await nonce_of_last(redis, "a"))
        assert data(await take(subscription, 6)) == ["-1", "0", "1", "2", "3", "4"]
        expected = []
        for number in range(40):
            expected.append(f"{number}")
            if number % 3:
                await append_silently(redis, log, "a", number, await nonce_of_last(redis, "a"))
            else:
                await log.append("a", f"{number}")
        assert data(await take(subscription, 40)) == expected


@pytest.mark.usefixtures("never_polled")
async def test_what_was_not_heard_is_read_with_the_next_that_is(log: RedisEventLog, redis: Redis) -> None:
    """An event names the one before it, so one is missed at once."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "first")
        for number in range(250):
            await append_silently(redis, log, "a", number, await nonce_of_last(redis, "a"))
        await log.append("a", "last")
        assert data(await take(subscription, 252)) == ["first", *map(str, range(250)), "last"]


@pytest.mark.usefixtures("never_polled")
async def test_an_event_costs_the_same_whatever_else_is_in_use(
    plugin: RedisPlugin, log: RedisEventLog, redis: Redis
) -> None:
    """What is sent to Redis for an event, a join and a leave, is no more with 2,000 topics than with ten."""

    async def sent() -> int:
        statistics: dict[str, Any] = await redis.info("stats")
        return int(statistics["total_net_input_bytes"])

    async def cost() -> tuple[int, int]:
        await until(lambda: log._fan_out().listens)
        begun = await sent()
        for number in range(50):
            await log.append(f"topic {number % 10}", "x")
        appended = await sent()
        for number in range(10):
            async with log.subscribe(f"{number}th more") as more:
                await begin(more)
                await until(lambda: log._fan_out().listens)
        await until(lambda: log._fan_out().listens)
        return appended - begun, await sent() - appended

    subscriptions = [log.subscribe(f"topic {number}", overflow="drop_oldest") for number in range(2000)]
    for subscription in subscriptions[:10]:
        await begin(subscription)
    await log.append("topic 0", "the script is known now")
    few = await cost()
    for subscription in subscriptions[10:]:
        await begin(subscription)
    many = await cost()
    assert many[0] <= 1.5 * few[0]
    assert many[1] <= 1.5 * few[1]
    for number, subscription in enumerate(subscriptions[:10]):
        assert len(await take(subscription, 10 + (number == 0))) == 10 + (number == 0)
    for subscription in subscriptions:
        await subscription.aclose()


@pytest.mark.usefixtures("never_polled")
async def test_who_leaves_and_comes_back_misses_nothing(log: RedisEventLog) -> None:
    """However the channels are begun and ended meanwhile."""
    chance = random.Random(1)
    many, got = 600, list[str]()

    async def append() -> None:
        for number in range(many):
            await log.append("a", f"{number}")
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() / 1000)

    async with log.subscribe("a") as subscription:
        last = str((await begin(subscription)).id)
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append)
            while len(got) < many:
                async with log.subscribe("a", after=last) as subscription:
                    messages = await take(subscription, min(chance.randrange(1, 6), many - len(got)))
                got += data(messages)
                last = ids(messages)[-1]
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
    assert got == [f"{number}" for number in range(many)]


@pytest.mark.usefixtures("never_polled")
async def test_a_broken_channel_is_no_gap(log: RedisEventLog, redis: Redis) -> None:
    """Redis drops who does not read fast enough: what was published meanwhile is read."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for number in range(100):
            if number % 25 == 10:
                await redis.client_kill_filter(_type="pubsub")
            await log.append("a", f"{number}")
        assert data(await take(subscription, 100)) == [f"{number}" for number in range(100)]


@pytest.mark.usefixtures("never_polled")
async def test_what_strangers_publish_is_no_event(log: RedisEventLog, redis: Redis) -> None:
    """It is read what is stored."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await until(lambda: log._fan_out().listens)
        for payload in (b"", b"x", b"\xff", b"\x93\xa1a\xa1b\xa1c", b"\x90", b"\xc0", b"\x81\xa1a\xa1b"):
            assert to_published(payload) is None
            await publish(redis, "{sse}:log:a", payload)
        await log.append("a", "x")
        assert data(await take(subscription, 1)) == ["x"]


@pytest.mark.usefixtures("never_polled")
@pytest.mark.parametrize("size", [1000, 70_000, 1_000_000])
async def test_large_events_are_read_when_they_are_announced(log: RedisEventLog, size: int) -> None:
    """They would fill what Redis holds for those who listen."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for number in range(5):
            await log.append("a", {"data": f"{number}".rjust(size), "event": "e", "retry": 5, "comment": "c"})
        messages = await take(subscription, 5)
    assert data(messages) == [f"{number}".rjust(size) for number in range(5)]
    assert {(message.event, message.retry, message.comment) for message in messages} == {("e", 5, "c")}


@pytest.mark.usefixtures("never_polled")
@pytest.mark.parametrize(
    "entry",
    [
        ["9" * 20 + "-1", "1", "0"],
        ["1-" + "9" * 20, "1", "0"],
        ["1-0", "1", "0"],
        ["1-1", "f" * 9, "0"],
        ["1-1", "1", "f" * 9],
        ["1-1", "-1", "0"],
        ["-1-1", "1", "0"],
    ],
    ids=str,
)
async def test_what_is_heard_and_can_be_no_entry_is_nothing(redis: Redis, log: RedisEventLog, entry: list[str]) -> None:
    """Neither in a topic that has had events nor in one that has not: what is stored follows."""
    assert to_published(encode([*entry, "at", "1", "data", "forged"])) is None
    await log.append("old", "1")
    async with log.subscribe("old") as old, log.subscribe("new") as new:
        await begin(old)
        await begin(new)
        await until(lambda: log._fan_out().listens)
        for topic in ("old", "new"):
            await publish(redis, f"{{sse}}:log:{topic}", encode([*entry, "data", "forged"]))
            await log.append(topic, "stored")
        assert data(await take(old, 1)) == data(await take(new, 1)) == ["stored"]


async def test_an_entry_that_no_id_has_room_for_is_an_error(redis: Redis, log: RedisEventLog) -> None:
    """It is another's, though it has the fields of ours: those who are subscribed are told the topic."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await redis.xadd("{sse}:log:a", {"nonce": "1", "before": "0", "data": "x"}, id="9" * 16 + "-1")
        with pytest.raises(SourceRefusedError, match=r"'a': the entry 9{16}-1 is not of an event log"):
            await take(subscription, 1)


async def test_a_topic_that_is_appended_to_and_deleted_at_once_is_its_own_affair(
    redis: Redis, log: RedisEventLog, redis_url: str
) -> None:
    """What is heard of it is not stored any more: others go on, on the same connections, and so does it."""
    other = RedisPlugin(redis_url)
    writer = RedisEventLog(other)
    async with log.subscribe("busy", start="oldest") as busy, log.subscribe("news") as news:
        await begin(busy)
        await begin(news)
        await until(lambda: log._fan_out().listens)
        for number in range(150):
            large = writer.append("busy", "x" * 70_000)  # it is announced, and has to be read
            await asyncio.gather(large, writer.append("busy", "y"), writer.delete("busy"))
            await writer.append("news", f"{number}")
            assert data(await take(news, 1)) == [f"{number}"]
        await writer.append("busy", "end")
        with anyio.fail_after(WAIT):
            while (await busy.__anext__()).data != "end":
                pass
    assert log.statistics().reconnects == 0
    await other.aclose()


async def test_what_was_heard_and_has_gone_unsaid_is_noticed(redis: Redis, log: RedisEventLog) -> None:
    """The server may be another one than that which is read: both are connected to anew."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "1")
        await take(subscription, 1)
        await until(lambda: log._fan_out().listens)
        place = log._fan_out().topics["a"].position
        await publish(redis, "{sse}:log:a", encode([f"{place.epoch}-9", "1", "2", "data", "x"]))
        await eventually(lambda: has_reconnected(log))
        await log.append("a", "2")
        assert data(await take(subscription, 1)) == ["2"]


async def has_reconnected(log: RedisEventLog) -> bool:
    return log.statistics().reconnects == 1
