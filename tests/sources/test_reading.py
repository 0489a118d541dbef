"""What is stored can be read without a subscription, and a subscription can begin in the middle of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import sequence_of
from litestar_safe_sse.sources.event_log import CaughtUp, EventLog, Last, Reset, Since
from litestar_safe_sse.sources.testing import MakeLog, expected, fill
from tests.bounds import WAIT
from tests.sources.logs import anyio_backend, case, log, make_log, redis_of_case
from tests.sources.subscriptions import begin, data, ids, take, take_all

__all__ = ("anyio_backend", "case", "log", "make_log", "redis_of_case")

pytestmark = pytest.mark.anyio


# Read


async def test_what_is_stored_is_read_in_parts(log: EventLog) -> None:
    """Each event with the ID that the next part, or a subscription, begins after."""
    appended = await fill(log, "a", 250)
    assert await log.read("b") == []
    read: list[SSEMessage] = []
    after = None
    while messages := await log.read("a", after=after, limit=90):
        assert len(messages) <= 90
        read += messages
        after = ids(messages)[-1]
    assert data(read) == expected("a", 0, 250)
    assert ids(read) == appended
    assert data(await log.read("a")) == expected("a", 0, 100)
    assert log.statistics().subscribers == log.statistics().topics == 0


async def test_what_is_read_is_bounded_by_bytes(log: EventLog) -> None:
    """A large event comes by itself, or with few."""
    for number in range(8):
        await log.append("a", f"{number}" * 400_000)
    first = await log.read("a")
    assert 1 <= len(first) < 8
    rest = await log.read("a", after=ids(first)[-1])
    assert data(first + rest)[len(first)][0] == f"{len(first)}"


async def test_what_can_t_be_resumed_is_read_from_the_oldest(make_log: MakeLog) -> None:
    """And it is said before, also if there is nothing else to say."""
    log = make_log(max_events=10)
    appended = await fill(log, "a", 250)
    reset, *events = await log.read("a", after=appended[0], limit=50)
    assert (reset.event, reset.data) == ("reset", Reset({"a": "trimmed"}, "oldest"))
    assert events[0].data != "a0"
    assert data(events) == expected("a", int(str(events[0].data)[1:]), 250)[: len(events)]
    for topic, bad in (("b", "made up"), ("a", appended[5])):
        (reset,) = await log.read(topic, after=bad, limit=1)
        assert reset.event == "reset"
    assert data(await log.read("a", after=ids([reset])[0], limit=500))[-1] == "a249"
    other = await log.position("b")
    assert (await log.read("a", after=other))[0].event is None  # says nothing of this topic


@pytest.mark.parametrize("arguments", [{"topic": ""}, {"topic": "a", "limit": 0}, {"topic": "a", "limit": "1"}])
async def test_a_read_that_won_t_do_is_refused(log: EventLog, arguments: Any) -> None:
    with pytest.raises(InvalidFieldError):
        await log.read(**arguments)


@pytest.mark.parametrize("after", [5, b"x", b"", 0, object()], ids=lambda after: type(after).__name__)
async def test_what_is_no_text_is_no_id(log: EventLog, after: Any) -> None:
    """A client can only send text: anything else is the application's mistake, and told by name."""
    for call in (log.read, log.is_finished):
        with pytest.raises(InvalidFieldError, match="after: must be a str, or None"):
            await call("a", after=after)
    with pytest.raises(InvalidFieldError, match="after: must be a str, or None"):
        log.subscribe("a", after=after)
    with pytest.raises(InvalidFieldError, match="id: must be a str"):
        sequence_of(after, "a")


@pytest.mark.parametrize("after", ["made up", "\ud800", "é", "16"], ids=ascii)
async def test_any_text_may_be_sent_as_an_id(log: EventLog, after: str) -> None:
    """One that is none is told by a reset."""
    assert [message.event for message in await log.read("a", after=after)] == ["reset"]
    async with log.subscribe("a", after=after) as subscription:
        assert [message.event for message in await take(subscription, 1)] == ["reset"]
    assert not await log.is_finished("a", after=after)


@pytest.mark.parametrize("key", ["symbol", 5, anyio.sleep], ids=["text", "number", "async"])
async def test_what_is_no_function_is_no_key(log: EventLog, key: Any) -> None:
    """It is told at the call, and not by the first event."""
    with pytest.raises(InvalidFieldError, match="key: must be a function"):
        log.subscribe("a", overflow="latest", key=key)
    with pytest.raises(InvalidFieldError, match="on_reset: must be"):
        log.subscribe("a", on_reset=key)


async def several_later() -> AsyncIterator[str]:
    yield "x"


@pytest.mark.parametrize("messages", [None, 5, several_later()], ids=lambda messages: type(messages).__name__)
async def test_what_is_not_several_is_not_appended(log: EventLog, messages: Any) -> None:
    """The field is named, and nothing is stored."""
    with pytest.raises(InvalidFieldError, match="messages: must be several, in a list or so"):
        await log.append_many("a", messages)
    assert await log.read("a") == []


async def test_a_position_is_where_everything_stored_has_been_seen(log: EventLog) -> None:
    """Of topics that have events and of one that has none."""
    await fill(log, "a", 3)
    place = await log.position("b", "a")
    await log.append("a", "x")
    await log.append("b", "y")
    async with log.subscribe("a", "b", after=place) as subscription:
        assert sorted(data(await take(subscription, 2))) == ["x", "y"]
    assert await log.position("a", "b") != place
    for topics in ((), ("",), tuple(f"{n}" for n in range(33))):
        with pytest.raises(InvalidFieldError):
            await log.position(*topics)


async def test_events_are_numbered(log: EventLog) -> None:
    """From 1 on; 0 is before the first one."""
    assert sequence_of(await log.position("a", "b"), "a") == 0
    appended = await fill(log, "a", 3)
    assert [sequence_of(id, "a") for id in appended] == [1, 2, 3]
    assert sequence_of(await log.position("a", "b"), "b") == 0
    for bad in ("", "made up", appended[0]):
        with pytest.raises(InvalidFieldError, match="id"):
            sequence_of(bad, "b")


async def test_a_snapshot_and_its_stream_fit(log: EventLog) -> None:
    """Whoever reads what there is, and streams from there, has each event once, whatever is appended meanwhile."""
    many, pages = 60, 12
    random.seed(5)

    async def produce(producer: int) -> None:
        for number in range(many):
            await log.append("a", f"{producer} {number}")
            for _ in range(random.randrange(3)):
                await anyio.lowlevel.checkpoint()

    seen: list[list[Any]] = []

    async def look() -> None:
        for _ in range(random.randrange(200)):
            await anyio.lowlevel.checkpoint()
        snapshot: list[SSEMessage] = []
        after = None
        start = await log.position("a")  # before it is known that there is nothing
        while messages := await log.read("a", after=after, limit=20):
            snapshot += messages
            after = ids(messages)[-1]
            if len(snapshot) > 2 * many:
                break
        after = after or start
        async with log.subscribe("a", after=after) as subscription:
            rest = await take(subscription, 3 * many - len(snapshot)) if len(snapshot) < 3 * many else []
        seen.append(data(snapshot + rest))

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            for producer in range(3):
                tasks.start_soon(produce, producer)
            for _ in range(pages):
                tasks.start_soon(look)
    whole = data(await log.read("a", limit=1000))
    assert len(whole) == len(set(whole)) == 3 * many
    assert seen == [whole] * pages


# Where to start


async def test_it_can_start_with_the_last_events(log: EventLog) -> None:
    """With all, if there are fewer; the end of a topic is none of them."""
    await fill(log, "a", 150)
    await fill(log, "b", 2)
    async with log.subscribe("a", start=Last(3)) as subscription:
        assert data(await take(subscription, 3)) == expected("a", 147, 150)
        await log.append("a", "live")
        assert data(await take(subscription, 1)) == ["live"]
    async with log.subscribe("a", "b", start=Last(120)) as subscription:
        messages = data(await take(subscription, 122))
        assert [text for text in messages if text[0] == "b"] == expected("b", 0, 2)
        assert [text for text in messages if text[0] != "b"] == [*expected("a", 31, 150), "live"]
    await log.finish("b")
    assert data(await take_all(log.subscribe("b", start=Last(1))))[:-1] == ["b1"]
    async with log.subscribe("nothing", start=Last(1)) as subscription:
        await begin(subscription)


async def test_it_can_start_at_a_time(make_log: MakeLog) -> None:
    """With the first event of that time or later, however many there are; with the oldest, if it is longer ago."""
    log = make_log(max_events=1000)
    at: list[datetime] = []
    for number in range(40):
        await log.append_many("a", [f"a{number}.{part}" for part in range(5)])
        await anyio.sleep(0.002)
        at.append(datetime.now(timezone.utc))
        await anyio.sleep(0.002)
    for number in (0, 1, 19, 38):
        async with log.subscribe("a", start=Since(at[number])) as subscription:
            assert data(await take(subscription, 5)) == [f"a{number + 1}.{part}" for part in range(5)]
    for long_ago in (
        timedelta(days=1),
        timedelta(days=800_000),  # before the year 1
        timedelta.max,
        datetime(2020, 1, 1, tzinfo=timezone.utc),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ):
        async with log.subscribe("a", start=Since(long_ago)) as subscription:
            assert data(await take(subscription, 1)) == ["a0.0"]
    for none_yet in (at[-1], timedelta.min, datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))):
        async with log.subscribe("a", "b", start=Since(none_yet)) as subscription:
            await begin(subscription)
            await log.append("a", "live")
            assert data(await take(subscription, 1)) == ["live"]


class Nowhere(tzinfo):
    """A time zone that knows no offset: a time in it is as naive as one without."""

    def utcoffset(self, when: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, when: datetime | None) -> str:
        return "Nowhere"


async def test_a_start_holds_for_those_that_can_t_resume(log: EventLog) -> None:
    """Who sends an ID that is none of ours is sent what he would be sent without, and told how it goes on."""
    await fill(log, "a", 9)
    async with log.subscribe("a", after="made up", start=Last(2)) as subscription:
        reset, *events = await take(subscription, 3)
    assert (reset.data, data(events)) == (Reset({"a": "unknown"}, "last"), expected("a", 7, 9))
    async with log.subscribe("a", after="made up", on_reset=Since(timedelta(hours=1))) as subscription:
        reset, *events = await take(subscription, 10)
    assert (reset.data, data(events)) == (Reset({"a": "unknown"}, "since"), expected("a", 0, 9))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Last, 0),
        (Last, "1"),
        (Since, 5),
        (Since, datetime(2020, 1, 1)),
        (Since, None),
        (Since, datetime(2020, 1, 1, tzinfo=Nowhere())),
    ],
)
async def test_a_start_that_won_t_do_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(InvalidFieldError):
        kind(value)


# The mark


@pytest.mark.parametrize("many", [0, 3, 250])
async def test_a_mark_stands_between_what_was_missed_and_what_comes(log: EventLog, many: int) -> None:
    """Once, and with an ID to resume from."""
    await fill(log, "a", many)
    async with log.subscribe("a", start="oldest", mark=True) as subscription:
        seen = [message async for message in _up_to_the_mark(subscription)]
        assert data(seen[:-1]) == expected("a", 0, many)
        mark = seen[-1]
        assert (mark.event, mark.data) == ("caught-up", CaughtUp(["a"]))
        await log.append("a", "live")
        assert data(await take(subscription, 1)) == ["live"]
    async with log.subscribe("a", after=ids([mark])[0]) as subscription:
        assert data(await take(subscription, 1)) == ["live"]
    async with log.subscribe("a", mark=True) as subscription:
        await begin(subscription)
        assert (await take(subscription, 1))[0].event == "caught-up"


async def _up_to_the_mark(subscription: AsyncIterator[SSEMessage]) -> AsyncIterator[SSEMessage]:
    while True:
        (message,) = await take(subscription, 1)
        yield message
        if message.event == "caught-up":
            return


async def test_what_is_appended_before_the_mark_comes_once(log: EventLog) -> None:
    """On either side of it."""
    await fill(log, "a", 150)
    async with log.subscribe("a", start="oldest", mark=True) as subscription:
        first = await take(subscription, 1)
        await fill(log, "a", 50, 150)
        rest = await take(subscription, 200)
    messages = [message for message in first + rest if message.event != "caught-up"]
    assert len(messages) == 200
    assert data(messages) == expected("a", 0, 200)


async def test_a_mark_has_to_be_asked_for_properly(log: EventLog) -> None:
    with pytest.raises(InvalidFieldError, match="mark"):
        log.subscribe("a", mark=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError):
        await log.append("a", SSEMessage("x", "caught-up"))


# Several at once


async def test_several_are_appended_together(log: EventLog) -> None:
    """In their order, with nothing in between; each has its ID."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)

        async def append(name: str) -> None:
            await log.append_many("a", [f"{name}{number}" for number in range(120)])

        seen: list[SSEMessage] = []
        async with anyio.create_task_group() as tasks:
            for name in "xyz":
                tasks.start_soon(append, name)
            seen += await take(subscription, 360)
    for first in (0, 120, 240):
        name = str(seen[first].data)[0]
        assert data(seen[first : first + 120]) == expected(name, 0, 120)
    appended = await log.append_many("b", ["1", {"data": "2", "event": "e"}, SSEMessage(comment="3")])
    assert [sequence_of(id, "b") for id in appended] == [1, 2, 3]
    read = await log.read("b")
    assert ids(read) == appended
    assert read[1] == SSEMessage("2", "e", appended[1])
    assert await log.append_many("b", []) == []


async def test_several_are_stored_together_or_not_at_all(log: EventLog) -> None:
    """One that can't be stored is no reason to store the others."""
    for bad in ([*"ab", None], ["x"] * 1001, "text", {"data": "x"}, SSEMessage("x")):
        with pytest.raises(InvalidFieldError):
            await log.append_many("a", bad)  # type: ignore[arg-type]
    assert await log.read("a") == []


async def test_several_with_a_key_are_stored_once(log: EventLog) -> None:
    """The key is that of all of them."""
    first = await log.append_many("a", ["1", "2"], idempotency_key="k")
    assert await log.append_many("a", ["1", "2"], idempotency_key="k") == first
    assert await log.append("a", "x", idempotency_key="k") == first[-1]
    assert data(await log.read("a")) == ["1", "2"]
