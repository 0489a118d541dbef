"""An event log is appended to by whoever can reach Redis: without an event loop, by a pipeline, in another language."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import Redis

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import (
    InvalidFieldError,
    SourceRefusedError,
    SourceUnavailableError,
    TopicFinishedError,
)
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin, SyncRedisEventLog, sequence_of
from tests.bounds import NEVER, WAIT
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.sources.proxies import running_proxy
from tests.sources.subscriptions import begin, data, ids, take, take_all

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[RedisEventLog]:
    plugin = RedisPlugin(redis_url)
    yield RedisEventLog(plugin)
    await plugin.aclose()


@pytest.fixture
def sync_log(redis_url: str) -> Iterator[SyncRedisEventLog]:
    with SyncRedisEventLog(redis_url) as log:
        yield log


async def test_what_is_appended_without_a_loop_is_streamed(log: RedisEventLog, sync_log: SyncRedisEventLog) -> None:
    """As what is appended by the other one: in one order, with the same IDs, and to an end."""
    subscription = log.subscribe("a")
    await begin(subscription)
    appended = [sync_log.append("a", SSEMessage({"n": 1}, "e")), await log.append("a", "2")]
    appended += sync_log.append_many("a", ["3", "4"])
    appended.append(sync_log.finish("a"))
    messages = await take_all(subscription)
    assert ids(messages) == appended
    assert data(messages[:-1]) == ['{"n":1}', "2", "3", "4"]
    assert [sequence_of(id, "a") for id in appended] == [1, 2, 3, 4, 5]
    sync_log.delete("a")
    assert await log.read("a") == []


async def test_calls_without_a_loop_fail_as_those_with_one(sync_log: SyncRedisEventLog, redis: Redis) -> None:
    """By the same errors, and what has a key is stored once."""
    first = sync_log.append("a", "1", idempotency_key="k")
    assert sync_log.append("a", "1", idempotency_key="k") == first
    assert sync_log.append_many("a", []) == []
    for bad in (None, "\ud800", {"id": 1}):
        with pytest.raises(InvalidFieldError):
            sync_log.append("a", bad)
    sync_log.finish("a")
    with pytest.raises(TopicFinishedError, match="'a'"):
        sync_log.append("a", "2")
    await redis.set("{sse}:log:b", "x")
    with pytest.raises(SourceRefusedError, match="'b'"):
        sync_log.append("b", "1")
    await redis.script_flush()
    sync_log.append("c", "1")
    with SyncRedisEventLog(f"redis://127.0.0.1:{free_port()}/0") as unreachable, pytest.raises(SourceUnavailableError):
        unreachable.append("a", "1")


@pytest.mark.parametrize(
    "arguments", [{"prefix": "{a}"}, {"name": "a:b"}, {"expire_after": 0.1}, {"redis": 7}, {"redis": "http://x"}]
)
async def test_a_log_without_a_loop_that_won_t_do_is_refused(arguments: Any) -> None:
    with pytest.raises(InvalidFieldError):
        SyncRedisEventLog(**arguments)


async def test_threads_share_a_log(log: RedisEventLog, sync_log: SyncRedisEventLog) -> None:
    """Each has its events in order, and none is missing."""

    def work(name: str) -> None:
        for number in range(50):
            sync_log.append("a", f"{name}{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    messages = data(await log.read("a", limit=1000))
    for name in "xyz":
        assert [text for text in messages if text[0] == name] == [f"{name}{number}" for number in range(50)]


async def test_the_first_calls_without_a_loop_after_a_quiet_night_work(redis_server: RedisServer) -> None:
    """On all connections, which what stands between has dropped without a word; nothing is stored twice."""
    async with running_proxy(lambda: redis_server.port) as proxy:
        with SyncRedisEventLog(proxy.url, health_check_interval=0.2) as log:

            def work(name: str) -> None:
                log.append("a", name)

            for night in range(3):
                await asyncio.gather(*(asyncio.to_thread(work, f"{night}{number}") for number in range(4)))
                proxy.forget()
                await asyncio.sleep(0.3)
    plugin = RedisPlugin(redis_server.url)
    stored = data(await RedisEventLog(plugin).read("a"))
    await plugin.aclose()
    assert sorted(stored) == [f"{night}{number}" for night in range(3) for number in range(4)]


async def test_a_connection_that_is_in_use_is_kept(redis_server: RedisServer) -> None:
    """And one that has not been idle for long."""
    async with running_proxy(lambda: redis_server.port) as proxy:
        with SyncRedisEventLog(f"{proxy.url}?health_check_interval={round(NEVER)}") as log:
            for number in range(5):
                await asyncio.to_thread(log.append, "a", f"{number}")
                await asyncio.sleep(0.05)
        assert proxy.connections == 1


@pytest.mark.parametrize("decode", [False, True])
async def test_a_client_that_was_handed_in_stays_open(redis_url: str, decode: bool) -> None:
    """Whether it decodes or not."""
    client = redis_py.Redis.from_url(redis_url, decode_responses=decode)
    with SyncRedisEventLog(client) as log:
        assert sequence_of(log.append("a", "1"), "a") == 1
    assert client.ping()
    client.close()
    with pytest.raises(InvalidFieldError):
        SyncRedisEventLog(client, socket_timeout=1)


# By a pipeline


async def test_an_event_joins_a_transaction(log: RedisEventLog, redis: Redis) -> None:
    """It is stored with the rest, and not without it."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        async with redis.pipeline() as pipeline:
            pipeline.set("order", "paid")
            log.queue_append(pipeline, "a", "paid", idempotency_key="7")
            await pipeline.execute()
        async with redis.pipeline() as pipeline:
            await pipeline.watch("order")
            with pytest.raises(InvalidFieldError, match="multi"):
                log.queue_append(pipeline, "a", "lost")
            pipeline.multi()
            log.queue_append(pipeline, "a", "lost")
            await redis.set("order", "sent")
            with pytest.raises(redis_py.WatchError):
                await pipeline.execute()
        assert await redis.get("order") == b"sent"
        await log.append("a", "paid", idempotency_key="7")
        await log.append("a", "next")
        assert data(await take(subscription, 2)) == ["paid", "next"]
    with pytest.raises(InvalidFieldError, match="pipeline"):
        log.queue_append(redis, "a", "x")


async def test_an_event_joins_a_transaction_without_a_loop(
    log: RedisEventLog, sync_log: SyncRedisEventLog, redis_url: str
) -> None:
    """By whichever log."""
    with redis_py.Redis.from_url(redis_url) as client, client.pipeline() as pipeline:
        pipeline.set("order", "paid")
        sync_log.queue_append(pipeline, "a", "1")
        log.queue_append(pipeline, "a", "2")
        pipeline.execute()
    assert data(await log.read("a")) == ["1", "2"]


# In another language


async def test_node_appends_by_the_documented_script(log: RedisEventLog, redis_server: RedisServer) -> None:
    """By the example of the page, as it stands there."""
    script = ROOT / "litestar_safe_sse/sources/redis/append.lua"
    node = ["node", str(ROOT / "docs/examples/append.mjs"), str(script)]
    environment = {"REDIS_PORT": f"{redis_server.port}", "PATH": os.environ["PATH"]}

    def append(text: str) -> str:
        command = [*node, "a", text]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT, env=environment).stdout

    async with log.subscribe("a") as subscription:
        await begin(subscription)
        assert re.match(r"\$\d+\s+\d+-1-[0-9a-f]{8}\s", append("first é"))
        await log.append("a", "2")
        append("third")
        first, second, third = await take(subscription, 3)
    assert first == SSEMessage('{"text":"first é"}', "post", first.id)
    assert (second.data, third.data) == ("2", '{"text":"third"}')
    await log.finish("a")
    assert append("late").startswith("-FINISHED")


async def test_entries_are_as_documented(log: RedisEventLog, redis: Redis) -> None:
    """What is stored is what other programs rely on; what they add is passed over."""
    await log.append("a", SSEMessage("x", "e", retry=5, comment="c"))
    await log.append("a", "y")
    entries: Any = await redis.xrange("{sse}:log:a")
    (id, first), (_, second) = entries
    assert re.fullmatch(rb"\d{13}-1", id)
    assert [*first] == [b"nonce", b"before", b"at", b"event", b"data", b"retry", b"comment"]
    assert re.fullmatch(rb"[0-9a-f]{8}", first[b"nonce"])
    assert (first[b"before"], second[b"before"]) == (b"0", first[b"nonce"])
    assert int(id.partition(b"-")[0]) <= int(first[b"at"]) <= int(second[b"at"])
    epoch = id.partition(b"-")[0].decode()
    more: Any = {
        "nonce": "00000001",
        "before": second[b"nonce"],
        "at": second[b"at"],
        "data": "z",
        "new": "1",
    }
    await redis.xadd("{sse}:log:a", more, id=f"{epoch}-3")
    assert data(await log.read("a")) == ["x", "y", "z"]
    end = await log.finish("a")
    assert sequence_of(end, "a") == 4
    place: Any = await redis.get("{sse}:log.finished:a")
    assert re.fullmatch(rb"\d{13}-4-[0-9a-f]{8}", place)
