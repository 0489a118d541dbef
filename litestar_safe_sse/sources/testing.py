"""The contract of an event log, as tests: for whoever makes another engine.

A subclass says how a log is made, by a fixture, and which event loops it runs on, by ``anyio_backend``::

    class TestMyLog(EventLogContract):
        @pytest.fixture(params=["asyncio"])
        def anyio_backend(self, request):
            return request.param

        @pytest.fixture
        async def make_log(self):
            async with my_server() as server:
                yield lambda **settings: MyLog(server, **settings)

It needs pytest, and the plugin that comes with anyio.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from litestar_safe_sse._core.encoding import Encoder
from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._litestar import ServerSentEventMessage, TopicsDeniedError
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._cursor import cursor, positions, record, tag
from litestar_safe_sse.sources._presence import Presence
from litestar_safe_sse.sources.event_log import EventLog, History, Reset
from litestar_safe_sse.sources.memory import MemoryEventLog

__all__ = ("EventLogContract", "MakeLog", "PresenceContract", "begin", "data", "ids", "take", "take_all", "until")

MakeLog = Callable[..., EventLog]
"""Makes an empty log. It takes the settings ``max_events``, ``max_bytes``, ``history`` and ``enc_hook``."""

WAIT = 60.0
"""Seconds after which a wait for what must happen has failed."""

LASTS = 3.0
"""Seconds for which a topic lasts where that is to be outlived."""

MANY = 250
"""More than a page, a batch, and what Redis keeps beyond the limit."""


async def fill(log: EventLog, topic: str, many: int, first: int = 0) -> list[str]:
    return [await log.append(topic, f"{topic}{number}") for number in range(first, first + many)]


async def fill_paced(log: EventLog, topic: str, wanted: range, reader: AsyncIterator[SSEMessage]) -> None:
    """Appends large events, since Redis trims whole nodes, and none while the reader is behind by what is trimmed."""
    for number in wanted:
        await log.append(topic, f"{number}{'x' * 5000}")
        if number % 50 == 49:
            assert numbers(await take(reader, 50)) == list(range(number - 49, number + 1))


def numbers(messages: list[SSEMessage]) -> list[int]:
    return [int(text.rstrip("x")) for text in data(messages)]


def expected(topic: str, first: int, beyond: int) -> list[str]:
    return [f"{topic}{number}" for number in range(first, beyond)]


class Point(Struct):
    x: int


class Moved(Struct, tag="moved"):
    x: int


class Resetting(Struct, tag="reset"):
    """Has the type of an event of the log's own."""


BAD_IDS = [
    "bogus",
    "1",
    "1AAAA",
    "1" + "A" * 28,
    "1" + "/" * 28,
    "0-0",
    "é",
    "1" + "A" * 1000,
    "2" + "A" * 28,
    "\r\n",
    "$",
]


async def journey(log: EventLog, after: str) -> None:
    """Everything there is to wait for: appending, looking, fetching, becoming live, and waiting for events."""
    await log.append("a", "mine")
    async with log.subscribe("a", "b", after=after) as subscription:
        await take(subscription, 151)
        await log.append("a", "live")
        await take(subscription, 1)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(0.001):
                await subscription.__anext__()
        await log.append("b", "live")
        await take(subscription, 1)


async def take(source: AsyncIterator[SSEMessage], many: int) -> list[SSEMessage]:
    """The next messages, as many as asked for; the one that only gives an ID is passed over."""
    taken: list[SSEMessage] = []
    with anyio.fail_after(WAIT):
        while len(taken) < many:
            message = await source.__anext__()
            if message.event != "subscribed":
                taken.append(message)
    return taken


async def take_all(source: AsyncIterator[SSEMessage]) -> list[SSEMessage]:
    """What is left until the source ends."""
    with anyio.fail_after(WAIT):
        return [message async for message in source]


async def begin(source: AsyncIterator[SSEMessage]) -> SSEMessage:
    """Starts a subscription that has nothing to be sent yet; its first message, which gives the ID."""
    with anyio.fail_after(WAIT):
        message = await source.__anext__()
    assert message.event == "subscribed"
    assert message.id
    return message


def data(messages: Iterable[SSEMessage]) -> list[Any]:
    return [message.data for message in messages]


def ids(messages: Iterable[SSEMessage]) -> list[str]:
    return [str(message.id) for message in messages]


async def until(condition: Callable[[], object]) -> None:
    """Lets everything else run until a condition holds."""
    with anyio.fail_after(WAIT):
        while not condition():
            await anyio.lowlevel.checkpoint()


class Suspensions:
    """Runs an awaitable, and calls back at each of its suspensions, with its number."""

    def __init__(self, work: Any, suspended: Callable[[int], None]) -> None:
        self._work = work
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        count = 0
        pending = steps.send(None)
        while True:
            count += 1
            self._suspended(count)
            try:
                try:
                    got = yield pending
                except BaseException as exc:
                    pending = steps.throw(exc)
                else:
                    pending = steps.send(got)
            except StopIteration as stop:
                return stop.value


async def cancel_at(at: int, how: str, work: Any) -> int:
    """Runs an awaitable, cancelled at one of its suspensions by its task, once or "twice", or by a "scope".

    Returns:
        How many suspensions it came to.
    """
    scope = anyio.CancelScope()
    tasks: list[asyncio.Task[None]] = []
    seen = 0

    def suspended(number: int) -> None:
        nonlocal seen
        seen = number
        if number == at and how == "scope":
            scope.cancel()
        elif number == at or (how == "twice" and number == at + 1):
            asyncio.get_running_loop().call_soon(tasks[0].cancel)

    async def run() -> None:
        with scope:
            await Suspensions(work, suspended)

    if how == "scope":
        with anyio.fail_after(WAIT):
            await run()
    else:
        tasks.append(asyncio.create_task(run()))
        done, _ = await asyncio.wait(tasks, timeout=WAIT)
        assert done
        assert tasks[0].cancelled() or tasks[0].exception() is None
    return seen


class EventLogContract:
    """What holds of every event log."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_log(self) -> MakeLog:
        """Makes logs; those of one test share what they store."""
        raise NotImplementedError("override the fixture make_log")

    @pytest.fixture
    def log(self, make_log: MakeLog) -> EventLog:
        """A log."""
        return make_log()

    # Live

    async def test_events_come_in_the_order_they_were_appended(self, log: EventLog) -> None:
        """A new subscription begins with an ID to resume from, then yields what is appended from now on."""
        await fill(log, "a", 3)
        async with log.subscribe("a") as subscription:
            await begin(subscription)
            await fill(log, "a", MANY - 3, 3)
            assert data(await take(subscription, MANY - 3)) == expected("a", 3, MANY)

    async def test_append_returns_the_id_that_resumes_after_it(self, log: EventLog) -> None:
        """For a subscription to that one topic."""
        appended = await fill(log, "a", 5)
        async with log.subscribe("a", after=appended[1]) as subscription:
            messages = await take(subscription, 3)
        assert data(messages) == expected("a", 2, 5)
        assert ids(messages) == appended[2:]

    async def test_a_new_client_can_be_given_what_is_stored(self, log: EventLog) -> None:
        """``start="oldest"``, on several pages."""
        await fill(log, "a", MANY)
        async with log.subscribe("a", start="oldest") as subscription:
            assert data(await take(subscription, MANY)) == expected("a", 0, MANY)
            await log.append("a", "live")
            assert data(await take(subscription, 1)) == ["live"]

    async def test_every_subscriber_gets_every_event(self, log: EventLog) -> None:
        """Those to the same topics, to fewer and to others."""
        ab, a, b, other = (log.subscribe(*topics) for topics in (("a", "b"), ("a",), ("b",), ("c",)))
        for subscription in (ab, a, b, other):
            await begin(subscription)
        await log.append("a", "1")
        await log.append("b", "2")
        await log.append("c", "3")
        assert sorted(data(await take(ab, 2))) == ["1", "2"]
        assert data(await take(a, 1)) == ["1"]
        assert data(await take(b, 1)) == ["2"]
        assert data(await take(other, 1)) == ["3"]
        assert (log.statistics().subscribers, log.statistics().topics) == (4, 3)
        for subscription in (ab, a, b, other):
            await subscription.aclose()

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ("text\nof two lines", SSEMessage("text\nof two lines")),
            ("", SSEMessage("")),
            (b"bytes \xc3\xa9", SSEMessage("bytes é")),
            (7, SSEMessage("7")),
            ([1, None], SSEMessage("[1,null]")),
            (Point(1), SSEMessage('{"x":1}')),
            (Moved(1), SSEMessage('{"type":"moved","x":1}', "moved")),
            (SSEMessage(Moved(1), retry=5), SSEMessage('{"type":"moved","x":1}', "moved", retry=5)),
            (SSEMessage(Moved(1), "gone"), SSEMessage('{"type":"moved","x":1}', "gone")),
            (SSEMessage(Moved(1), ""), SSEMessage('{"type":"moved","x":1}', "")),
            ({"data": Moved(1)}, SSEMessage('{"type":"moved","x":1}', "moved")),
            ({"data": {"k": 1}, "event": "e", "retry": 5}, SSEMessage('{"k":1}', "e", retry=5)),
            (SSEMessage("d", "e", retry=0, comment="c"), SSEMessage("d", "e", retry=0, comment="c")),
            (SSEMessage(event="e"), SSEMessage("", "e")),
            (SSEMessage(None), SSEMessage("null")),
            (SSEMessage(comment="only"), SSEMessage(comment="only")),
            (ServerSentEventMessage("d", "e", comment="c"), SSEMessage("d", "e", comment="c")),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_whatever_a_body_may_yield_can_be_appended(
        self, log: EventLog, item: object, message: SSEMessage
    ) -> None:
        """It comes out as text, the same live and stored."""
        async with log.subscribe("a") as live:
            await begin(live)
            appended = await log.append("a", item)
            (got,) = await take(live, 1)
        async with log.subscribe("a", start="oldest") as stored:
            (replayed,) = await take(stored, 1)
        for one in (got, replayed):
            assert one == SSEMessage(message.data, message.event, appended, message.retry, message.comment)

    @pytest.mark.parametrize(
        ("topic", "item"),
        [
            ("", "x"),
            ("t" * 257, "x"),
            (7, "x"),
            ("\ud800", "x"),
            ("a", None),
            ("a", "\ud800"),
            ("a", b"\xff"),
            ("a", object()),
            ("a", {"id": 1, "data": "x"}),
            ("a", {"unknown": 1}),
            ("a", SSEMessage("x", "reset")),
            ("a", SSEMessage("x", "dropped")),
            ("a", SSEMessage("x", "subscribed")),
            ("a", Resetting()),
            ("a", Frame("data: x\n\n")),
            ("a", "é" * 600),
        ],
        ids=lambda value: repr(value).partition(" at 0x")[0],
    )
    async def test_what_cannot_be_stored_is_refused_whole(self, make_log: MakeLog, topic: Any, item: object) -> None:
        """With the field that won't do, and nothing of it is stored."""
        log = make_log(max_bytes=1000)
        with pytest.raises(InvalidFieldError):
            await log.append(topic, item)
        await log.append("a", "fine")
        async with log.subscribe("a", start="oldest") as subscription:
            assert data(await take(subscription, 1)) == ["fine"]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"topics": ()},
            {"topics": ("",)},
            {"topics": tuple(map(str, range(33)))},
            {"buffer": 0},
            {"overflow": "explode"},
            {"start": "middle"},
            {"on_reset": "never"},
            {"key": lambda topic, message: topic},
        ],
        ids=lambda value: str(value).partition(" at 0x")[0],
    )
    async def test_a_subscription_that_won_t_do_is_refused_at_once(
        self, log: EventLog, arguments: dict[str, Any]
    ) -> None:
        """Before anything is held."""
        others = {name: value for name, value in arguments.items() if name != "topics"}
        with pytest.raises(InvalidFieldError):
            log.subscribe(*arguments.get("topics", ("a",)), **others)
        gc.collect()
        assert log.statistics().subscribers == 0

    async def test_topics_with_any_characters_are_kept_apart(self, log: EventLog) -> None:
        """A name is a name, also where it looks like a key or holds spaces."""
        names = ["a", "a:b", "{a}", "a b", "é", "log", "a\nb", "*", "{sse}:log:a"]
        for name in names:
            await log.append(name, name)
        for name in names:
            async with log.subscribe(name, start="oldest") as subscription:
                assert data(await take(subscription, 1)) == [name]

    async def test_an_event_with_a_key_is_stored_once(self, log: EventLog) -> None:
        """Repeating an append changes nothing, and returns the first one's ID; topics have keys of their own."""
        first = await log.append("a", "x", idempotency_key="k")
        assert await log.append("a", "y", idempotency_key="k") == first
        assert await log.append("a", "z", idempotency_key="other") != first
        await log.append("b", "b", idempotency_key="k")
        async with log.subscribe("a", start="oldest") as subscription:
            assert data(await take(subscription, 2)) == ["x", "z"]
            await log.append("a", "end")
            assert data(await take(subscription, 1)) == ["end"]

    @pytest.mark.parametrize("key", ["", "k" * 257, "é" * 129, "\ud800", 7], ids=lambda key: ascii(key)[:8])
    async def test_what_is_no_key_is_refused(self, log: EventLog, key: Any) -> None:
        """By name, and nothing is stored: least of all is it known again."""
        for _ in range(2):
            with pytest.raises(InvalidFieldError, match="idempotency_key: must be"):
                await log.append("a", "x", idempotency_key=key)
            with pytest.raises(InvalidFieldError, match="idempotency_key: must be"):
                await log.append_many("a", ["x", "y"], idempotency_key=key)
        assert await log.read("a") == []
        first = await log.append("a", "x", idempotency_key="k" * 256)
        assert await log.append("a", "x", idempotency_key="k" * 256) == first

    async def test_it_is_counted_what_was_appended(self, log: EventLog) -> None:
        """What is repeated too, and the end; not what was refused."""
        for _ in range(2):
            await log.append("a", "x", idempotency_key="k")
            await log.append_many("a", ["y", "z"], idempotency_key="several")
        with pytest.raises(InvalidFieldError):
            await log.append("a", None)
        await log.finish("a")
        assert log.statistics().appended == 7

    async def test_a_key_outlives_its_topic(self, log: EventLog) -> None:
        """What was deleted does not come back by a second attempt; another event begins a new history."""
        first = await log.append("a", "x", idempotency_key="k")
        await log.delete("a")
        assert await log.append("a", "x", idempotency_key="k") == first
        assert await log.read("a") == []
        await log.append("a", "y", idempotency_key="other")
        assert data(await log.read("a")) == ["y"]

    # Resuming

    async def test_it_resumes_after_any_event(self, log: EventLog) -> None:
        """No gap and no duplicate, whichever was the last one."""
        appended = await fill(log, "a", 12)
        for last, event_id in enumerate(appended):
            async with log.subscribe("a", after=event_id) as subscription:
                assert data(await take(subscription, 11)) == expected("a", last + 1, last + 12)
                await log.append("b", "unseen")
                await log.append("a", f"a{12 + last}")
                assert data(await take(subscription, 1)) == [f"a{12 + last}"]

    async def test_what_becomes_of_other_topics_resets_nobody(self, log: EventLog) -> None:
        """Who has come for topics without events is sent their first one, though others were deleted meanwhile."""
        async with log.subscribe("a", "b") as subscription:
            start = await begin(subscription)
        await log.append("other", "x")
        await log.delete("other")
        await log.append("a", "first")
        async with log.subscribe("a", "b", after=str(start.id)) as subscription:
            assert data(await take(subscription, 1)) == ["first"]

    async def test_to_delete_what_is_not_there_resets_nobody(self, log: EventLog) -> None:
        """Who has come since a topic was deleted is sent its next event, though it was deleted once more."""
        await log.append("a", "deleted")
        await log.delete("a")
        async with log.subscribe("a") as live:
            start = await begin(live)
            await anyio.sleep(0.01)
            await log.delete("a")
            await log.append("a", "next")
            assert data(await take(live, 1)) == ["next"]
        async with log.subscribe("a", after=str(start.id)) as subscription:
            assert data(await take(subscription, 1)) == ["next"]

    async def test_one_id_resumes_several_topics(self, log: EventLog) -> None:
        """Wherever the client was in each of them; live events and stored ones alike."""
        async with log.subscribe("a", "b", "c") as live:
            start = await begin(live)
            for number in range(20):
                await log.append(random.choice("ab"), f"{number}")
            messages = await take(live, 20)
        for seen in range(20):
            after = str(messages[seen - 1].id if seen else start.id)
            async with log.subscribe("c", "b", "a", after=after) as subscription:
                rest = await take(subscription, 20 - seen)
                assert {*data(rest)} == {*data(messages[seen:])}
                assert subscription.cursor == messages[-1].id  # type: ignore[attr-defined]
            halfway = len(rest) // 2
            if halfway:
                async with log.subscribe("a", "b", "c", after=str(rest[halfway - 1].id)) as subscription:
                    assert data(await take(subscription, len(rest) - halfway)) == data(rest[halfway:])

    async def test_topics_of_a_subscription_may_change(self, log: EventLog) -> None:
        """The ones that the cursor holds are resumed, new ones begin where asked, and others are forgotten."""
        await fill(log, "new", 2)
        async with log.subscribe("a", "b") as subscription:
            start = await begin(subscription)
        await fill(log, "a", 2)
        async with log.subscribe("a", "new", after=str(start.id)) as subscription:
            assert data(await take(subscription, 2)) == ["a0", "a1"]
            await fill(log, "new", 1, 2)
            assert data(await take(subscription, 1)) == ["new2"]
        async with log.subscribe("a", "new", after=str(start.id), start="oldest") as subscription:
            assert sorted(data(await take(subscription, 5))) == ["a0", "a1", "new0", "new1", "new2"]

    async def test_a_client_that_saw_no_event_can_resume(self, log: EventLog) -> None:
        """The ID that a subscription begins with resumes it, also of topics that had no event yet."""
        async with log.subscribe("a", "b") as subscription:
            start = await begin(subscription)
        await fill(log, "a", 2)
        async with log.subscribe("a", "b", after=str(start.id)) as subscription:
            assert data(await take(subscription, 2)) == ["a0", "a1"]

    @pytest.mark.parametrize("topics", [("silent",), ("busy", "silent")], ids=len)
    async def test_who_waits_for_longer_than_a_topic_lasts_can_resume(
        self, make_log: MakeLog, topics: tuple[str, ...]
    ) -> None:
        """Whatever was there last gives an ID that resumes: nothing has been missed of a topic without events."""
        log = make_log(history=lambda topic: History(expire_after=LASTS))
        async with log.subscribe(*topics) as subscription:
            after = (await begin(subscription)).id
            with anyio.move_on_after(1.3 * LASTS):
                async for message in subscription:
                    assert message.event == "subscribed"
                    after = message.id
            if "busy" in topics:
                await log.append("busy", "seen")
                after = (await take(subscription, 1))[0].id
        for topic in topics:
            await log.append(topic, f"missed in {topic}")
        async with log.subscribe(*topics, after=str(after)) as subscription:
            assert sorted(data(await take(subscription, len(topics)))) == [f"missed in {topic}" for topic in topics]

    async def test_an_empty_id_is_none(self, log: EventLog) -> None:
        """``Last-Event-ID: `` (empty) is what a client has that was never given one."""
        await fill(log, "a", 1)
        async with log.subscribe("a", after="", start="oldest") as subscription:
            assert data(await take(subscription, 1)) == ["a0"]

    # Resets

    async def test_a_trimmed_resume_point_is_told(self, make_log: MakeLog) -> None:
        """A reset first, whose ID resumes; then the oldest that is stored. Topics that are whole just go on."""
        log = make_log(max_events=10)
        async with log.subscribe("a", "b") as subscription:
            start = await begin(subscription)
        await fill(log, "b", 3)
        await fill(log, "a", MANY)
        async with log.subscribe("a", "b", after=str(start.id), on_reset="oldest") as subscription:
            (reset,) = await take(subscription, 1)
            assert (reset.event, reset.data) == ("reset", Reset({"a": "trimmed"}, "oldest"))
            rest = await take(subscription, 4)
            while rest[-1].data not in (f"a{MANY - 1}", "b2") or len({*data(rest)} & {f"a{MANY - 1}", "b2"}) < 2:
                rest += await take(subscription, 1)
        kept = [item for item in data(rest) if item.startswith("a")]
        assert len(kept) >= 10
        assert kept == expected("a", MANY - len(kept), MANY)
        assert [item for item in data(rest) if item.startswith("b")] == expected("b", 0, 3)
        async with log.subscribe("a", "b", after=str(reset.id)) as subscription:
            assert data(await take(subscription, len(rest))) == data(rest)

    async def test_a_reset_is_an_event_like_any_other_on_the_wire(self, log: EventLog) -> None:
        """Its data is JSON, and its ID the client's new last event ID."""
        await log.append("a", "x")
        async with log.subscribe("a", after="bogus", on_reset="latest") as subscription:
            (reset,) = await take(subscription, 1)
        lines = Encoder(separator="\n").encode(reset).decode().splitlines()
        assert lines == [f"id: {reset.id}", "event: reset", 'data: {"topics":{"a":"unknown"},"resumed":"latest"}', ""]

    async def test_where_to_go_on_from_can_be_chosen(self, make_log: MakeLog) -> None:
        """By name, or by a function that is told what is lost; ``None`` from it is the default."""
        log = make_log(max_events=10)
        first = await log.append("a", "a0")
        await fill(log, "a", MANY, 1)
        told: list[Reset] = []

        def choose(reset: Reset) -> Any:
            told.append(reset)
            return "latest"

        for on_reset in ("latest", choose):
            async with log.subscribe("a", after=first, on_reset=on_reset) as subscription:
                assert data(await take(subscription, 1)) == [Reset({"a": "trimmed"}, "latest")]
                await log.append("a", "next")
                assert data(await take(subscription, 1)) == ["next"]
        assert told == [Reset({"a": "trimmed"}, "latest")]
        async with log.subscribe("a", after=first, start="oldest", on_reset=lambda reset: None) as subscription:
            assert data(await take(subscription, 1)) == [Reset({"a": "trimmed"}, "oldest")]
            assert str(data(await take(subscription, 1))[0]).startswith("a")

    async def test_a_choice_that_is_none_fails_the_subscription(self, make_log: MakeLog) -> None:
        """The error is the subscriber's alone."""
        log = make_log()
        async with log.subscribe("a", after="bogus", on_reset=lambda reset: "never") as subscription:  # type: ignore[arg-type,return-value]
            with pytest.raises(InvalidFieldError, match="on_reset"):
                await begin(subscription)
        assert log.statistics().subscribers == 0

    @pytest.mark.parametrize("bad", BAD_IDS, ids=lambda bad: ascii(bad)[:12])
    async def test_an_id_that_was_never_ours_leads_to_a_reset(self, log: EventLog, bad: str) -> None:
        """Never to an error, or to events of other topics."""
        await fill(log, "a", 2)
        await fill(log, "secret", 2)
        async with log.subscribe("a", after=bad, on_reset="oldest") as subscription:
            first = await subscription.__anext__()
            if first.event == "reset":
                assert first.data == Reset({"a": "unknown"}, "oldest")
                assert data(await take(subscription, 2)) == ["a0", "a1"]
            else:  # well-formed, but of no topic here
                assert first.event == "subscribed"
            await log.append("a", "live")
            assert data(await take(subscription, 1)) == ["live"]

    async def test_an_id_of_another_log_or_from_the_future_leads_to_a_reset(self, make_log: MakeLog) -> None:
        """The same topic in another log, or a history that this log never had."""
        log = make_log()
        other = await MemoryEventLog().append("a", "x")
        own = await log.append("a", "a0")
        place = (positions(own) or {})[tag("a")]
        for forged in (
            place._replace(seq=place.seq + 5),
            place._replace(epoch=place.epoch + 1),
            place._replace(epoch=place.epoch - 1),
            place._replace(nonce=place.nonce ^ 1),
        ):
            for after in (other, cursor([record(tag("a"), forged)])):
                async with log.subscribe("a", after=after, start="oldest") as subscription:
                    assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "a0"]

    @pytest.mark.parametrize("start", ["latest", "oldest"])
    async def test_a_made_up_id_shows_no_more_than_none(self, make_log: MakeLog, start: Any) -> None:
        """A client that has never been there is sent what ``start`` says: it may know others' IDs."""
        log = make_log(max_events=10)
        await fill(log, "a", MANY)
        async with log.subscribe("a") as newcomer:
            own = str((await begin(newcomer)).id)
        place = (positions(own) or {})[tag("a")]
        for forged in (
            "x",
            await MemoryEventLog().append("a", "x"),
            cursor([record(tag("a"), place._replace(seq=1))]),  # trimmed
            cursor([record(tag("a"), place._replace(seq=MANY - 1))]),  # stored
            cursor([record(tag("a"), place._replace(seq=0))]),
            cursor([record(tag("a"), place._replace(seq=0, epoch=place.epoch - 1))]),
        ):
            async with log.subscribe("a", after=forged, start=start) as subscription:
                reset = (await take(subscription, 1 if start == "latest" else 11))[0]
                assert (reset.event, reset.data.resumed) == ("reset", start)
                await log.append("a", "live")
                if start == "latest":
                    assert data(await take(subscription, 1)) == ["live"]

    async def test_the_log_s_own_events_have_data(self, log: EventLog) -> None:
        """No block without data is sent: much-used clients take one for an event."""
        encoder = Encoder(separator="\n")
        async with log.subscribe("b", "a") as subscription:
            subscribed = await subscription.__anext__()
        lines = encoder.encode(subscribed).decode().splitlines()
        assert lines == [f"id: {subscribed.id}", "event: subscribed", 'data: {"topics":["a","b"]}', ""]
        async with log.subscribe("b", "a", after=str(subscribed.id)) as subscription:
            await log.append("a", "x")
            assert data([await subscription.__anext__()]) == ["x"]
        async with log.subscribe("b", "a", start="oldest") as subscription:  # what is stored has the ID
            assert data([await subscription.__anext__()]) == ["x"]

    # Slow subscribers

    async def test_who_stalls_while_he_replays_takes_nothing_from_others(self, make_log: MakeLog) -> None:
        """What he has not fetched yet is trimmed, of which he alone is told; who is live is sent every event."""
        log = make_log(max_events=120)
        await log.append_many("a", ["x" * 5000] * 120)
        stalled = log.subscribe("a", start="oldest", buffer=1000)
        async with stalled, log.subscribe("a", buffer=1000) as live, log.subscribe("a", buffer=1000) as reading:
            await take(stalled, 1)
            await begin(live)
            await begin(reading)
            await fill_paced(log, "a", range(400), reading)
            while (await take(stalled, 1))[0].event != "reset":
                pass
            await fill_paced(log, "a", range(400, 600), reading)
            assert numbers(await take(live, 600)) == list(range(600))
            assert log.statistics().gaps == 1

    async def test_who_resumes_takes_nothing_from_others(self, make_log: MakeLog) -> None:
        """Though he has known a topic without events for longer than they do, and is behind in another one."""
        log = make_log(max_events=120)
        async with log.subscribe("a", "b") as subscription:
            start = await begin(subscription)
        await anyio.sleep(0.01)
        await fill(log, "b", 3)
        async with log.subscribe("a", buffer=1000) as live:
            await begin(live)
            async with log.subscribe("a", "b", after=str(start.id), buffer=1000) as resumed:
                assert data(await take(resumed, 3)) == expected("b", 0, 3)
                await fill_paced(log, "a", range(400), resumed)
                assert numbers(await take(live, 400)) == list(range(400))

    async def test_a_subscriber_that_cannot_keep_up_is_ended_and_resumes(self, log: EventLog) -> None:
        """``close``: what is in the buffer still comes; then the end, and the last ID resumes without a gap."""
        async with log.subscribe("a", buffer=20) as subscription:
            await begin(subscription)
            async with log.subscribe("a") as other:
                await begin(other)
                await fill(log, "a", 50)
                await take(other, 50)
            got = await take_all(subscription)
        assert data(got) == expected("a", 0, 20)
        async with log.subscribe("a", after=str(got[-1].id)) as subscription:
            assert data(await take(subscription, 30)) == expected("a", 20, 50)
        assert log.statistics().subscribers == 0

    async def test_the_oldest_can_be_dropped_and_it_is_said(self, log: EventLog) -> None:
        """``drop_oldest``: how many are missing, then the newest."""
        async with log.subscribe("a", buffer=20, overflow="drop_oldest") as subscription:
            await begin(subscription)
            async with log.subscribe("a") as other:
                await begin(other)
                await fill(log, "a", 50)
                await take(other, 50)
            got = await take(subscription, 21)
            assert (got[0].event, got[0].data, got[0].id) == ("dropped", {"dropped": 30}, None)
            assert data(got[1:]) == expected("a", 30, 50)
            await log.append("a", "next")
            assert data(await take(subscription, 1)) == ["next"]

    async def test_only_the_newest_of_each_key_can_be_kept(self, log: EventLog) -> None:
        """``latest``: by default of each topic and event type; IDs never go backwards."""
        async with log.subscribe("a", "b", buffer=5, overflow="latest") as subscription:
            await begin(subscription)
            async with log.subscribe("a", "b") as other:
                await begin(other)
                for number in range(10):
                    for topic, event in (("a", "x"), ("a", "y"), ("b", "x")):
                        await log.append(topic, SSEMessage(f"{topic}{event}{number}", event))
                messages = await take(other, 30)
            got = await take(subscription, 3)
            assert sorted(data(got)) == ["ax9", "ay9", "bx9"]
            order = ids(messages)
            assert [order.index(event_id) for event_id in ids(got)] == sorted(
                order.index(event_id) for event_id in ids(got)
            )
            await log.append("a", SSEMessage("again", "x"))
            assert data(await take(subscription, 1)) == ["again"]

    async def test_the_key_is_the_application_s(self, log: EventLog) -> None:
        """More keys than the buffer holds end the subscription; a key that fails ends its own subscription only."""

        def fails(topic: str, message: SSEMessage) -> str:
            raise ValueError("no key")

        failing = log.subscribe("a", overflow="latest", key=fails)
        narrow = log.subscribe("a", overflow="latest", buffer=2, key=lambda topic, message: message.data)
        await begin(failing)
        await begin(narrow)
        async with log.subscribe("a") as other:
            await begin(other)
            await fill(log, "a", 3)
            await take(other, 3)
        assert data(await take_all(narrow)) == ["a0", "a1"]
        with pytest.raises(ValueError, match="no key"):
            await take_all(failing)
        assert log.statistics().subscribers == 0

    # Life

    async def test_a_subscription_that_was_never_started_holds_nothing(self, log: EventLog) -> None:
        """Nor one that was closed before."""
        subscription = log.subscribe("a")
        assert log.statistics().subscribers == 0
        await subscription.aclose()
        assert await take_all(subscription) == []

    async def test_a_subscription_that_is_let_go_is_forgotten(self, log: EventLog) -> None:
        """Without being closed, too."""
        subscription = log.subscribe("a")
        await begin(subscription)
        assert log.statistics().subscribers == 1
        del subscription
        gc.collect()
        assert (log.statistics().subscribers, log.statistics().topics) == (0, 0)
        await log.append("a", "to nobody")

    async def test_closing_wakes_the_one_who_waits(self, log: EventLog) -> None:
        """As the end, and not as an error."""
        subscription = log.subscribe("a")
        await begin(subscription)
        ended = anyio.Event()

        async def wait() -> None:
            assert await take_all(subscription) == []
            ended.set()

        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda: subscription._busy)
                await subscription.aclose()
                await ended.wait()
        await subscription.aclose()
        assert log.statistics().subscribers == 0

    async def test_one_task_at_a_time(self, log: EventLog) -> None:
        """A second one is told, and the first goes on."""
        async with log.subscribe("a") as subscription:
            await begin(subscription)
            got: list[SSEMessage] = []

            async def wait() -> None:
                got.extend(await take(subscription, 1))

            with anyio.fail_after(WAIT):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await until(lambda: subscription._busy)
                    with pytest.raises(RuntimeError, match="one task"):
                        await subscription.__anext__()
                    await log.append("a", "x")
            assert data(got) == ["x"]

    async def test_a_cancelled_wait_loses_nothing(self, log: EventLog) -> None:
        """Cancelled at any of its waits, from the start on, it yields every event once."""
        await fill(log, "a", MANY)
        subscription = log.subscribe("a", start="oldest")
        got: list[SSEMessage] = []
        appended = MANY
        cancelled = 0
        with anyio.fail_after(WAIT):
            while len(got) < MANY + 20:
                scope = anyio.CancelScope(deadline=anyio.current_time() + random.choice([0, 0.001, 0.05]))
                with scope:
                    message = await subscription.__anext__()
                    if message.event != "subscribed":
                        got.append(message)
                if scope.cancelled_caught:
                    cancelled += 1
                    if len(got) >= MANY and appended < MANY + 20:
                        await fill(log, "a", 1, appended)
                        appended += 1
        assert data(got) == expected("a", 0, MANY + 20)
        assert cancelled >= 20
        await subscription.aclose()

    @pytest.mark.parametrize("how", ["twice", "scope"])
    async def test_a_cancellation_at_any_await_leaves_nothing_behind(
        self, anyio_backend_name: str, make_log: MakeLog, how: str
    ) -> None:
        """Wherever it is cancelled, nothing is held, and the log and its connections can be used as before."""
        if anyio_backend_name == "trio":
            how = "scope"  # there is no other
        log = make_log()
        at = seen = 0
        while seen >= at:
            at += 1
            topic_start = await log.append("a", "start")
            async with anyio.create_task_group() as filling:
                for number in range(150):
                    filling.start_soon(log.append, "a", f"{number}")
            seen = await cancel_at(at, how, journey(log, topic_start))
            gc.collect()
            assert (log.statistics().subscribers, log.statistics().topics) == (0, 0)
            async with log.subscribe("a", after=await log.append("a", "before")) as subscription:
                await log.append("a", "after")
                assert data(await take(subscription, 1)) == ["after"]
        assert at > 5

    @pytest.mark.parametrize("how", ["task", "scope"])
    async def test_a_cancelled_append_keeps_nothing_from_subscribers(
        self, anyio_backend_name: str, log: EventLog, how: str
    ) -> None:
        """Wherever it is cancelled: they are sent what it has stored, if it has, and all that comes after."""
        if anyio_backend_name == "trio":
            how = "scope"  # there is no other
        at = seen = 0
        while seen >= at:
            at += 1
            topic = f"{at}"
            slow = log.subscribe(topic, buffer=16, overflow="drop_oldest")
            async with slow, log.subscribe(topic, buffer=1000) as fast:
                await begin(slow)
                await begin(fast)
                seen = await cancel_at(at, how, log.append_many(topic, range(100)))
                await log.append(topic, "after")
                stored = data(await log.read(topic, limit=200))
                assert stored[-1] == "after"
                assert data(await take(fast, len(stored))) == stored
        assert at > 1
        assert log.statistics().subscribers == 0

    async def test_joining_while_events_are_appended_has_no_seam(self, log: EventLog) -> None:
        """Clients that come and go at any time, each resuming from its last ID, get each event once and in order."""
        topics, total = ("a", "b", "c"), 600
        done: list[str] = []

        async def client(seed: int) -> None:
            chance = random.Random(seed)
            seen: dict[str, list[int]] = defaultdict(list)
            last: str | None = None
            while sum(map(len, seen.values())) < total:
                async with log.subscribe(
                    *topics, after=last, start="oldest", buffer=chance.choice([5, 50])
                ) as subscription:
                    for _ in range(chance.choice([1, 10, 100])):
                        try:
                            message = await subscription.__anext__()
                        except StopAsyncIteration:
                            break
                        last = str(message.id)
                        if message.event != "subscribed":
                            assert message.event is None
                            seen[message.data[0]].append(int(message.data[1:]))
                        if sum(map(len, seen.values())) == total:
                            break
                await anyio.lowlevel.checkpoint()
            assert {topic: [*range(len(numbers))] for topic, numbers in seen.items()} == dict(seen)
            done.append("")

        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as tasks:
                for seed in range(10):
                    tasks.start_soon(client, seed)
                counts = dict.fromkeys(topics, 0)
                for number in range(total):
                    topic = random.choice(topics)
                    await log.append(topic, f"{topic}{counts[topic]}")
                    counts[topic] += 1
                    if number % 10 == 0:
                        await anyio.lowlevel.checkpoint()
        assert len(done) == 10
        assert log.statistics().subscribers == 0

    async def test_an_encoder_of_one_s_own(self, make_log: MakeLog) -> None:
        """``enc_hook`` makes something that msgspec encodes."""
        log = make_log(enc_hook=lambda value: "made")
        await log.append("a", [object()])
        async with log.subscribe("a", start="oldest") as subscription:
            assert data(await take(subscription, 1)) == ['["made"]']


class Visit:
    """Stands for a stream: all that a log asks of one is its connection, which is a name here."""

    def __init__(self, name: str | None) -> None:
        self.request = name


class PresenceContract:
    """What holds of every event log that tells who is subscribed: it takes the setting ``presence``."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_log(self) -> MakeLog:
        """Makes logs; those of one test share what they store."""
        raise NotImplementedError("override the fixture make_log")

    @pytest.fixture
    def log(self, make_log: MakeLog) -> EventLog:
        """A log that takes connections for names."""
        return make_log(presence=lambda connection: connection)

    async def test_streams_are_present_from_their_start_to_their_end(self, log: EventLog) -> None:
        """Each in all of its topics; who has several is one member, and who has no name is only counted."""
        assert await log.presence("a") == Presence(0, {})
        subscriptions = [
            log.subscribe(*topics, stream=Visit(name))  # type: ignore[arg-type]
            for topics, name in ((("a",), "ann"), (("a", "b"), "ann"), (("b", "a"), "bob é"), (("a",), None))
        ]
        assert (await log.presence("a")).streams == 0
        for subscription in subscriptions:
            await begin(subscription)
        assert await log.presence("a") == Presence(4, {"ann": 2, "bob é": 1})
        assert await log.presence("b") == Presence(2, {"ann": 1, "bob é": 1})
        for subscription in subscriptions[1:]:
            await subscription.aclose()
        assert await log.presence("a") == Presence(1, {"ann": 1})
        assert await log.presence("b") == Presence(0, {})
        await subscriptions[0].aclose()
        assert await log.presence("a") == Presence(0, {})

    async def test_who_enters_is_present(self, log: EventLog) -> None:
        """Before there is a first message."""
        async with log.subscribe("a", stream=Visit("ann")):  # type: ignore[arg-type]
            assert await log.presence("a") == Presence(1, {"ann": 1})
        assert await log.presence("a") == Presence(0, {})

    async def test_a_handler_may_know_better(self, log: EventLog) -> None:
        """``member`` is who it is, with or without a stream; the application itself is not counted."""
        visit: Any = Visit("ann")
        known, named = log.subscribe("a", stream=visit, member="bob"), log.subscribe("a", member="eve")
        async with known, named, log.subscribe("a", stream=None):
            assert await log.presence("a") == Presence(2, {"bob": 1, "eve": 1})

    async def test_who_may_not_subscribe_is_not_present(self, make_log: MakeLog) -> None:
        """Nor as long as it is not known whether he may."""
        seen: list[int] = []

        async def authorize(connection: object, topics: tuple[str, ...]) -> bool:
            seen.append((await log.presence("a")).streams)
            return connection == "ann"

        log = make_log(authorize=authorize, presence=lambda connection: connection)
        for name in ("ann", "bob"):
            subscription = log.subscribe("a", stream=Visit(name))  # type: ignore[arg-type]
            with contextlib.suppress(TopicsDeniedError):
                await subscription.__anext__()
            seen.append((await log.presence("a")).streams)
            await subscription.aclose()
        assert seen == [0, 1, 0, 0]

    async def test_who_is_gone_before_he_may_is_not_present(self, make_log: MakeLog) -> None:
        """A subscription that was closed meanwhile does not begin."""

        async def authorize(connection: object, topics: tuple[str, ...]) -> None:
            await subscription.aclose()

        log = make_log(authorize=authorize, presence=lambda connection: connection)
        subscription = log.subscribe("a", stream=Visit("ann"))  # type: ignore[arg-type]
        assert await take_all(subscription) == []
        assert await log.presence("a") == Presence(0, {})

    @pytest.mark.parametrize("how", ["finished", "let go", "slow"])
    async def test_whatever_ends_a_subscription_ends_its_presence(self, log: EventLog, how: str) -> None:
        """That its topic is finished, that nobody has it any more, or that it was too slow."""
        subscription = log.subscribe("a", stream=Visit("ann"), buffer=1)  # type: ignore[arg-type]
        await begin(subscription)
        if how == "finished":
            await log.finish("a")
            await take_all(subscription)
        elif how == "slow":
            async with log.subscribe("a", stream=None) as other:
                await begin(other)
                await fill(log, "a", 3)
                await take(other, 3)
            await take_all(subscription)
        del subscription
        gc.collect()
        assert await log.presence("a") == Presence(0, {})

    async def test_a_history_that_is_lost_ends_no_presence(self, log: EventLog) -> None:
        """The stream goes on, and so does who has it."""
        async with log.subscribe("a", stream=Visit("ann")) as subscription:  # type: ignore[arg-type]
            await begin(subscription)
            await log.append("a", "1")
            await take(subscription, 1)
            await log.delete("a")
            await log.append("a", "2")
            assert [message.event for message in await take(subscription, 2)] == ["reset", None]
            assert await log.presence("a") == Presence(1, {"ann": 1})

    async def test_a_cancellation_at_any_await_leaves_nobody_behind(self, log: EventLog) -> None:
        """Who was cancelled while he began is not present when his subscription has been closed."""
        at = seen = 0
        while seen >= at:
            at += 1

            async def visit() -> None:
                async with log.subscribe("a", stream=Visit("ann")) as subscription:  # type: ignore[arg-type]
                    await anyio.lowlevel.checkpoint()
                    await begin(subscription)
                    await anyio.lowlevel.checkpoint()

            seen = await cancel_at(at, "scope", visit())
            assert await log.presence("a") == Presence(0, {})

    @pytest.mark.parametrize("name", ["", "n" * 257, "\ud800", "a\0b", 7])
    async def test_what_is_no_name_is_refused(self, make_log: MakeLog, log: EventLog, name: Any) -> None:
        """At the call, by the field; nothing is held."""
        visit: Any = Visit("ann")
        with pytest.raises(InvalidFieldError, match="member: must be"):
            log.subscribe("a", member=name)
        with pytest.raises(InvalidFieldError, match="what presence returned: must be"):
            make_log(presence=lambda connection: name).subscribe("a", stream=visit)
        assert await log.presence("a") == Presence(0, {})

    async def test_a_stream_is_not_to_be_forgotten(self, log: EventLog) -> None:
        """Nor is a topic to be something else."""
        with pytest.raises(InvalidFieldError, match="stream: must be the stream that subscribes"):
            log.subscribe("a")
        with pytest.raises(InvalidFieldError, match="topic: must be"):
            await log.presence("")

    async def test_a_log_without_presence_tells_so(self, make_log: MakeLog) -> None:
        """Whether it is asked, or given a name."""
        log = make_log()
        with pytest.raises(InvalidFieldError, match="presence: must be given when the log is made"):
            await log.presence("a")
        with pytest.raises(InvalidFieldError, match="member: must be left out"):
            log.subscribe("a", member="ann")
