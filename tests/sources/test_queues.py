"""Queues in Redis: one item, one client; none lost to a client that leaves."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from litestar_safe_sse import Frame, SafeSSEPlugin
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import RedisPubSub
from litestar_safe_sse.sources.redis.queue import RedisQueue
from tests.bounds import WAIT
from tests.redis_server import RedisServer
from tests.sources.clients import Visit, connections, eventually, has_at_most
from tests.sources.queues import Queue, is_empty, serving, waiting

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[RedisQueue, RedisGroupQueue])
def queue(request: pytest.FixtureRequest, plugin: RedisPlugin) -> Queue:
    return request.param(plugin, "jobs", settle=0.2, slice=0.5)


async def test_items_come_in_order_and_are_gone_when_delivered(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """The content of a response, or a body of one's own: what was pushed is streamed once."""
    queue = type(queue)(plugin, "at once", settle=0)
    await queue.push("a", b"b", {"c": 1})
    async with serving(queue, plugin) as app:
        for path, first in (("/", 0), ("/body", 1)):
            visit = Visit(app, path).start()
            if first:
                await queue.push("a", "b", '{"c":1}')
            await visit.until_data("a", "b", '{"c":1}')
            await eventually(lambda: is_empty(queue, redis))
            await visit.leave_and_end()
    assert await waiting(queue, redis) == []


@pytest.mark.parametrize("item", [Frame("data: x\n\n"), "\ud800", object()], ids=["frame", "surrogate", "object"])
async def test_what_cannot_be_an_item_is_refused_with_all_others(queue: Queue, redis: Redis, item: Any) -> None:
    """A Frame holds whole events, and would be JSON of its bytes. Pub/Sub refuses the same."""
    with pytest.raises(InvalidFieldError, match="invalid item: must "):
        await queue.push("fine", item)
    assert await waiting(queue, redis) == []
    with pytest.raises(InvalidFieldError, match="invalid message: must "):
        await RedisPubSub("redis://localhost").publish("a", item)


async def test_each_item_goes_to_one_of_those_who_wait(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """Streams take turns, in the order in which they began to wait."""
    async with serving(queue, plugin) as app:
        visits = [Visit(app).start() for _ in range(4)]
        dispenser = queue._popper if isinstance(queue, RedisQueue) else queue._reader
        await eventually(lambda: dispenser()._wanted() == 4)
        for number in range(8):
            await queue.push(str(number))
            await visits[number % 4].until(lambda: str(number) in visits[number % 4].data)  # noqa: B023
        assert [visit.data for visit in visits] == [[str(n), str(n + 4)] for n in range(4)]
        for visit in visits:
            await visit.leave_and_end()


async def test_an_item_not_yet_handed_over_goes_back(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """A client that leaves while its item is worked on leaves the item to the next one, at the head of the queue."""
    await queue.push("1", "2", "3")
    async with serving(queue, plugin) as app:
        visit = Visit(app, "/slow").start()
        await visit.until_data("working")
        await visit.leave_and_end()
        assert await waiting(queue, redis) == ["1", "2", "3"]
        visit = Visit(app).start()
        await visit.until_data("1", "2", "3")
        if isinstance(queue, RedisGroupQueue):
            await eventually(lambda: is_empty(queue, redis))
        await visit.leave_and_end()


async def test_what_a_client_does_not_read_goes_back(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """An item that waits for a client which stopped reading is nobody's yet."""
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        visit.reads = False
        await queue.push("1", "2")
        await eventually(lambda: _in_hand(visit, queue))
        await visit.leave_and_end()
        assert await waiting(queue, redis) == ["1", "2"]


def _in_hand(visit: Visit, queue: Queue) -> bool:
    app = visit.app
    streams = next(plugin for plugin in app.plugins if isinstance(plugin, SafeSSEPlugin)).streams
    return any(stream.statistics().events for stream in streams)


async def test_several_in_doubt_go_back_in_order(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """What was handed over within ``settle`` seconds goes back too, and the queue's order is as it was."""
    await queue.push(*map(str, range(6)))
    async with serving(queue, plugin) as app:
        visit = Visit(app, on_event=lambda visit, data: visit.leave() if data == "3" else None).start()
        await visit.ended()
        assert await waiting(queue, redis) == [str(n) for n in range(6)]
        again = Visit(app).start()
        await again.until_data(*map(str, range(6)))
        await again.leave_and_end()


async def test_what_was_delivered_long_enough_ago_stays_delivered(
    queue: Queue, plugin: RedisPlugin, redis: Redis
) -> None:
    """An item that has settled does not come again."""
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await queue.push("1")
        await visit.until_data("1")
        await asyncio.sleep(0.3)  # more than `settle`: time is what settles it
        await visit.leave_and_end()
        assert await waiting(queue, redis) == []


async def test_at_shutdown_what_was_yielded_is_delivered(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """A shutdown is not a client that leaves: nothing that it has been sent goes back."""
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await queue.push("1")
        await visit.until_data("1")
    await visit.ended()
    assert await waiting(queue, redis) == []
    assert visit.data == ["1"]


async def test_at_shutdown_what_is_in_hand_goes_back(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """An item that was not yielded is in Redis when the application has shut down, before the client is closed."""
    await queue.push("1")
    async with serving(queue, plugin, shutdown_grace=0) as app:
        visit = Visit(app, "/slow").start()
        await visit.until_data("working")
    await visit.ended()
    assert await waiting(queue, redis) == ["1"]


async def test_cancelling_a_wait_loses_nothing(plugin: RedisPlugin, redis: Redis) -> None:
    """Cancelled at any moment around the arrival of its item, a wait either has it or leaves it in the queue."""
    queue = RedisQueue(plugin, "jobs", slice=0.05)
    got: list[bytes] = []
    items = queue.items(None)
    with anyio.fail_after(WAIT):
        for number in range(150):
            wait = asyncio.ensure_future(anext(items))
            push = asyncio.ensure_future(queue.push(str(number)))
            for _ in range(number % 30):
                await asyncio.sleep(0)
            wait.cancel()
            await push
            with suppress(asyncio.CancelledError):
                got.append(await wait)
        await eventually(lambda: _all_there(queue, redis, got, 150))
    assert got, "no wait got its item"
    assert len(got) < 150, "every wait got its item"


async def _all_there(queue: Queue, redis: Redis, got: list[bytes], count: int) -> bool:
    everything = [*(item.decode() for item in got), *await waiting(queue, redis)]
    return sorted(everything, key=int) == [str(n) for n in range(count)]


async def test_nothing_is_popped_for_nobody(plugin: RedisPlugin, redis: Redis) -> None:
    """An item that comes when the last one who waited has gone is back in the list, and the connection is let go."""
    queue = RedisQueue(plugin, "jobs", slice=0.1)
    with anyio.move_on_after(0.02):
        await anext(queue.items(None))
    await queue.push("1")
    await eventually(lambda: _is_let_go(plugin))
    assert await waiting(queue, redis) == ["1"]

    async def nobody_pops() -> bool:
        commands = {client["cmd"] for client in await redis.client_list()}
        return commands <= {"client|list", "client", "rpush", "lpush", "client|id"}

    await eventually(nobody_pops)


def _is_let_go(plugin: RedisPlugin) -> bool:
    return not plugin.loop_state().shared


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
async def test_two_thousand_streams_share_two_connections(kind: Any, plugin: RedisPlugin, redis: Redis) -> None:
    """One connection waits for all, and one sends the rest; also when all leave at once."""
    queue = kind(plugin, "jobs", slice=0.5, settle=60)
    await queue.push("first")
    async with serving(queue, plugin) as app:
        visits = [Visit(app).start() for _ in range(2000)]
        dispenser = queue._popper if kind is RedisQueue else queue._reader
        await eventually(lambda: dispenser()._wanted() >= 1999)
        await queue.push(*map(str, range(1999)))
        await eventually(lambda: sum(len(visit.data) for visit in visits) == 2000)
        await eventually(lambda: has_at_most(redis, 3))
        for visit in visits:
            visit.leave()
        assert await connections(redis) <= 3
        for visit in visits:
            await visit.ended()
        await eventually(lambda: has_at_most(redis, 3))
    assert len(await waiting(queue, redis)) == 2000


@pytest.mark.parametrize("how", ["killed", "stopped", "paused"])
@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
async def test_while_redis_is_away_streams_wait(kind: Any, how: str, own_redis: RedisServer) -> None:
    """Streams stay open through an outage, and what was in the queue then comes."""
    plugin = RedisPlugin(own_redis.url)
    queue = kind(plugin, "jobs", slice=0.2, settle=0.05)
    async with serving(queue, plugin) as app:
        visits = [Visit(app).start() for _ in range(3)]
        await queue.push("1")
        await eventually(lambda: sum(len(visit.data) for visit in visits) == 1)
        if how == "paused":
            own_redis.pause()
            await asyncio.sleep(0.5)  # longer than a slice: the outage has to last
            own_redis.resume()
        else:
            (own_redis.kill if how == "killed" else own_redis.stop)()
            with pytest.raises(SourceUnavailableError):
                await queue.push("2")
            await asyncio.sleep(0.2)  # as above
            own_redis.start_again()
        await queue.push("3", "4")
        await eventually(lambda: sorted(data for visit in visits for data in visit.data) == ["1", "3", "4"])
        assert not any(visit.task.done() for visit in visits if visit.task)


@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
async def test_an_item_in_doubt_survives_an_outage(kind: Any, own_redis: RedisServer) -> None:
    """A client that leaves while Redis is away: its item is given back when Redis is."""
    plugin = RedisPlugin(own_redis.url)
    queue = (
        kind(plugin, "jobs", slice=0.2, settle=0.05, claim_after=1.0)
        if kind is RedisGroupQueue
        else kind(plugin, "jobs", slice=0.2, settle=0.05)
    )
    async with serving(queue, plugin, cleanup_timeout=0.3) as app:
        await queue.push("1")
        visit = Visit(app, "/slow").start()
        await visit.until_data("working")
        own_redis.kill()
        await visit.leave_and_end()
        own_redis.start_again()
        again = Visit(app).start()
        await again.until_data("1")


async def test_a_key_of_another_type_is_a_typed_error(queue: Queue, plugin: RedisPlugin, redis: Redis) -> None:
    """To push and to wait say what is wrong, and nothing hangs."""
    await redis.set(queue.key, "text")
    with pytest.raises(SourceRefusedError, match="WRONGTYPE"):
        await queue.push("1")
    async with serving(queue, plugin) as app:
        visit = Visit(app).start()
        await visit.ended()
        failure: BaseException | None = visit.failure
        while failure is not None and not isinstance(failure, SourceRefusedError):
            failure = failure.__cause__
        assert failure is not None


async def test_a_missing_permission_is_a_typed_error(redis_url: str, redis: Redis) -> None:
    """An account that may not touch the key is told so."""
    await redis.acl_setuser("guest", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["other:*"])
    try:
        plugin = RedisPlugin(redis_url, username="guest", password="secret")
        queue = RedisQueue(plugin, "jobs")
        with pytest.raises(SourceRefusedError, match="NoPermission"):
            await queue.push("1")
        with pytest.raises(SourceRefusedError, match="NoPermission"), anyio.fail_after(WAIT):
            await anext(queue.items(None))
        await plugin.aclose()
        wrong = RedisPlugin(redis_url, username="guest", password="wrong")
        with pytest.raises(SourceRefusedError, match="password"):
            await RedisQueue(wrong, "jobs").push("1")
        await wrong.aclose()
    finally:
        await redis.acl_deluser("guest")


@pytest.mark.parametrize(
    ("kind", "denied", "path", "said"),
    [
        (RedisQueue, "-lpush", "/slow", "items of '{sse}:queue:jobs' may be lost: "),
        (RedisGroupQueue, "-xack", "/", "items of '{sse}:group:jobs' could not be acknowledged"),
    ],
)
async def test_items_that_can_not_be_settled_are_told_of(
    kind: Any, denied: str, path: str, said: str, redis_url: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """By the name of their key in Redis; those of a group are not lost."""
    await redis.acl_setuser(
        "guest", enabled=True, passwords=["+secret"], commands=["+@all", denied], keys=["*"], reset_channels=True
    )
    plugin = RedisPlugin(redis_url, username="guest", password="secret")
    queue = kind(plugin, "jobs", slice=0.1, settle=0)
    logger = logging.getLogger("litestar_safe_sse")
    try:
        async with serving(queue, plugin) as app:
            logger.addHandler(caplog.handler)  # Litestar has put handlers of its own in the place of the root's
            await queue.push("1")
            visit = Visit(app, path).start()
            await visit.until(lambda: visit.data)
            if path == "/slow":
                visit.leave()
            await eventually(lambda: said in caplog.text)
            await visit.leave_and_end()
        assert ("may be lost" in caplog.text) is (kind is RedisQueue)
    finally:
        logger.removeHandler(caplog.handler)
        await redis.acl_deluser("guest")


async def test_one_iterator_serves_one_stream(plugin: RedisPlugin) -> None:
    """Two who wait at one iterator are a mistake, and told so."""
    items = RedisQueue(plugin, "jobs", slice=0.1).items(None)
    wait = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="waited for already"):
        await anext(items)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (RedisQueue, {}),
        (RedisQueue, {"name": ""}),
        (RedisQueue, {"name": "a", "key": "b"}),
        (RedisQueue, {"name": "a", "slice": 0}),
        (RedisQueue, {"name": "a", "settle": -1}),
        (RedisQueue, {"name": "a", "expire": 0}),
        (RedisGroupQueue, {"name": "a", "claim_after": 0}),
        (RedisGroupQueue, {"name": "a", "max_deliveries": 0}),
        (RedisGroupQueue, {"name": "a", "group": ""}),
    ],
)
def test_arguments_are_checked(kind: Any, arguments: dict[str, Any]) -> None:
    """What won't do is refused when a queue is made."""
    with pytest.raises(InvalidFieldError):
        kind("redis://localhost", **arguments)


@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
def test_what_is_no_stream_is_refused(kind: Any) -> None:
    """When the items are asked for, and not in the middle of a stream."""
    with pytest.raises(InvalidFieldError, match="invalid stream: must be a StreamContext, not str"):
        kind("redis://localhost", "jobs").items("the stream")


def test_a_group_has_to_be_told_which_stream_sends_its_items() -> None:
    """An item is acknowledged when that has sent it, and there is nothing that has outside of a stream."""
    with pytest.raises(InvalidFieldError, match="invalid stream: must be a StreamContext, not None"):
        RedisGroupQueue("redis://localhost", "jobs").items(None)  # type: ignore[arg-type]


async def test_a_queue_can_expire(redis_url: str, redis: Redis) -> None:
    """Each push puts the end off."""
    plugin = RedisPlugin(redis_url)
    for kind in (RedisQueue, RedisGroupQueue):
        queue = kind(plugin, "short", expire=60)
        await queue.push("1")
        assert 0 < await redis.pttl(queue.key) <= 60_000
        assert await queue.length() == 1
    await plugin.aclose()


# The acknowledged queue
