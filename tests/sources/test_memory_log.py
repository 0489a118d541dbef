"""The log in memory: against a naive model, and what bounds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from litestar_safe_sse.sources import memory, sequence_of
from litestar_safe_sse.sources._subscription import Subscription
from litestar_safe_sse.sources.event_log import Reset
from litestar_safe_sse.sources.memory import MemoryEventLog
from tests.sources.subscriptions import begin, data, take

EVENTS = 2000
KEPT = 5
TOPICS = ("a", "b")


@dataclass
class Client:
    """What a client has seen of each topic, by a model that is a list."""

    topics: tuple[str, ...]
    next: dict[str, int]
    last_event_id: str | None = None
    subscription: Subscription | None = None
    got: list[Any] = field(default_factory=list)


steps = some.lists(
    some.one_of(
        some.tuples(some.just("append"), some.sampled_from(TOPICS), some.integers(1, 7)),
        some.tuples(some.just("read"), some.integers(0, 2), some.integers(1, 9)),
        some.tuples(some.just("leave"), some.integers(0, 2), some.just(0)),
    ),
    max_size=40,
)


async def waiting(subscription: Subscription) -> Any:
    """The next message; ``None`` if there is none yet."""
    step = asyncio.ensure_future(subscription.__anext__())
    for _ in range(3):
        await asyncio.sleep(0)
    if step.done():
        return step.result()
    step.cancel()
    await asyncio.wait([step])
    return None


@settings(max_examples=150, deadline=None)
@given(steps)
def test_it_behaves_like_a_list(steps: list[tuple[str, Any, int]]) -> None:
    """Each client gets each event once and in order; what was trimmed before it came for it is told, and only that."""

    async def run() -> None:
        log = MemoryEventLog(max_events=KEPT, max_age=None)
        model: dict[str, int] = dict.fromkeys(TOPICS, 0)
        clients = [Client(topics, dict.fromkeys(topics, 0)) for topics in (("a",), ("b",), ("a", "b"))]

        async def read(client: Client) -> bool:
            if client.subscription is None:
                client.subscription = log.subscribe(*client.topics, after=client.last_event_id, start="oldest")
            message = await waiting(client.subscription)
            if message is None:
                return False
            client.last_event_id = message.id
            if message.event == "reset":
                assert isinstance(message.data, Reset)
                for topic, why in message.data.topics.items():
                    oldest = max(0, model[topic] - KEPT)
                    assert (why, oldest > client.next[topic]) == ("trimmed", True)
                    client.next[topic] = oldest
            elif message.event is None:
                topic, number = message.data[0], int(message.data[1:])
                if client.next[topic] == 0:  # a new client begins with the oldest
                    client.next[topic] = number
                assert client.next[topic] == number
                client.next[topic] += 1
            return True

        for what, which, many in steps:
            if what == "append":
                for _ in range(many):
                    await log.append(which, f"{which}{model[which]}")
                    model[which] += 1
                continue
            client = clients[which]
            if what == "leave" and client.subscription is not None:
                await client.subscription.aclose()
                client.subscription = None
            for _ in range(many):
                await read(client)
        for client in clients:
            while await read(client):
                pass
            assert client.next == {topic: model[topic] for topic in client.topics}
            if client.subscription is not None:
                await client.subscription.aclose()
        assert log.statistics().subscribers == 0

    asyncio.run(run())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "monotonic", clock)
    return clock


@pytest.mark.anyio
async def test_events_go_when_they_are_too_old(clock: Clock) -> None:
    """And who comes back for them is told."""
    log = MemoryEventLog(max_age=60)
    first = await log.append("a", "old")
    await log.append("a", "older than a minute, later")
    clock.now += 50
    await log.append("a", "young")
    clock.now += 20
    async with log.subscribe("a", after=first, on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "trimmed"}, "oldest"), "young"]


@pytest.mark.anyio
async def test_idle_topics_go(clock: Clock) -> None:
    """When their events are too old and nobody is subscribed; a topic of that name has another history then."""
    log = MemoryEventLog(max_age=60)
    gone = await log.append("gone", "x")
    kept = await log.append("kept", "x")
    async with log.subscribe("kept") as subscription:
        await begin(subscription)
        clock.now += 61
        await log.append("new", "x")
        assert {*log._memory._stored} == {"kept", "new"}
    async with log.subscribe("gone", "kept", after=gone, on_reset="oldest") as subscription:
        assert data(await take(subscription, 1)) == [Reset({"gone": "unknown"}, "oldest")]
    async with log.subscribe("kept", after=kept) as subscription:
        await log.append("kept", "y")
        assert data(await take(subscription, 1)) == ["y"]


@pytest.mark.anyio
async def test_the_number_of_topics_is_bounded() -> None:
    """The one idle for longest goes first; those in use stay."""
    log = MemoryEventLog(max_topics=10)
    await log.append("used", "x")
    async with log.subscribe("used") as subscription:
        await begin(subscription)
        for number in range(1000):
            await log.append(f"{number}", "x")
        assert len(log._memory._stored) == 10
        assert "used" in log._memory._stored
        assert "999" in log._memory._stored


@pytest.mark.anyio
async def test_who_waits_for_a_first_event_outlasts_topics_that_are_dropped() -> None:
    """Those that are too many reset him only if they are more than are known, and one of them may have been his."""
    log = MemoryEventLog(max_topics=10)
    start = await log.position("mine")
    for number in range(15):
        await log.append(f"{number}", "x")
    await log.append("mine", "first")
    assert data(await log.read("mine", after=start)) == ["first"]
    await log.delete("mine")
    await log.append("mine", "second")
    assert data(await log.read("mine", after=start)) == [Reset({"mine": "unknown"}, "oldest"), "second"]
    later = await log.position("other")
    for number in range(1000):
        await log.append(f"{number}", "x")
    assert len(log._memory._dropped) == 10
    await log.append("other", "first")
    assert data(await log.read("other", after=later)) == [Reset({"other": "unknown"}, "oldest"), "first"]


@pytest.mark.anyio
async def test_idempotency_keys_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, and in number: the last ones are known, of whichever topics."""
    monkeypatch.setattr(memory, "_KEYS", 5)
    log = MemoryEventLog(forget_keys_after=60)
    first = await log.append("a", "x", idempotency_key="k")
    clock.now += 59
    assert await log.append("a", "x", idempotency_key="k") == first
    clock.now += 1
    assert await log.append("a", "x", idempotency_key="k") != first
    for number in range(100):
        await log.append(f"{number}", "x", idempotency_key="k")
        assert len(log._memory._keys) <= 5
    last = await log.append("99", "x", idempotency_key="k")
    assert sequence_of(last, "99") == 1
    clock.now += 60
    for number in range(2):
        await log.append("a", "x", idempotency_key=f"{number}")
    assert len(log._memory._keys) <= 3


@pytest.mark.anyio
@pytest.mark.parametrize("overflow", ["close", "drop_oldest", "latest"])
async def test_a_busy_topic_holds_up_no_time_out(overflow: Any) -> None:
    """One around a subscription ends it, though an event comes at every turn of the loop, and loses none."""
    log = MemoryEventLog()

    async def publish() -> None:
        for number in range(EVENTS):
            await log.append("a", number)
            await asyncio.sleep(0)

    got: list[Any] = []
    async with log.subscribe("a", overflow=overflow) as subscription, anyio.create_task_group() as tasks:
        await begin(subscription)
        tasks.start_soon(publish)
        with anyio.CancelScope() as scope:
            async for message in subscription:
                got += data([message])
                if len(got) >= 50:
                    scope.cancel()
                if len(got) == EVENTS:
                    break
        assert 50 <= len(got) < EVENTS / 2
        got += data(await take(subscription, 1))
        tasks.cancel_scope.cancel()
    assert got == [*map(str, range(len(got)))]
