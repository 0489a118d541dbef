"""A topic that is finished ends who reads it, and is still known to be when its events have gone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, TopicFinishedError
from litestar_safe_sse.sources import memory
from litestar_safe_sse.sources.event_log import EventLog, History, Reset
from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.testing import MakeLog
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.logs import anyio_backend, case, log, make_log, redis_of_case
from tests.sources.subscriptions import begin, data, ids, take, take_all, until

__all__ = ("anyio_backend", "case", "log", "make_log", "redis_of_case")

pytestmark = pytest.mark.anyio


def finished(topic: str, id: str) -> SSEMessage:
    return SSEMessage(f'{{"topic":"{topic}"}}', "finished", id)


async def test_who_reads_live_is_sent_the_end_and_ends(log: EventLog) -> None:
    """Behind all that came before it; to finish twice is to finish once."""
    subscription = log.subscribe("a")
    await begin(subscription)
    await log.append("a", "1")
    end = await log.finish("a")
    assert await log.finish("a") == end
    first, last = await take_all(subscription)
    assert (first.data, last) == ("1", finished("a", end))
    assert log.statistics().subscribers == 0


async def test_who_comes_later_is_sent_what_is_stored_and_ends(log: EventLog) -> None:
    """From the beginning, from any of its events, or with nothing but the end."""
    appended = [await log.append("a", f"{number}") for number in range(150)]
    end = await log.finish("a")
    for after, missed in ((None, 150), (appended[0], 149), (appended[-1], 0), (end, 0)):
        messages = await take_all(log.subscribe("a", after=after, start="oldest"))
        assert data(messages[:-1]) == [f"{number}" for number in range(150 - missed, 150)]
        assert messages[-1] == finished("a", end)
    assert await take_all(log.subscribe("a")) == [finished("a", end)]
    assert log.statistics().subscribers == 0


async def test_who_has_had_everything_is_known(log: EventLog) -> None:
    """Nothing more comes after the end, and after nothing else."""
    empty = await log.position("a")
    appended = await log.append("a", "1")
    for after in (None, empty, appended):
        assert not await log.is_finished("a", after=after)
    end = await log.finish("a")
    for after in (None, "", "made up", empty, appended):
        assert not await log.is_finished("a", after=after)
    assert await log.is_finished("a", after=end)
    assert not await log.is_finished("a", "b", after=end)
    await log.finish("b")
    both = await log.position("a", "b")
    assert await log.is_finished("a", "b", after=both)


async def test_a_topic_may_be_finished_that_nothing_was_appended_to(log: EventLog) -> None:
    """Its end is its only event."""
    subscription = log.subscribe("a")
    await begin(subscription)
    end = await log.finish("a")
    assert await take_all(subscription) == [finished("a", end)]
    assert await log.is_finished("a", after=end)


async def test_several_topics_end_when_all_have(log: EventLog) -> None:
    """What is finished meanwhile says so, and the others go on."""
    for overflow in ("close", "drop_oldest", "latest"):
        a, b = f"a {overflow}", f"b {overflow}"
        subscription = log.subscribe(a, b, overflow=overflow)
        await begin(subscription)
        await log.finish(a)
        assert data(await take(subscription, 1)) == [f'{{"topic":"{a}"}}']
        await log.append(b, "1")
        await log.finish(b)
        *rest, last = await take_all(subscription)
        assert (data(rest), last.event) == (["1"], "finished")
        again = await take_all(log.subscribe(a, b, after=ids([last])[0]))
        assert [message.event for message in again] == ["finished"] * 2
        late = await take_all(log.subscribe(a, b, start="oldest"))
        assert sorted(data(late)) == sorted(["1", f'{{"topic":"{a}"}}', f'{{"topic":"{b}"}}'])


async def test_the_end_is_not_the_application_s_to_judge(log: EventLog) -> None:
    """It is not given to the function that tells what replaces what."""
    asked = []
    subscription = log.subscribe("a", "b", overflow="latest", key=lambda topic, message: asked.append(topic))
    await begin(subscription)
    await log.append("a", "1")
    await log.finish("a")
    await log.finish("b")
    messages = await take_all(subscription)
    assert sorted(str(message.event) for message in messages) == ["None", "finished", "finished"]
    assert asked == ["a"]


async def test_a_full_buffer_does_not_swallow_the_end(log: EventLog) -> None:
    """Who is slow is ended first, and finds the end on coming back."""
    subscription = log.subscribe("a", buffer=2)
    await begin(subscription)
    await log.append_many("a", ["1", "2", "3", "4"])
    end = await log.finish("a")
    seen = await take_all(subscription)
    seen += await take_all(log.subscribe("a", after=ids(seen)[-1]))
    assert data(seen[:-1]) == ["1", "2", "3", "4"]
    assert seen[-1] == finished("a", end)


async def test_nothing_is_appended_behind_the_end(log: EventLog) -> None:
    """It is refused, whole, except for what had been appended before with the same key."""
    first = await log.append("a", "1", idempotency_key="k")
    await log.finish("a")
    with pytest.raises(TopicFinishedError):
        await log.append("a", "2")
    with pytest.raises(SourceRefusedError):
        await log.append_many("a", ["2", "3"])
    assert await log.append("a", "1", idempotency_key="k") == first
    assert data(await take_all(log.subscribe("a", start="oldest")))[:-1] == ["1"]
    with pytest.raises(InvalidFieldError):
        await log.append("b", SSEMessage("x", "finished"))
    with pytest.raises(InvalidFieldError):
        await log.finish("")


# Deleted


async def test_a_topic_that_is_deleted_begins_anew(log: EventLog) -> None:
    """Who is subscribed is told at once, and who comes back; what is appended then is all there is."""
    first = await log.append("a", "1")
    subscription = log.subscribe("a", start="oldest")
    assert data(await take(subscription, 1)) == ["1"]
    await until(lambda: not isinstance(log, RedisEventLog) or log._fan_out().listens)
    await log.delete("a")
    (reset,) = await take(subscription, 1)
    assert (reset.event, reset.data) == ("reset", Reset({"a": "unknown"}, "oldest"))
    assert await log.read("a") == []
    await log.append("a", "2")
    assert data(await take(subscription, 1)) == ["2"]
    await subscription.aclose()
    late = log.subscribe("a", after=first, on_reset="oldest")
    reset, second = await take(late, 2)
    assert (reset.event, second.data) == ("reset", "2")
    await late.aclose()


async def test_a_finished_topic_that_is_deleted_may_be_used_again(log: EventLog) -> None:
    """It is as if it had never been; to delete what is not there does nothing."""
    end = await log.finish("a")
    await log.delete("a")
    await log.delete("a")
    assert not await log.is_finished("a", after=end)
    await log.append("a", "1")
    assert data(await take(log.subscribe("a", start="oldest"), 1)) == ["1"]
    with pytest.raises(InvalidFieldError):
        await log.delete("")


# Gone


@pytest.fixture
async def forget(case: Any, log: EventLog, redis_of_case: RedisServer | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the events of a topic go, as they do when nobody has asked for them for long."""

    async def in_redis(topic: str) -> None:
        assert redis_of_case is not None
        async with Redis.from_url(redis_of_case.url) as client:
            assert await client.delete(f"{{sse}}:log:{topic}")

    async def in_memory(topic: str) -> None:
        monkeypatch.setattr(memory, "monotonic", lambda: monotonic() + 4000)
        await log.append("another", "x")  # makes room for it
        assert isinstance(log, MemoryEventLog)
        assert topic not in log._memory._stored

    async def in_postgres(topic: str) -> None:
        assert isinstance(log, PostgresEventLog)
        reads = log._fan_out()._reads
        await reads.submit("UPDATE sse_log_topics SET expires_at = clock_timestamp() WHERE topic = $1", topic)
        for query in log._queries.clean_up:
            await reads.submit(query)
        assert await reads.submit("SELECT FROM sse_log_events") == []

    return {"memory": in_memory, "postgres": in_postgres}.get(case[1], in_redis)


async def test_an_end_is_known_when_the_events_have_gone(log: EventLog, forget: Any) -> None:
    """Nobody who comes back waits for events that nobody will append: neither a new client nor one that saw some."""
    appended = await log.append("a", "1")
    end = await log.finish("a")
    await forget("a")
    assert await take_all(log.subscribe("a", after=end)) == [finished("a", end)]
    assert await take_all(log.subscribe("a", start="oldest")) == [finished("a", end)]
    reset, last = await take_all(log.subscribe("a", after=appended))
    assert (reset.event, last) == ("reset", finished("a", end))
    for after in (None, appended, end):
        assert await log.is_finished("a", after=after)
    assert await log.finish("a") == end
    with pytest.raises(TopicFinishedError):
        await log.append("a", "2")
    assert await log.read("a") == []
    with anyio.fail_after(WAIT):
        async with log.subscribe("a", "b") as subscription:
            await begin(subscription)
            await log.append("b", "1")
            assert data(await take(subscription, 1)) == ["1"]
    await log.delete("a")
    await log.append("a", "2")
    assert not await log.is_finished("a", after=end)


# How long


async def test_what_is_kept_may_be_up_to_the_topic(make_log: MakeLog) -> None:
    """Of some topics less is kept than of others."""
    log = make_log(max_events=1000, history=lambda topic: History(max_events=5) if topic == "short" else None)
    for topic in ("short", "long"):
        await log.append_many(topic, range(500))
    assert len(await log.read("long", limit=1000)) == 500
    assert 5 <= len(await log.read("short", limit=1000)) <= 105


@pytest.mark.parametrize("settings", [{"max_events": 0}, {"expire_after": 0.5}, {"expire_after": "1"}])
async def test_a_history_that_won_t_do_is_refused(settings: Any) -> None:
    with pytest.raises(InvalidFieldError):
        History(**settings)


class UnknownTopicError(Exception):
    """What the application's function raises; it takes two arguments, so no copy is made of it."""

    def __init__(self, kind: str, topic: str) -> None:
        super().__init__(f"{kind} {topic}")


@pytest.mark.parametrize("says", ["raises", "nonsense"])
async def test_a_history_that_fails_fails_the_call_that_asked(
    make_log: MakeLog, caplog: pytest.LogCaptureFixture, says: str
) -> None:
    """By its own error, or by one that says what it must return; nothing is stored or held, and other topics go on."""
    error: Exception = UnknownTopicError("no", "topic")
    fails = True

    def history(topic: str) -> Any:
        if topic != "bad" or not fails:
            return None
        if says == "nonsense":
            return {"max_events": 1}
        raise error

    log: Any = make_log(history=history)
    calls: list[Callable[[], Any]] = [
        lambda: log.append("bad", "x"),
        lambda: log.append_many("bad", ["x", "y"]),
        lambda: log.finish("bad"),
    ]
    if not isinstance(log, MemoryEventLog):  # which asks when it makes a topic, and then only
        calls += [lambda: log.read("bad"), lambda: log.position("bad"), lambda: log.is_finished("bad")]
        calls += [lambda: anext(log.subscribe("bad")), lambda: anext(log.subscribe("good", "bad"))]

    async def fails_by_it(call: Callable[[], Any]) -> None:
        with pytest.raises(UnknownTopicError if says == "raises" else InvalidFieldError) as caught:
            await call()
        assert caught.value is error or "history: must return a History" in str(caught.value)

    for call in calls:
        await fails_by_it(call)
    assert (log.statistics().subscribers, log.statistics().topics) == (0, 0)
    fails = False
    async with log.subscribe("bad", "good") as subscription:
        await begin(subscription)
        await log.append("bad", "1")
        await log.append("good", "2")
        assert sorted(data(await take(subscription, 2))) == ["1", "2"]
        fails = True  # of a topic that is in use it need not be asked
        await log.append("bad", "3")
        assert data(await take(subscription, 1)) == ["3"]
    gc.collect()
    assert not caplog.records


async def test_the_life_of_an_event_in_memory_is_its_topic_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old is not stored."""
    log = MemoryEventLog(history=lambda topic: History(expire_after=100) if topic == "short" else None)
    for topic in ("short", "long"):
        await log.append(topic, "1")
    monkeypatch.setattr(memory, "monotonic", lambda: monotonic() + 200)
    assert await log.read("short") == []
    assert data(await log.read("long")) == ["1"]
