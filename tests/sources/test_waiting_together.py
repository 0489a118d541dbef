"""Thousands may wait for the same thing and leave at once: nobody has to be looked for among all the others."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import PostgresEventLog, RedisEventLog, RedisPlugin, RedisQueue
from litestar_safe_sse.sources._bell import Bell
from litestar_safe_sse.sources._cursor import Position
from litestar_safe_sse.sources._fan_out import FanOut, LiveTopic
from litestar_safe_sse.sources._pages import Pages
from litestar_safe_sse.sources._subscription import make_mailbox
from litestar_safe_sse.sources.channels import _ChannelSubscribers, _Listener
from tests.bounds import WAIT
from tests.loops import ASYNCIO, TRIO
from tests.sources.clients import eventually

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO])
on_both = pytest.mark.parametrize("anyio_backend", [ASYNCIO, TRIO])

MANY = 100
BEGINNING = Position(1, 0, 0)

Wait = Callable[[], Awaitable[object]]


def look(redis: RedisPlugin) -> Wait:
    """To be told where a topic begins, by a Redis that is away."""
    fan_out = RedisEventLog(redis)._fan_out()
    return lambda: fan_out.look({"a": None})


def page(redis: RedisPlugin) -> Wait:
    """For events that were missed, and are being fetched."""

    async def fetch(topic: str, after: Position, upto: Position) -> Any:
        await anyio.sleep_forever()

    pages = Pages(fetch)
    return lambda: pages.get("a", BEGINNING, Position(1, 9, 0))


def moved(redis: RedisPlugin) -> Wait:
    """For a topic to be read on."""
    return LiveTopic("a", BEGINNING).moved


def take(redis: RedisPlugin) -> Wait:
    """For an item of a queue."""
    items = RedisQueue(redis, "jobs")._popper()
    return items.take


def channels(redis: RedisPlugin) -> Wait:
    """For Litestar to subscribe to a channel, by a backend that hangs."""

    async def subscribe(name: str) -> Any:
        await anyio.sleep_forever()

    plugin: Any = SimpleNamespace(subscribe=subscribe)
    subscribers = _ChannelSubscribers(plugin, asyncio.get_running_loop())
    subscribers.join(_Listener(make_mailbox(1, "close"), ("a",)))
    return subscribers.caught_up


def lines() -> Iterator[int]:
    """How long all those are that a future may have to be searched for in."""
    for thing in gc.get_objects():  # a proxy whose object is gone among them, which can't be asked for its class
        kind: type[Any] = type(thing)
        if issubclass(kind, asyncio.Future):
            yield len(thing._callbacks or ())
        elif issubclass(kind, (deque, list, tuple)) and thing and all(map(is_plain_future, thing)):
            yield len(thing)


def is_plain_future(thing: object) -> bool:
    return issubclass(type(thing), asyncio.Future) and not issubclass(type(thing), asyncio.Task)


@on_asyncio
@pytest.mark.parametrize("what", [look, page, moved, take, channels])
async def test_nobody_stands_in_a_line(what: Callable[[RedisPlugin], Wait]) -> None:
    """So that it costs each the same to leave, however many wait: and those who stay still wait."""
    redis = RedisPlugin("redis://127.0.0.1:1")
    wait = what(redis)

    async def wait_for_it() -> None:
        await wait()

    tasks = [asyncio.create_task(wait_for_it()) for _ in range(MANY)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert max(lines()) < MANY // 10
    for task in tasks[1:]:
        task.cancel()
    with anyio.fail_after(WAIT):
        await asyncio.wait(tasks[1:])
    assert not tasks[0].done()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    await redis.aclose()


def asked_of_redis() -> tuple[FanOut, Callable[[], Awaitable[None]], Callable[[], int]]:
    """A log on a Redis that is away: what looks, what closes it, and how much it has been asked."""
    redis = RedisPlugin("redis://127.0.0.1:1")
    reader = RedisEventLog(redis)._fan_out()
    return reader, redis.aclose, lambda: len(reader._asked)


def asked_of_postgres() -> tuple[FanOut, Callable[[], Awaitable[None]], Callable[[], int]]:
    """A log in a PostgreSQL that is away."""
    log = PostgresEventLog("postgresql://127.0.0.1:1/none")
    reader = log._fan_out()
    return reader, log.aclose, lambda: len(reader._asked)


on_each_log = pytest.mark.parametrize("ask", [asked_of_redis, asked_of_postgres])


@on_asyncio
@on_each_log
async def test_what_was_asked_goes_with_those_who_asked(ask: Any) -> None:
    """Nothing stays of visitors who left while the server was away, however many of them came."""
    before = asyncio.all_tasks()
    reader, close, asked = ask()
    tasks = [asyncio.create_task(reader.look({f"topic {number % 400}": None})) for number in range(500)]
    await eventually(lambda: asked() > 200)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert asked() == 0
    await eventually(lambda: len(asyncio.all_tasks() - before) <= 3)  # who looks for all, and who connects
    await close()
    await eventually(lambda: asyncio.all_tasks() == before)


@on_asyncio
async def test_who_stays_waits_on_when_another_one_leaves() -> None:
    """Both asked the same; and who asks it after both have left is no part of their question."""
    reader, close, asked = asked_of_redis()
    first, second = (asyncio.create_task(reader.look({"a": None})) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert asked() == 1
    second.cancel()
    third = asyncio.create_task(reader.look({"a": None}))
    await asyncio.wait([second])
    assert asked() == 1
    assert not third.done()
    await close()
    with pytest.raises(SourceUnavailableError, match="has been closed"):
        await third


@on_asyncio
@on_each_log
async def test_who_still_asks_when_the_log_is_closed_is_told(ask: Any) -> None:
    """And nothing is asked of a server afterwards."""
    before = asyncio.all_tasks()
    reader, close, asked = ask()
    tasks = [asyncio.create_task(reader.look({f"topic {number}": None})) for number in range(MANY)]
    await asyncio.sleep(0)
    with anyio.fail_after(WAIT):
        await close()
        for task in tasks:
            with pytest.raises(SourceUnavailableError):
                await task
    assert asked() == 0
    await eventually(lambda: asyncio.all_tasks() == before)


@on_asyncio
async def test_a_line_is_noticed() -> None:
    """That of an event of asyncio's, and of those who shield themselves from each other's cancellation."""
    event, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def shielded() -> None:
        await asyncio.shield(answer)

    for wait in (event.wait, shielded):
        tasks = [asyncio.ensure_future(wait()) for _ in range(MANY)]
        await asyncio.sleep(0)
        assert max(lines()) == MANY
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@on_both
async def test_all_who_wait_are_woken() -> None:
    """Once: who comes later waits for the next time, and who has left is forgotten."""
    bell = Bell()
    bell.ring()
    woken: list[int] = []

    async def wait(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await bell.wait()
            woken.append(number)

    with anyio.fail_after(WAIT):
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                scopes = [anyio.CancelScope() for _ in range(3)]
                for number, scope in enumerate(scopes):
                    tasks.start_soon(wait, number, scope)
                while len(bell._wakes) < 3:
                    await anyio.lowlevel.checkpoint()
                scopes[1].cancel()
                while len(bell._wakes) > 2:
                    await anyio.lowlevel.checkpoint()
                assert woken == []
                bell.ring()
            assert sorted(woken) == [0, 2]
            woken.clear()
    assert bell._wakes == {}


@on_both
async def test_the_others_have_their_turn_while_many_are_woken() -> None:
    """What all those do that waited for the same is not one long turn of the loop; each is woken once."""
    bell = Bell()
    woken: list[int] = []
    seen = [0]

    async def wait(number: int) -> None:
        await bell.wait()
        woken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(MANY):
            tasks.start_soon(wait, number)
        await anyio.wait_all_tasks_blocked()
        bell.ring()
        with anyio.fail_after(WAIT):
            while len(woken) < MANY:
                await anyio.lowlevel.checkpoint()
                seen.append(len(woken))
    assert max(after - before for before, after in pairwise(seen)) <= MANY // 3
    assert sorted(woken) == [*range(MANY)]
