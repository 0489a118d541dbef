"""The mailbox between a source and one of its subscribers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import anyio
import pytest

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import MemoryEventLog, RedisEventLog, RedisPlugin, RedisPubSub
from litestar_safe_sse.sources._subscription import Subscription, make_mailbox
from tests.bounds import WAIT
from tests.loops import ASYNCIO, TRIO
from tests.sources.clients import eventually


def emptied(mailbox: object) -> list[object]:
    found = []
    while (message := mailbox.take()) is not None:  # type: ignore[attr-defined]
        found.append(message.data)
    return found


def test_close_keeps_what_is_in_it() -> None:
    """The message that found no room is the first that is missing, and nothing comes after it."""
    mailbox = make_mailbox(2, "close")
    for number in range(4):
        mailbox.put("t", SSEMessage(number))
    assert mailbox.ended
    assert emptied(mailbox) == [0, 1]
    mailbox.put("t", SSEMessage("late"))
    assert emptied(mailbox) == []


def test_drop_oldest_says_how_many() -> None:
    """Once for each time that some are missing."""
    mailbox = make_mailbox(2, "drop_oldest")
    for number in range(5):
        mailbox.put("t", SSEMessage(number))
    assert emptied(mailbox) == [{"dropped": 3}, 3, 4]
    mailbox.put("t", SSEMessage(5))
    assert emptied(mailbox) == [5]


def test_latest_keeps_one_of_each_key() -> None:
    """Where the newest came, not where the oldest was."""
    mailbox = make_mailbox(2, "latest")
    for topic, number in (("a", 1), ("b", 2), ("a", 3)):
        mailbox.put(topic, SSEMessage(number))
    assert len(mailbox) == 2
    assert emptied(mailbox) == [2, 3]


@pytest.mark.parametrize("overflow", ["close", "drop_oldest", "latest"])
def test_nothing_is_accepted_after_the_end(overflow: str) -> None:
    """And the first end stays."""
    mailbox = make_mailbox(2, overflow)  # type: ignore[arg-type]
    mailbox.put("t", SSEMessage(1))
    error = ValueError()
    mailbox.end(error)
    mailbox.end(None, lost=True)
    mailbox.put("t", SSEMessage(2))
    assert (mailbox.error, mailbox.lost) == (error, False)
    assert emptied(mailbox) == [1]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"overflow": "x"}, {"key": hash, "overflow": "close"}], ids=str)
def test_wrong_arguments(wrong: dict[str, object]) -> None:
    """Are refused."""
    with pytest.raises(InvalidFieldError):
        make_mailbox(**{"limit": 1, "overflow": "latest", **wrong})  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_the_one_who_waits_is_woken() -> None:
    """By a message, and by the end."""
    mailbox = make_mailbox(2, "close")
    with anyio.fail_after(WAIT):
        wakes: list[Callable[[], object]] = [lambda: mailbox.put("t", SSEMessage(1)), mailbox.end]
        for wake in wakes:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mailbox.wait)
                await anyio.lowlevel.checkpoint()
                wake()
            emptied(mailbox)


async def collected_in_a_thread(subscription: Subscription, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a subscription go that is in a cycle, and has another thread collect it."""
    released: list[int] = []
    kind = type(subscription)
    release = kind._release

    def note(self: Subscription) -> None:
        released.append(threading.get_ident())
        release(self)

    monkeypatch.setattr(kind, "_release", note)
    gc.disable()
    try:
        cell: list[object] = [subscription]
        cell.append(cell)
        del subscription, cell
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    finally:
        gc.enable()
    await eventually(lambda: released)
    assert released == [threading.get_ident()]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [ASYNCIO, TRIO])
async def test_what_another_thread_collects_is_let_go_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it holds is safe to be touched from there."""
    log = MemoryEventLog()

    async def begun() -> Subscription:
        subscription = log.subscribe("a")
        await anext(subscription)
        return subscription

    with anyio.fail_after(WAIT):
        await collected_in_a_thread(await begun(), monkeypatch)
    assert log.statistics().subscribers == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [ASYNCIO])
@pytest.mark.parametrize("kind", ["log", "Pub/Sub", "presence"])
async def test_what_is_shared_with_redis_is_let_go_by_the_event_loop(
    plugin: RedisPlugin, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """So that Redis is told, and those who wait are woken."""
    source = RedisPubSub(plugin) if kind == "Pub/Sub" else RedisEventLog(plugin, presence=lambda _: None)

    async def begun() -> Subscription:
        if isinstance(source, RedisPubSub):
            return await source.subscribe("a").__aenter__()
        subscription = source.subscribe("a", member="ann")
        if kind == "presence":
            return await subscription.__aenter__()
        await anext(subscription)
        return subscription

    with anyio.fail_after(WAIT):
        await collected_in_a_thread(await begun(), monkeypatch)
    assert source.statistics().subscribers == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_collected_after_its_event_loop_is_let_go_at_once(backend: str) -> None:
    """In whatever thread."""
    log = MemoryEventLog()
    kept: list[Subscription] = []

    async def begin() -> None:
        kept.append(log.subscribe("a"))
        await anext(kept[0])

    anyio.run(begin, backend=backend)
    assert log._fan_out().topics
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert not log._fan_out().topics
