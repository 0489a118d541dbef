"""Logs for tests that hold for each kind: fixtures to be imported, all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse.sources.event_log import EventLog
from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.testing import MakeLog
from tests.redis_server import RedisServer

__all__ = ("MakeLog", "anyio_backend", "case", "log", "make_log", "redis_of_case")

ASYNCIO = ("asyncio", {"use_uvloop": False})
UVLOOP = ("asyncio", {"use_uvloop": True})


@pytest.fixture(
    params=[
        pytest.param((ASYNCIO, "memory"), id="memory-asyncio"),
        pytest.param((("trio", {}), "memory"), id="memory-trio"),
        pytest.param((ASYNCIO, "redis"), id="redis-asyncio"),
        pytest.param((UVLOOP, "redis"), id="redis-uvloop"),
    ]
)
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def anyio_backend(case: Any) -> Any:
    return case[0]


@pytest.fixture
def redis_of_case(case: Any, request: pytest.FixtureRequest) -> RedisServer | None:
    return request.getfixturevalue("shared_redis") if case[1] == "redis" else None


@pytest.fixture
async def make_log(redis_of_case: RedisServer | None) -> AsyncIterator[MakeLog]:
    if redis_of_case is None:
        yield MemoryEventLog
        return
    async with Redis.from_url(redis_of_case.url) as client:
        await client.flushall()
    plugin = RedisPlugin(redis_of_case.url)
    yield lambda **settings: RedisEventLog(plugin, **settings)
    await plugin.aclose()


@pytest.fixture
def log(make_log: MakeLog) -> EventLog:
    return make_log()
