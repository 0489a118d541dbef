"""What was missed is read once, rendered once, shared by all who missed it, and bounded by its bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import MemoryEventLog, RedisEventLog, RedisPlugin
from litestar_safe_sse.sources._cursor import Position
from litestar_safe_sse.sources._pages import PAGE, PAGE_BYTES, Page, Pages
from litestar_safe_sse.sources._stored import StoredEvent
from litestar_safe_sse.sources.event_log import Reset
from tests.sources.subscriptions import begin, data, ids, take, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


async def fill(log: RedisEventLog | MemoryEventLog, many: int, size: int = 1) -> list[str]:
    return [await log.append("a", f"{number}".rjust(size)) for number in range(many)]


async def calls(redis: Redis, command: str) -> int:
    statistics: dict[str, Any] = await redis.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])


MANY = 350
"""Some pages."""


async def test_who_comes_back_together_shares_what_was_missed(plugin: RedisPlugin, redis: Redis) -> None:
    """Each is sent all of it, wherever it was; Redis is asked for it once, and no event is made a message twice."""
    log = RedisEventLog(plugin)
    appended = await fill(log, MANY)
    subscriptions = [log.subscribe("a", after=appended[number % 3]) for number in range(60)]
    await redis.config_resetstat()
    replies = await asyncio.gather(*(take(one, MANY - 1 - n % 3) for n, one in enumerate(subscriptions)))
    for number, messages in enumerate(replies):
        assert ids(messages) == appended[1 + number % 3 :]
    late = PAGE + 5  # where all read the same pages
    assert len({id(messages[late - number % 3]) for number, messages in enumerate(replies)}) == 1
    asked = await calls(redis, "xrange") - 2 * len(subscriptions)  # each has looked at where it is
    assert asked <= 3 * (MANY // PAGE + 1) + 2, asked  # and the reader, at where all are
    for subscription in subscriptions:
        await subscription.aclose()
    assert log._fan_out()._pages.size == 0


async def test_subscribers_to_other_topics_besides_share_it_too(plugin: RedisPlugin) -> None:
    """With IDs of their own, which resume all their topics."""
    log = RedisEventLog(plugin)
    appended = await fill(log, MANY)
    other = await log.append("b", "b0")
    alone = await take(log.subscribe("a", after=appended[0]), MANY - 1)
    both = log.subscribe("a", "b", after=appended[0])
    together = await take(both, MANY - 1)
    assert data(alone) == data(together)
    await log.append("b", "b1")
    assert data(await take(log.subscribe("a", "b", after=str(together[-1].id)), 1)) == ["b1"]
    assert data(await take(log.subscribe("a", "b", after=str(together[-10].id)), 9)) == data(alone)[-9:]
    assert data(await take(log.subscribe("b", after=other), 1)) == ["b1"]


async def test_one_who_leaves_takes_nothing_from_the_others(plugin: RedisPlugin) -> None:
    """The first one fetches for all; cancelled, another goes on with it."""
    log = RedisEventLog(plugin)
    appended = await fill(log, MANY)
    subscriptions = [log.subscribe("a", after=appended[0]) for _ in range(10)]
    tasks = [asyncio.ensure_future(take(subscription, MANY - 1)) for subscription in subscriptions]
    reader: Any = log._fan_out()
    await until(lambda: reader._pages._fetching)
    for task in tasks[:5]:
        task.cancel()
    for messages in await asyncio.gather(*tasks[5:]):
        assert ids(messages) == appended[1:]


@pytest.mark.parametrize("size", [100, 5_000, 100_000])
async def test_pages_are_bounded_by_bytes(plugin: RedisPlugin, size: int) -> None:
    """No page has more than fits, or one event; what is kept of all is bounded as well."""
    log = RedisEventLog(plugin)
    many = 120
    appended = await fill(log, many, size)
    reader: Any = log._fan_out()
    async with log.subscribe("a", after=appended[0]) as subscription:
        for number in range(1, many):
            assert data(await take(subscription, 1)) == [f"{number}".rjust(size)]
            if number == 1:
                pages = [*reader._pages._kept.values()]
                assert all(len(page.events) == max(1, min(99, PAGE_BYTES // (size + 46))) for page in pages)
        assert reader._pages.size <= 8 * 1024 * 1024


async def test_a_page_that_takes_too_long_is_asked_for_in_parts(plugin: RedisPlugin) -> None:
    """A Redis, or a network, that is too slow for a page is asked for less of it, until it is in time."""
    log = RedisEventLog(plugin)
    appended = await fill(log, 60)
    execute, asked = plugin.execute, []

    async def slow(*command: Any) -> Any:
        if command[0] == "XRANGE":
            asked.append(command[-1])
            if command[-1] > 15:
                raise SourceUnavailableError("Redis does not answer")
        return await execute(*command)

    plugin.execute = slow  # type: ignore[method-assign]
    assert ids(await take(log.subscribe("a", after=appended[0]), 59)) == appended[1:]
    assert asked[:4] == [100, 50, 25, 12]


async def test_appends_go_on_while_many_replay(plugin: RedisPlugin) -> None:
    """What was missed does not fill the connection on which they are sent."""
    log = RedisEventLog(plugin)
    appended = await fill(log, 100, 65536)
    subscriptions = [log.subscribe("a", after=appended[number % 40]) for number in range(40)]
    tasks = [asyncio.ensure_future(take(one, 99 - number)) for number, one in enumerate(subscriptions)]
    while not all(task.done() for task in tasks):
        await log.append("other", "x")
    assert [len(task.result()) for task in tasks] == [99 - number for number in range(40)]


@pytest.mark.parametrize("more", [2, 5, 10])
async def test_what_is_kept_of_a_lost_history_is_sent_to_nobody(plugin: RedisPlugin, redis: Redis, more: int) -> None:
    """Redis has lost its last events while some had been fetched: who comes then gets what is stored now."""
    log = RedisEventLog(plugin)
    appended = await fill(log, 20)
    async with log.subscribe("a", after=appended[0]) as first, log.subscribe("a", after=appended[0]) as stays:
        await take(first, 19)
        await take(stays, 19)
        entries: Any = await redis.xrange("{sse}:log:a")
        await redis.delete("{sse}:log:a")
        for entry_id, fields in entries[:-5]:
            await redis.xadd("{sse}:log:a", fields, id=entry_id)
        for number in range(more):
            await log.append("a", f"new{number}")
        await redis.client_kill_filter(_type="normal", skipme=True)
        assert (await take(stays, 1))[0].data == Reset({"a": "unknown"}, "oldest")
        async with log.subscribe("a", after=appended[0]) as late:
            expected = [*map(str, range(1, 15)), *(f"new{number}" for number in range(more))]
            assert data(await take(late, 14 + more)) == expected


async def test_who_comes_finds_out_that_the_last_events_are_lost(plugin: RedisPlugin, redis: Redis) -> None:
    """Nobody else has noticed; he is sent what is stored, and those who have had more are told."""
    log = RedisEventLog(plugin)
    appended = await fill(log, 20)
    async with log.subscribe("a", after=appended[0]) as stays:
        await take(stays, 19)
        entries: Any = await redis.xrange("{sse}:log:a")
        await redis.delete("{sse}:log:a")
        for entry_id, fields in entries[:10]:
            await redis.xadd("{sse}:log:a", fields, id=entry_id)
        async with log.subscribe("a", after=appended[0], mark=True) as late:
            messages = await take(late, 10)
            assert data(messages[:-1]) == [*map(str, range(1, 10))]
            assert messages[-1].event == "caught-up"
        assert (await take(stays, 1))[0].data == Reset({"a": "unknown"}, "oldest")


async def test_a_page_ends_where_its_events_do_not_follow() -> None:
    """And one that begins elsewhere is another page."""
    start = Position(1, 0, 0)
    asked = []

    async def fetch(topic: str, after: Position, upto: Position) -> list[StoredEvent]:
        asked.append(after)
        return [StoredEvent(Position(1, number, number), number - 1, SSEMessage("x")) for number in (1, 2, 4)]

    assert [event.position.seq for event in Page(start, await fetch("a", start, start)).events] == [1, 2]
    pages = Pages(fetch)
    for _ in range(3):
        await pages.get("a", start, Position(1, 4, 4))
    assert not (await pages.get("a", Position(1, 1, 7), Position(1, 4, 4))).events
    assert len(asked) == 3
    pages.forget("a")
    assert pages.size == 0
    await pages.get("a", start, Position(1, 4, 4))
    assert len(asked) == 4


async def test_a_log_in_memory_shares_what_was_missed_as_well() -> None:
    """And lets it go with the last subscriber."""
    log = MemoryEventLog()
    appended = await fill(log, MANY)
    one, two = log.subscribe("a", after=appended[0]), log.subscribe("a", after=appended[0])
    messages = await take(one, MANY - 1), await take(two, MANY - 1)
    assert ids(messages[0]) == ids(messages[1]) == appended[1:]
    assert all(first is second for first, second in zip(*messages, strict=True))
    await one.aclose()
    await two.aclose()
    assert log._memory._pages.size == 0
    late = log.subscribe("a")
    await begin(late)
    await late.aclose()


async def test_who_asks_the_same_is_answered_at_once(plugin: RedisPlugin, redis: Redis) -> None:
    """A thousand who come together ask Redis once where they begin; who leaves takes the answer from nobody."""
    log = RedisEventLog(plugin)
    appended = await fill(log, 3)
    await redis.config_resetstat()
    subscriptions = [log.subscribe("a", after=appended[0]) for _ in range(1000)]
    tasks = [asyncio.ensure_future(take(subscription, 2)) for subscription in subscriptions]
    await asyncio.sleep(0)
    for task in tasks[:10]:
        task.cancel()
    for messages in await asyncio.gather(*tasks[10:]):
        assert ids(messages) == appended[1:]
    assert await calls(redis, "time") <= 5
    for subscription in subscriptions:
        await subscription.aclose()


async def test_what_was_appended_before_is_not_new_to_who_comes_now(plugin: RedisPlugin) -> None:
    """However many have just asked where they begin."""
    log = RedisEventLog(plugin)
    for number in range(50):
        early = [asyncio.ensure_future(anext(log.subscribe("a"))) for _ in range(20)]
        await log.append("a", f"{number}")
        async with log.subscribe("a") as late:
            await begin(late)
            await log.append("a", "new")
            assert data(await take(late, 1)) == ["new"]
        await asyncio.gather(*early)
