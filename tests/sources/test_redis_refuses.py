"""A Redis that says no for a while: streams wait, items wait, and those who ask are told at once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import BlockingConnectionPool
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import (
    RedisEventLog,
    RedisGroupQueue,
    RedisPlugin,
    RedisPubSub,
    RedisQueue,
    SyncRedisEventLog,
)
from litestar_safe_sse.sources.redis._errors import translate
from tests.bounds import NEVER, WAIT
from tests.redis_server import RedisServer, running_redis
from tests.sources.clients import Visit, eventually
from tests.sources.proxies import running_proxy
from tests.sources.queues import serving
from tests.sources.subscriptions import begin, data, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
async def plugin(own_redis: RedisServer) -> AsyncIterator[RedisPlugin]:
    plugin = RedisPlugin(own_redis.url)
    yield plugin
    await plugin.aclose()


@asynccontextmanager
async def refusing(how: str, server: RedisServer) -> AsyncIterator[None]:
    """Has a server refuse to write, for the length of a block."""
    async with Redis.from_url(server.url) as admin:
        if how == "full":
            begin, end = {"maxmemory": "1"}, {"maxmemory": "0"}
        elif how == "without replicas":
            begin, end = {"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}
        else:
            begin, end = {"save": "1 1"}, {"save": ""}
        for name, value in begin.items():
            await admin.config_set(name, value)
        if how == "without a disk":
            await admin.set("x", "1")
            shutil.rmtree(server.directory)
            await admin.bgsave()
            await eventually(lambda: _has_failed_to_save(admin))
        try:
            yield
        finally:
            for name, value in end.items():
                await admin.config_set(name, value)


async def _has_failed_to_save(admin: Redis) -> bool:
    return bool((await admin.info("persistence"))["rdb_last_bgsave_status"] == "err")


REFUSING = pytest.mark.parametrize("how", ["full", "without replicas", "without a disk"])


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:  # without an append-only file
        yield server


@REFUSING
@pytest.mark.parametrize("kind", [RedisQueue, RedisGroupQueue])
async def test_items_that_are_to_go_back_wait_until_redis_takes_them(
    how: str, kind: Any, own_redis: RedisServer, plugin: RedisPlugin
) -> None:
    """A client leaves within ``settle`` while Redis refuses: none of its items is lost."""
    queue = kind(plugin, "jobs", settle=30)
    items = [str(number) for number in range(20)]
    async with serving(queue, plugin, cleanup_timeout=0.1) as app:
        visit = Visit(app).start()
        await queue.push(*items)
        await visit.until_data(*items)
        async with refusing(how, own_redis):
            with pytest.raises(SourceUnavailableError):
                await queue.push("refused")
            await visit.leave_and_end()
        again = Visit(app).start()
        await again.until(lambda: sorted(again.data, key=int) == items)
        await again.leave_and_end()


@REFUSING
async def test_streams_stay_open_while_redis_refuses_to_write(
    how: str, own_redis: RedisServer, plugin: RedisPlugin
) -> None:
    """Those that read go on, those that wait for items wait, and to append fails at once."""
    log, queue, group = RedisEventLog(plugin), RedisQueue(plugin, "jobs"), RedisGroupQueue(plugin, "jobs")
    await log.append("news", "one")
    async with serving(queue, plugin) as lists, serving(group, plugin) as groups, log.subscribe("news") as live:
        await begin(live)
        visits = [Visit(lists).start(), Visit(groups).start()]
        await eventually(lambda: queue._popper()._wanted() == 1)
        await eventually(lambda: group._reader()._wanted() == 1)
        async with refusing(how, own_redis):
            with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError, match="at the moment"):
                await log.append("news", "refused")
            async with log.subscribe("news", start="oldest") as late:
                assert data(await take(late, 1)) == ["one"]
            assert not any(visit.task.done() for visit in visits if visit.task)
        await log.append("news", "two")
        assert data(await take(live, 1)) == ["two"]
        await queue.push("a")
        await group.push("b")
        for visit, item in zip(visits, "ab", strict=True):
            await visit.until_data(item)
            await visit.leave_and_end()


@REFUSING
async def test_a_transaction_that_is_discarded_may_be_tried_again(how: str, own_redis: RedisServer) -> None:
    """Redis refuses only ``EXEC``, since what was queued was taken still."""
    async with Redis.from_url(own_redis.url, single_connection_client=True) as client:
        await client.execute_command("MULTI")
        await client.execute_command("RPUSH", "a", "b")
        async with refusing(how, own_redis):
            with pytest.raises(ResponseError) as refused:
                await client.execute_command("EXEC")
    assert isinstance(translate(refused.value), SourceUnavailableError)


async def test_what_is_acknowledged_makes_room(own_redis: RedisServer, plugin: RedisPlugin) -> None:
    """A Redis that is full takes acknowledgements, or it would stay full."""
    queue = RedisGroupQueue(plugin, "jobs", settle=0)
    async with serving(queue, plugin) as app, Redis.from_url(own_redis.url) as admin:
        visit = Visit(app).start()
        visit.reads = False
        await queue.push("1")
        await eventually(lambda: _is_delivered(admin, queue))
        async with refusing("full", own_redis):
            visit.read_again()
            await eventually(lambda: _is_empty(admin, queue))
        await visit.leave_and_end()


async def _is_delivered(admin: Redis, queue: RedisGroupQueue) -> bool:
    return bool((await admin.xpending(queue.key, queue.group))["pending"])


async def _is_empty(admin: Redis, queue: RedisGroupQueue) -> bool:
    return await admin.xlen(queue.key) == 0


async def test_a_cluster_that_is_down_is_waited_for(tmp_path: Path) -> None:
    """As every node is while another master fails over; streams of all kinds go on when it is up."""
    with running_redis(tmp_path, "--cluster-enabled", "yes") as server:
        async with Redis.from_url(server.url) as admin:
            await admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            await eventually(lambda: _says(admin, "cluster_state:ok"))
            plugin = RedisPlugin(server.url)
            log, queue, group = RedisEventLog(plugin), RedisQueue(plugin, "l"), RedisGroupQueue(plugin, "g")
            async with serving(queue, plugin) as lists, serving(group, plugin) as groups, log.subscribe("t") as live:
                await begin(live)
                visits = [Visit(lists).start(), Visit(groups).start()]
                await admin.execute_command("CLUSTER", "DELSLOTS", "1")
                await eventually(lambda: _says(admin, "cluster_state:fail"))
                with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
                    await log.append("t", "refused")
                late = asyncio.ensure_future(take(log.subscribe("t", start="oldest"), 1))
                await asyncio.sleep(0.3)  # some attempts
                assert not late.done()
                await admin.execute_command("CLUSTER", "ADDSLOTS", "1")
                await eventually(lambda: _says(admin, "cluster_state:ok"))
                await log.append("t", "one")
                assert data(await late) == data(await take(live, 1)) == ["one"]
                await queue.push("a")
                await group.push("b")
                for visit, item in zip(visits, "ab", strict=True):
                    await visit.until_data(item)
                    await visit.leave_and_end()


async def _says(admin: Redis, text: str) -> bool:
    return text in str(await admin.execute_command("CLUSTER", "INFO"))


@pytest.mark.parametrize("cluster", ["no", "yes"])
async def test_a_redis_that_has_no_room_for_a_client_is_waited_for(cluster: str, tmp_path: Path) -> None:
    """Also by an account with a password, which is the first that it is told; a node of a cluster has other words."""
    with running_redis(tmp_path, "--cluster-enabled", cluster) as server:
        async with Redis.from_url(server.url, single_connection_client=True) as admin:
            if cluster == "yes":
                await admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
                await eventually(lambda: _says(admin, "cluster_state:ok"))
            await admin.config_set("requirepass", "secret")
            await admin.config_set("maxclients", 1)
            plugin = RedisPlugin(server.url, password="secret")
            log = RedisEventLog(plugin)
            with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
                await log.append("a", "refused")
            live = log.subscribe("a", start="oldest")
            first = asyncio.ensure_future(take(live, 1))
            await eventually(lambda: _has_refused(admin, 3))
            assert not first.done()
            await admin.config_set("maxclients", 100)
            await _append_until_taken(log, "a", "one")
            assert data(await first) == ["one"]
            await live.aclose()
            await plugin.aclose()


async def _has_refused(admin: Redis, times: int) -> bool:
    return bool((await admin.info("stats"))["rejected_connections"] >= times)


async def _append_until_taken(log: RedisEventLog, topic: str, message: str) -> None:
    with anyio.fail_after(WAIT):
        while True:
            try:
                await log.append(topic, message)
            except SourceUnavailableError:
                continue
            return


async def test_each_reply_answers_its_own_call(own_redis: RedisServer, plugin: RedisPlugin) -> None:
    """A message that was delivered is not reported as failed since another call was refused at the same time."""
    log, pubsub, queue = RedisEventLog(plugin), RedisPubSub(plugin), RedisQueue(plugin, "jobs")
    await plugin.execute("PING")
    async with refusing("without replicas", own_redis), Redis.from_url(own_redis.url) as admin:
        before = (await admin.info("stats"))["total_connections_received"]
        for _ in range(5):
            outcomes = await asyncio.gather(
                log.append("a", "1"), pubsub.publish("b", "hello"), queue.length(), return_exceptions=True
            )
            assert isinstance(outcomes[0], SourceUnavailableError)
            assert [*outcomes[1:]] == [0, 0]
        assert (await admin.info("stats"))["total_connections_received"] == before


async def test_a_fail_over_behind_one_address_is_followed(tmp_path: Path) -> None:
    """The old primary is a replica now, and its connections stay: whoever subscribes or appends gets to the new one."""
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        running_redis(tmp_path / "a") as first,
        running_redis(tmp_path / "b", "--replicaof", "127.0.0.1", str(first.port)) as second,
    ):
        primary = first

        async with running_proxy(lambda: primary.port) as proxy:
            plugin = RedisPlugin(proxy.url)
            log = RedisEventLog(plugin)
            async with Redis.from_url(first.url) as old, Redis.from_url(second.url) as new, log.subscribe("a") as live:
                await begin(live)
                await log.append("a", "one")
                assert data(await take(live, 1)) == ["one"]
                await eventually(lambda: _is_in_sync(old))
                await new.replicaof("NO", "ONE")
                await old.replicaof("127.0.0.1", second.port)
                primary = second
                async with log.subscribe("a", start="oldest") as late:
                    assert data(await take(late, 1)) == ["one"]
                    await _append_until_taken(log, "a", "two")
                    assert data(await take(late, 1)) == data(await take(live, 1)) == ["two"]
                ((_, fields),) = await new.xrevrange("{sse}:log:a", count=1)  # type: ignore[misc]
                assert fields[b"data"] == b"two"  # type: ignore[index]
            await plugin.aclose()


def _blocking(url: str) -> SyncRedis:
    return SyncRedis(connection_pool=BlockingConnectionPool.from_url(url))


@pytest.mark.parametrize(
    "make",
    [str, SyncRedis.from_url, _blocking, partial(SyncRedis.from_url, single_connection_client=True)],
    ids=["url", "client", "blocking pool", "single connection"],
)
async def test_a_fail_over_is_followed_without_a_loop(make: Callable[[str], Any], tmp_path: Path) -> None:
    """One call finds out, however many connections there are; one that is in use is left to who uses it."""
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        running_redis(tmp_path / "a", "--repl-diskless-sync-delay", "0") as first,
        running_redis(tmp_path / "b", "--replicaof", "127.0.0.1", str(first.port)) as second,
    ):
        primary = first
        async with running_proxy(lambda: primary.port) as proxy:
            handed_in = await asyncio.to_thread(make, f"{proxy.url}?health_check_interval={round(NEVER)}")
            log = SyncRedisEventLog(handed_in)
            await asyncio.to_thread(_open, log._client, 3)
            await asyncio.to_thread(log.append, "a", "one")
            busy = await asyncio.to_thread(log._client.client)
            async with Redis.from_url(first.url) as old, Redis.from_url(second.url) as new:
                await eventually(lambda: _is_in_sync(old))
                await new.replicaof("NO", "ONE")
                await old.replicaof("127.0.0.1", second.port)
                primary = second
                with pytest.raises(SourceUnavailableError):
                    await asyncio.to_thread(log.append, "a", "refused")
                await asyncio.to_thread(_append_by_all, log, 4)
                assert await new.xlen("{sse}:log:a") == 5
            assert (await asyncio.to_thread(busy.info, "replication"))["role"] == "slave"
            busy.close()
            log.close()
            if not isinstance(handed_in, str):
                handed_in.close()
                handed_in.connection_pool.disconnect()


def _open(client: SyncRedis, connections: int) -> None:
    """Has a pool hold some connections."""
    with ExitStack() as using:
        for _ in range(connections):
            using.enter_context(client.client())


def _append_by_all(log: SyncRedisEventLog, connections: int) -> None:
    """Appends an event by each of so many connections at least, unless the client has but one."""
    with ExitStack() as using:
        for _ in range(connections):
            log.append("a", "two")
            using.enter_context(log._client.client())


async def test_after_a_fail_over_nobody_is_sent_to_the_past(tmp_path: Path) -> None:
    """The old primary is cut off, and its connections stay: who resumes after an event of the new one is not reset."""
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        running_redis(tmp_path / "a") as first,
        running_redis(tmp_path / "b", "--replicaof", "127.0.0.1", str(first.port)) as second,
    ):
        primary = first

        async with running_proxy(lambda: primary.port) as proxy:
            plugin, writing = RedisPlugin(proxy.url), RedisPlugin(second.url)
            log, elsewhere = RedisEventLog(plugin), RedisEventLog(writing)
            async with Redis.from_url(first.url) as old, Redis.from_url(second.url) as new, log.subscribe("a") as live:
                await begin(live)
                await log.append("a", "one")
                assert data(await take(live, 1)) == ["one"]
                await eventually(lambda: _is_in_sync(old))
                await new.replicaof("NO", "ONE")
                primary = second
                await old.replicaof("127.0.0.1", 1)
                await elsewhere.append("a", "two")
                assert data(await take(live, 1)) == ["two"]
                async with log.subscribe("a", after=live.cursor) as late:
                    waiting = asyncio.ensure_future(take(late, 1))
                    await eventually(lambda: log.statistics().subscribers == 2 or waiting.done())
                    await elsewhere.append("a", "three")
                    assert data(await waiting) == data(await take(live, 1)) == ["three"]
            await plugin.aclose()
            await writing.aclose()


async def _is_in_sync(primary: Redis) -> bool:
    replication = await primary.info("replication")
    replica = replication.get("slave0", {})
    return bool(replica and replica["state"] == "online" and replica["offset"] == replication["master_repl_offset"])
