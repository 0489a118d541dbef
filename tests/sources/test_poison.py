"""Items that no stream survives: those behind them are delivered, and they are put aside."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from redis.asyncio import Redis

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import RedisGroupQueue, RedisPlugin, RedisQueue
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.clients import Visit, eventually
from tests.sources.queues import Queue, waiting

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


KINDS = pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
QUICK: dict[Any, dict[str, float]] = {RedisQueue: {"slice": 0.1}, RedisGroupQueue: {"slice": 0.1, "claim_after": 0.2}}


def application(queue: Queue, plugin: RedisPlugin) -> Litestar:
    """Streams items as they are, or by a body that fails on one of them."""

    @get("/", sync_to_thread=False)
    def items(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(queue.items(stream))

    @get("/body", sync_to_thread=False)
    def body(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[Any]:
            async for item in queue.items(stream):
                if b"caf" in getattr(item, "data", item):
                    raise ValueError("not for me")
                yield item

        return SafeServerSentEvent(body())

    return Litestar([items, body], plugins=[SafeSSEPlugin(), plugin])


async def visit_until(app: Litestar, path: str, condition: Callable[[list[str]], Awaitable[bool]]) -> list[str]:
    """Comes back whenever its stream has failed, until a condition of what it has received holds."""
    received: list[str] = []
    with anyio.fail_after(WAIT):
        while not await condition(received):
            visit = Visit(app, path).start()
            await eventually(partial(_is_over, visit, received, condition))
            await visit.leave_and_end()
            received += visit.data
    return received


async def _is_over(visit: Visit, received: list[str], condition: Callable[[list[str]], Awaitable[bool]]) -> bool:
    assert visit.task is not None
    return visit.task.done() or await condition(received + visit.data)


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Has what is logged while an application runs captured."""
    logger = logging.getLogger("litestar_safe_sse")
    logger.addHandler(caplog.handler)  # Litestar has put handlers of its own in the place of the root's
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


@KINDS
@pytest.mark.parametrize("path", ["/", "/body"])
async def test_an_item_that_no_stream_survives_is_put_aside(
    kind: Any, path: str, plugin: RedisPlugin, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """After ``max_deliveries``, under the name that was configured; and those behind it are delivered before that."""
    queue = kind(plugin, "jobs", settle=0, max_deliveries=3, dead_key="{sse}:poison", **QUICK[kind])
    await queue.push(b"caf\xe9", b"good 1", b"good 2")

    async def is_put_aside(received: list[str]) -> bool:
        return len(received) >= 2 and bool(await redis.xlen("{sse}:poison"))

    app = application(queue, plugin)
    async with app.lifespan():
        with logged(caplog):
            received = await visit_until(app, path, is_put_aside)
    assert received == ["good 1", "good 2"]
    ((_, letter),) = await redis.xrange("{sse}:poison")  # type: ignore[misc]
    assert letter[b"data"] == b"caf\xe9"  # type: ignore[index]
    assert letter[b"deliveries"] == b"3"  # type: ignore[index]
    assert await waiting(queue, redis) == []
    assert caplog.text.count("delivered 3 times in vain, and is kept in '{sse}:poison'") == 1


@KINDS
@pytest.mark.parametrize("why", ["another type", "no permission"])
async def test_an_item_that_can_t_be_put_aside_is_not_lost(
    kind: Any, why: str, redis_server: RedisServer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis refuses its dead letter: it stays in the queue, which goes on, and is put aside once it is let."""
    await redis.acl_setuser("limited", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["{sse}:*"])
    plugin = RedisPlugin(redis_server.url, username="limited", password="secret")
    queue = kind(plugin, "jobs", settle=0, max_deliveries=1, dead_key="{sse}:dead", **QUICK[kind])
    if why == "another type":
        await redis.rpush("{sse}:dead", "somebody else's")
    else:
        await redis.acl_setuser("limited", enabled=True, keys=["{sse}:queue:*", "{sse}:group:*"], reset_keys=True)
    await queue.push(b"caf\xe9", b"good")

    async def is_refused(received: list[str]) -> bool:
        return received == ["good"] and caplog.text.count("can't be kept in '{sse}:dead'") > 1

    async def is_put_aside(received: list[str]) -> bool:
        return await redis.type("{sse}:dead") == b"stream" and await _is_left(queue, redis, 0)

    app = application(queue, plugin)
    async with app.lifespan():
        with logged(caplog):
            await visit_until(app, "/", is_refused)
            assert "is kept in" not in caplog.text
            await eventually(lambda: _is_left(queue, redis, 1))
            await redis.delete("{sse}:dead")
            await redis.acl_setuser("limited", enabled=True, keys=["{sse}:*"])
            assert await visit_until(app, "/", is_put_aside) == []
    ((_, letter),) = await redis.xrange("{sse}:dead")  # type: ignore[misc]
    assert letter[b"data"] == b"caf\xe9"  # type: ignore[index]
    assert caplog.text.count("is kept in '{sse}:dead'") == 1
    await redis.acl_deluser("limited")


@KINDS
async def test_without_a_limit_those_behind_are_delivered(kind: Any, plugin: RedisPlugin, redis: Redis) -> None:
    """The item comes again, behind them."""
    queue = kind(plugin, "jobs", settle=0, max_deliveries=None, **QUICK[kind])
    await queue.push(b"caf\xe9", *(b"good %d" % number for number in range(5)))

    async def all_came(received: list[str]) -> bool:
        return len(received) == 5

    app = application(queue, plugin)
    async with app.lifespan():
        await visit_until(app, "/", all_came)
        await eventually(lambda: _is_left(queue, redis, 1))


async def _is_left(queue: Queue, redis: Redis, count: int) -> bool:
    if isinstance(queue, RedisQueue):
        return await redis.llen(queue.key) == count
    return await redis.xlen(queue.key) == count


async def test_a_list_has_a_limit_of_its_own(plugin: RedisPlugin, redis: Redis) -> None:
    """As there is nobody else who counts; who has seen the item is not asked twice for ever."""
    queue = RedisQueue(plugin, "jobs", settle=0)
    await queue.push(b"\xff")

    async def is_put_aside(received: list[str]) -> bool:
        return bool(await redis.xlen(queue.dead_key))

    app = application(queue, plugin)
    async with app.lifespan():
        assert await visit_until(app, "/", is_put_aside) == []
    ((_, letter),) = await redis.xrange(queue.dead_key)  # type: ignore[misc]
    assert letter[b"deliveries"] == b"5"  # type: ignore[index]
    assert await redis.hlen("{sse}:queue:jobs:failures") == 1
    assert await redis.pttl("{sse}:queue:jobs:failures") > 0


@pytest.mark.parametrize("ghosts", [0, 1, 200, 1500])
async def test_entries_that_were_trimmed_delay_nothing(ghosts: int, plugin: RedisPlugin, redis: Redis) -> None:
    """A producer trims what a worker held that was killed: what is left of it is delivered in one go."""
    queue = RedisGroupQueue(plugin, "jobs", settle=0, slice=0.3, claim_after=0.3)
    await redis.xgroup_create(queue.key, queue.group, "0", mkstream=True)
    for start in range(0, ghosts + 10, 500):
        await queue.push(*(str(number) for number in range(start, min(start + 500, ghosts + 10))))
    await redis.xreadgroup(queue.group, "dead", {queue.key: ">"}, count=9999)
    await redis.xtrim(queue.key, maxlen=10, approximate=False)
    app = application(queue, plugin)
    async with app.lifespan():
        visit = Visit(app).start()
        await visit.until(lambda: len(visit.data) == 10)
        await eventually(lambda: _is_left(queue, redis, 0))
        pending = await redis.xpending(queue.key, queue.group)
        await visit.leave_and_end()
    assert visit.data == [str(number) for number in range(ghosts, ghosts + 10)]
    assert pending["pending"] == 0


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (RedisQueue, {"max_deliveries": 0}, "max_deliveries"),
        (RedisQueue, {"dead_key": ""}, "dead_key"),
        (RedisQueue, {"max_dead": 0}, "max_dead"),
        (RedisGroupQueue, {"dead_key": ""}, "dead_key"),
        (RedisGroupQueue, {"slice": 5.0, "claim_after": 2.0}, "slice"),
    ],
)
def test_settings_are_checked(kind: Any, settings: dict[str, Any], field: str) -> None:
    """A process that waits for longer than its items take to look abandoned would lose them to others."""
    with pytest.raises(InvalidFieldError) as caught:
        kind("redis://localhost", "jobs", **settings)
    assert caught.value.field == field


def test_a_list_is_told_which_stream_sends_its_items() -> None:
    """A body that forgot it would lose the item it has in hand, without a word."""
    with pytest.raises(TypeError, match="stream"):
        RedisQueue("redis://localhost", "jobs").items()  # type: ignore[call-arg]
