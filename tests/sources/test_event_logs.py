"""The contract of an event log, held against each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.testing import EventLogContract, MakeLog
from tests.loops import ASYNCIO, TRIO, UVLOOP_AT_LENGTH
from tests.redis_server import RedisServer


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
        async with Redis.from_url(shared_redis.url) as client:
            await client.flushall()
        plugin = RedisPlugin(shared_redis.url)
        yield lambda **settings: RedisEventLog(plugin, **settings)
        await plugin.aclose()
