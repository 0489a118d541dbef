"""The contract of an event log, held against each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.testing import EventLogContract, MakeLog
from tests.loops import ASYNCIO, TRIO, UVLOOP_AT_LENGTH
from tests.redis_server import OTHERS, RedisServer


class TestMemoryEventLog(EventLogContract):
    @pytest.fixture(params=[ASYNCIO, TRIO])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def make_log(self) -> MakeLog:
        return MemoryEventLog


class TestRedisEventLog(EventLogContract):
    @pytest.fixture(params=[ASYNCIO, UVLOOP_AT_LENGTH])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    async def make_log(self, shared_redis: RedisServer) -> AsyncIterator[MakeLog]:
        async with logs_on(shared_redis) as make_log:
            yield make_log


@pytest.mark.long
class TestRedisEventLogElsewhere(EventLogContract):
    """On other servers than the system's."""

    @pytest.fixture
    def anyio_backend(self) -> Any:
        return ASYNCIO.values[0]

    @pytest.fixture(params=OTHERS)
    async def make_log(
        self, request: pytest.FixtureRequest, redis_of_kind: Callable[[str], RedisServer]
    ) -> AsyncIterator[MakeLog]:
        async with logs_on(redis_of_kind(request.param)) as make_log:
            yield make_log


@asynccontextmanager
async def logs_on(server: RedisServer) -> AsyncIterator[MakeLog]:
    """Makes logs on a Redis that is empty, and closes them."""
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    plugin = RedisPlugin(server.url)
    yield lambda **settings: RedisEventLog(plugin, **settings)
    await plugin.aclose()
