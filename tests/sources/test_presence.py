"""A log with presence tells who is subscribed, in whichever process, and no longer than that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources import MemoryEventLog, PostgresEventLog, Presence, RedisEventLog, RedisPlugin
from litestar_safe_sse.sources._log_subscription import LogSubscription, Seeking
from litestar_safe_sse.sources._presence import SharedAttendance
from litestar_safe_sse.sources.event_log import EventLog
from litestar_safe_sse.sources.testing import MakeLog, PresenceContract, Visit
from tests.bounds import NEVER
from tests.loops import ASYNCIO
from tests.redis_server import RedisServer
from tests.sources.clients import eventually
from tests.sources.logs import anyio_backend, case, make_log, make_tables_anew, redis_of_case
from tests.sources.subscriptions import begin

__all__ = ("anyio_backend", "case", "make_log", "redis_of_case")

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO])


class TestPresence(PresenceContract):
    @pytest.fixture
    def make_log(self, make_log: MakeLog) -> MakeLog:
        return make_log


def name_of(connection: Any) -> Any:
    """Takes a connection for a name."""
    return connection


def visit(name: str | None) -> Any:
    return Visit(name)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has seats last for a second, so that what was left behind goes while a test waits."""
    monkeypatch.setattr(SharedAttendance, "lasts", 1.0)


@pytest.fixture(params=["redis", "postgres"])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[list[EventLog]]:
    """Two logs, as two processes have them."""
    if request.param == "redis":
        url = request.getfixturevalue("shared_redis").url
        async with Redis.from_url(url) as client:
            await client.flushall()
        plugins = [RedisPlugin(url), RedisPlugin(url)]
        yield [RedisEventLog(plugin, presence=name_of) for plugin in plugins]
        closed = [plugin.aclose for plugin in plugins]
    else:
        url = request.getfixturevalue("shared_postgres").url
        await make_tables_anew(url)
        made = [PostgresEventLog(url, presence=name_of) for _ in range(2)]
        yield [*made]
        closed = [log.aclose for log in made]
    for aclose in closed:
        await aclose()


async def tells(log: EventLog, topic: str, streams: int, **members: int) -> None:
    """Waits until a log tells this, and nothing else."""

    async def does() -> bool:
        return await log.presence(topic) == Presence(streams, members)

    await eventually(does)


@on_asyncio
@pytest.mark.anyio
async def test_each_process_is_told_of_the_others(logs: list[EventLog]) -> None:
    """Who has streams in several has all of them; who leaves is gone."""
    one, other = logs
    async with one.subscribe("a", "b", stream=visit("ann")), one.subscribe("a", stream=visit(None)):
        async with other.subscribe("a", stream=visit("ann")):
            await tells(one, "a", 3, ann=2)
            await tells(other, "a", 3, ann=2)
            await tells(other, "b", 1, ann=1)
        await tells(one, "a", 2, ann=1)
    await tells(other, "a", 0)
    await tells(other, "b", 0)


@on_asyncio
@pytest.mark.anyio
@pytest.mark.usefixtures("brief")
async def test_who_stays_is_told_of_again(logs: list[EventLog]) -> None:
    """For longer than the server keeps what it is not told of again, and by one task for all."""
    one, other = logs
    before = asyncio.all_tasks()
    subscriptions = [one.subscribe(f"{number}", stream=visit("ann")) for number in range(600)]
    for subscription in subscriptions:
        await subscription.__aenter__()
    tasks = [task.get_name() for task in asyncio.all_tasks() - before]
    assert tasks.count("SSE presence") == 1
    loop = asyncio.get_running_loop()
    await tells(other, "599", 1, ann=1)
    until = loop.time() + 2.5

    async def told_till_then() -> bool:
        await tells(other, "0", 1, ann=1)
        return loop.time() >= until

    await eventually(told_till_then)  # which pauses each time: asking without, it would keep a core busy
    for subscription in subscriptions:
        await subscription.aclose()
    await tells(other, "0", 0)
    await eventually(lambda: "SSE presence" not in {task.get_name() for task in asyncio.all_tasks()})


@on_asyncio
@pytest.mark.anyio
@pytest.mark.usefixtures("brief")
async def test_who_is_told_of_no_more_is_forgotten(logs: list[EventLog]) -> None:
    """As where a process has been killed; others are not, and in the end nothing of it is stored."""
    one, other = logs
    async with other.subscribe("a", stream=visit("bob")), one.subscribe("a", stream=visit("ann")):
        await tells(other, "a", 2, ann=1, bob=1)
        attendance: Any = one._attendance()  # type: ignore[attr-defined]
        attendance._task.cancel()
        await tells(other, "a", 1, bob=1)


@on_asyncio
@pytest.mark.anyio
@pytest.mark.usefixtures("brief")
async def test_a_server_that_has_lost_them_is_told_again(logs: list[EventLog]) -> None:
    """Soon."""
    one, other = logs
    async with one.subscribe("a", stream=visit("ann")):
        await tells(other, "a", 1, ann=1)
        if isinstance(one, RedisEventLog):
            await one._redis.execute("FLUSHALL")
        else:
            await one._attendance()._connections.submit("TRUNCATE sse_log_present")  # type: ignore[attr-defined]
        await tells(other, "a", 1, ann=1)


@on_asyncio
@pytest.mark.anyio
async def test_closing_leaves_nothing_behind(logs: list[EventLog]) -> None:
    """Whoever is still there has left, since his process goes."""
    one, other = logs
    subscription = one.subscribe("a", stream=visit("ann"))
    await begin(subscription)
    await tells(other, "a", 1, ann=1)
    closed: Any = one._redis if isinstance(one, RedisEventLog) else one
    await closed.aclose()
    assert await other.presence("a") == Presence(0, {})


@on_asyncio
@pytest.mark.anyio
async def test_redis_keeps_no_key_that_would_stay(redis: Redis, plugin: RedisPlugin) -> None:
    """A key per topic, which goes when the last one leaves, and by itself."""
    log = RedisEventLog(plugin, presence=name_of)
    key = "{sse}:log.present:a"
    async with log.subscribe("a", stream=visit("ann")), log.subscribe("a", stream=visit("bob")):
        await eventually(lambda: redis.zcard(key))
        assert 0 < await redis.pttl(key) <= 30_000
        assert [entry async for entry in redis.scan_iter("*.present:*")] == [key.encode()]

    async def is_gone() -> bool:
        return not await redis.exists(key)

    await eventually(is_gone)


@on_asyncio
@pytest.mark.anyio
async def test_what_redis_has_to_forget_is_left_out(redis: Redis, plugin: RedisPlugin) -> None:
    """And removed when somebody comes."""
    log = RedisEventLog(plugin, presence=name_of)
    key = "{sse}:log.present:a"
    await redis.zadd(key, {"gone.1 eve": 1})
    assert await log.presence("a") == Presence(0, {})
    async with log.subscribe("a", stream=visit("ann")):
        await eventually(lambda: _holds_one(redis, key))
        assert await log.presence("a") == Presence(1, {"ann": 1})


async def _holds_one(redis: Redis, key: str) -> bool:
    members: list[Any] = await redis.zrange(key, 0, -1)
    return [member.partition(b" ")[2] for member in members] == [b"ann"]


@on_asyncio
@pytest.mark.anyio
async def test_redis_away_ends_no_stream(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is told so, the log has one line, and when Redis is back all who are there are told of, at once."""
    monkeypatch.setattr(SharedAttendance, "lasts", NEVER)
    plugins = [RedisPlugin(own_redis.url), RedisPlugin(own_redis.url)]
    one, other = (RedisEventLog(plugin, presence=name_of) for plugin in plugins)
    early = one.subscribe("a", stream=visit("ann"))
    await begin(early)
    await tells(other, "a", 1, ann=1)
    own_redis.kill()
    late = one.subscribe("a", stream=visit("bob"))
    await late.__aenter__()
    with pytest.raises(SourceUnavailableError):
        await one.presence("a")
    await eventually(lambda: any("presence is waiting" in record.getMessage() for record in caplog.records))
    left = one.subscribe("a", stream=visit("eve"))
    await left.__aenter__()
    await left.aclose()
    own_redis.start_again()
    await tells(other, "a", 2, ann=1, bob=1)
    lines = [record for record in caplog.records if "presence is waiting" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.WARNING]
    await one.append("a", "1")
    assert (await early.__anext__()).data == "1"
    for subscription in (early, late):
        await subscription.aclose()
    for plugin in plugins:
        await plugin.aclose()


@on_asyncio
@pytest.mark.anyio
async def test_a_key_of_another_type_ends_no_stream(redis: Redis, plugin: RedisPlugin) -> None:
    """It is an error to who asks; the events go on."""
    await redis.set("{sse}:log.present:a", "text")
    log = RedisEventLog(plugin, presence=name_of)
    async with log.subscribe("a", stream=visit("ann")) as subscription:
        await begin(subscription)
        with pytest.raises(SourceRefusedError):
            await log.presence("a")
        await log.append("a", "1")
        assert (await subscription.__anext__()).data == "1"


@on_asyncio
@pytest.mark.anyio
@pytest.mark.usefixtures("brief")
async def test_a_key_of_another_type_is_its_own_topic_s_affair(
    redis: Redis, redis_url: str, plugin: RedisPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are told of with it are told of again and again, and are gone when they leave; the key stays."""
    await redis.set("{sse}:log.present:bad", "text")
    elsewhere = RedisPlugin(redis_url)
    log, other = RedisEventLog(plugin, presence=name_of), RedisEventLog(elsewhere, presence=name_of)
    topics = ["first", "bad", *map(str, range(600)), "last"]
    subscriptions = [log.subscribe(topic, stream=visit("ann")) for topic in topics]
    for subscription in subscriptions:
        await subscription.__aenter__()
    for topic in ("first", "last"):
        await tells(other, topic, 1, ann=1)
    loop = asyncio.get_running_loop()
    until = loop.time() + 2.5
    while loop.time() < until:
        for topic in ("first", "599", "last"):
            await tells(other, topic, 1, ann=1)
        async with log.subscribe("brief", stream=visit("bob")):
            await tells(other, "brief", 1, bob=1)
    for subscription in subscriptions:
        await subscription.aclose()
    for topic in ("first", "599", "last"):
        await tells(other, topic, 0)
    assert await redis.get("{sse}:log.present:bad") == b"text"
    assert await redis.pttl("{sse}:log.present:bad") == -1
    lines = [record.getMessage() for record in caplog.records if "presence" in record.getMessage()]
    assert lines == [line for line in lines if "'{sse}:log.present:bad' must be a sorted set" in line][:1]
    await elsewhere.aclose()


@on_asyncio
@pytest.mark.anyio
async def test_who_may_not_write_is_not_told_of(
    redis: Redis, redis_url: str, plugin: RedisPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line of it, and the events go on."""
    commands = "+xrange +xrevrange +xread +get +time +ping +ssubscribe +sunsubscribe +client|id +eval +evalsha +zrange"
    words = ["on", ">secret", "resetchannels", "%R~{sse}:*", "&{sse}:*", *commands.split()]
    await redis.execute_command("ACL", "SETUSER", "reader", *words)
    readers = RedisPlugin(redis_url, username="reader", password="secret")
    log, other = RedisEventLog(readers, presence=name_of), RedisEventLog(plugin, presence=name_of)
    async with log.subscribe("a", stream=visit("ann")) as subscription, other.subscribe("a", stream=visit("bob")):
        await begin(subscription)
        await eventually(lambda: any("presence is waiting" in record.getMessage() for record in caplog.records))
        await tells(log, "a", 2, ann=1, bob=1)
        assert await other.presence("a") == Presence(1, {"bob": 1})
        await other.append("a", "1")
        assert (await subscription.__anext__()).data == "1"
    assert len([record for record in caplog.records if "presence is waiting" in record.getMessage()]) == 1
    await readers.aclose()
    await redis.execute_command("ACL", "DELUSER", "reader")


@on_asyncio
@pytest.mark.anyio
async def test_a_log_without_it_does_nothing_for_it(redis: Redis, plugin: RedisPlugin) -> None:
    """A subscription has nothing of it, begins with the same phase as ever, and Redis hears nothing of it."""
    log = RedisEventLog(plugin)
    subscription = log.subscribe("a")
    assert "guest" not in vars(subscription)
    assert LogSubscription.guest is None
    assert isinstance(subscription._phase, Seeking)
    await begin(subscription)
    assert await redis.keys("*present*") == []
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "SSE presence"]
    await subscription.aclose()


@pytest.mark.parametrize(
    "make",
    [
        MemoryEventLog,
        lambda **settings: RedisEventLog("redis://127.0.0.1", **settings),
        lambda **settings: PostgresEventLog("postgresql://127.0.0.1", **settings),
    ],
    ids=["memory", "redis", "postgres"],
)
@pytest.mark.parametrize("presence", [True, "ann", anyio.sleep], ids=["bool", "text", "async"])
def test_what_tells_no_names_is_refused(make: Any, presence: Any) -> None:
    """When the log is made."""
    with pytest.raises(InvalidFieldError, match="presence: must be a function"):
        make(presence=presence)
