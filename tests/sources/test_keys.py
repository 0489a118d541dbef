"""Keys: for how long a log knows an event by one, and which of Redis's belong to whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import (
    History,
    MemoryEventLog,
    PostgresEventLog,
    RedisEventLog,
    RedisGroupQueue,
    RedisPlugin,
    RedisQueue,
    SyncRedisEventLog,
)
from litestar_safe_sse.sources.testing import MakeLog
from tests.sources.clients import eventually
from tests.sources.logs import anyio_backend, case, log, make_log, redis_of_case
from tests.sources.subscriptions import data

__all__ = ("anyio_backend", "case", "log", "make_log", "redis_of_case")


@pytest.mark.anyio
async def test_a_key_is_forgotten_in_its_time(make_log: MakeLog) -> None:
    """And not before: another log, which knows them for longer, still does."""
    brief, longer = make_log(forget_keys_after=1), make_log(forget_keys_after=3600)
    first = await brief.append("a", "1", idempotency_key="brief")
    kept = await longer.append("b", "1", idempotency_key="longer")

    async def again() -> bool:
        return await brief.append("a", "2", idempotency_key="brief") != first

    await eventually(again)
    assert data(await brief.read("a", after=first)) == ["2"]
    assert await longer.append("b", "2", idempotency_key="longer") == kept


@pytest.mark.anyio
async def test_a_key_is_known_after_its_topic_has_expired(make_log: MakeLog) -> None:
    """The event has gone, and does not come again."""
    log = make_log(forget_keys_after=3600, history=lambda topic: History(expire_after=1))
    first = await log.append("a", "1", idempotency_key="k")

    async def is_gone() -> bool:
        return not await log.read("a")

    await eventually(is_gone)
    assert await log.append("a", "1", idempotency_key="k") == first
    assert await log.read("a") == []


on_each_log = pytest.mark.parametrize(
    "make",
    [
        MemoryEventLog,
        lambda **settings: RedisEventLog("redis://127.0.0.1", **settings),
        lambda **settings: SyncRedisEventLog("redis://127.0.0.1", **settings),
        lambda **settings: PostgresEventLog("postgresql://127.0.0.1", **settings),
    ],
    ids=["memory", "redis", "sync", "postgres"],
)


@on_each_log
@pytest.mark.parametrize("field", ["history", "enc_hook"])
@pytest.mark.parametrize("value", [5, "abc", [], 0, asyncio.sleep], ids=["5", "abc", "[]", "0", "async"])
def test_what_is_no_function_is_refused(make: Any, field: str, value: Any) -> None:
    """When the log is made, and not when it is first appended to."""
    with pytest.raises(InvalidFieldError, match=f"{field}: must be a function"):
        make(**{field: value})


@on_each_log
@pytest.mark.parametrize("seconds", [0, 0.5, -1, None, "600"])
def test_a_time_that_won_t_do_is_refused(make: Any, seconds: Any) -> None:
    """At once, by name."""
    with pytest.raises(InvalidFieldError, match="forget_keys_after: must be"):
        make(forget_keys_after=seconds)


@pytest.mark.parametrize("make", [RedisEventLog, SyncRedisEventLog])
@pytest.mark.parametrize(
    "name", ["queue", "group", "log.finished", "log.once", "log.present", "log.secret", "a.b.once"]
)
def test_a_log_s_name_is_no_part_of_others_keys(make: Any, name: str) -> None:
    """Or a topic of the one would be what the other keeps for itself."""
    with pytest.raises(InvalidFieldError, match="name: must be another than"):
        make("redis://127.0.0.1", name=name)


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (RedisQueue, {"name": "jobs:dead"}, "name"),
        (RedisQueue, {"name": "jobs:failures"}, "name"),
        (RedisGroupQueue, {"name": "jobs:dead"}, "name"),
        (RedisQueue, {"key": "jobs", "dead_key": "jobs"}, "dead_key"),
        (RedisGroupQueue, {"name": "jobs", "dead_key": "{sse}:group:jobs"}, "dead_key"),
    ],
    ids=str,
)
def test_a_queue_s_name_is_no_part_of_others_keys(kind: Any, settings: dict[str, Any], field: str) -> None:
    """Nor are its dead letters among its items."""
    with pytest.raises(InvalidFieldError) as caught:
        kind("redis://127.0.0.1", **settings)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["shop.log", "finished", "log.seen", "queues", "dead"])
def test_other_names_may_have_dots_and_queues_colons(name: str) -> None:
    """What collides with nothing is in use."""
    plugin = RedisPlugin("redis://127.0.0.1")
    for make in (RedisEventLog, SyncRedisEventLog):
        make("redis://127.0.0.1", name=name)
    for kind in (RedisQueue, RedisGroupQueue):
        assert kind(plugin, f"jobs:{name}s").key.endswith(f":jobs:{name}s")
    assert RedisQueue(plugin, key="jobs:dead").dead_key == "jobs:dead:dead"


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_what_is_no_key_is_refused_without_an_event_loop(key: str) -> None:
    """Before anything is sent; as the other logs do."""
    log = SyncRedisEventLog("redis://127.0.0.1:1")
    with pytest.raises(InvalidFieldError, match="idempotency_key: must be from 1 to 256 bytes, or None"):
        log.append("a", "x", idempotency_key=key)
    with pytest.raises(InvalidFieldError, match="idempotency_key: must be from 1 to 256 bytes, or None"):
        log.append_many("a", ["x"], idempotency_key=key)
