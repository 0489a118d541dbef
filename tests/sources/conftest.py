"""A real Redis and a real PostgreSQL for the tests, empty at the start of each."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from tests.loops import ASYNCIO, UVLOOP_AT_LENGTH
from tests.postgres_server import PostgresServer, running_postgres
from tests.redis_server import RedisServer, program_of, running_redis
from tests.sources.logs import make_tables_anew


@pytest.fixture(params=[ASYNCIO, UVLOOP_AT_LENGTH])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _collect_leaks() -> Iterator[None]:
    """Makes what a test leaves behind warn in that test, where warnings are errors."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that leave it running."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_of_kind(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], RedisServer]]:
    """Returns the server of a kind, one for all tests: ``redis``, or one of ``OTHERS``."""
    servers = {"redis": shared_redis}
    with ExitStack() as running:

        def find(kind: str) -> RedisServer:
            if kind not in servers:
                server = running_redis(tmp_path_factory.mktemp(kind), program=program_of(kind))
                servers[kind] = running.enter_context(server)
            return servers[kind]

        yield find


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that the test may kill, stop, pause and start again; it keeps its data."""
    with running_redis(tmp_path_factory.mktemp("redis"), aof=True) as server:
        yield server


@pytest.fixture
async def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared server, emptied."""
    async with Redis.from_url(shared_redis.url) as client:
        await client.flushall()
    return shared_redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of its own, to look at what a source has done."""
    client = Redis.from_url(redis_server.url)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server for all tests that leave it running."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that the test may kill, stop, pause and start again."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
async def postgres_url(shared_postgres: PostgresServer) -> str:
    """The shared server, with the tables of a log that are empty."""
    await make_tables_anew(shared_postgres.url)
    return shared_postgres.url


@pytest.fixture
async def plugin(redis_url: str) -> AsyncIterator[RedisPlugin]:
    """A plugin of that Redis, closed at the end."""
    plugin = RedisPlugin(redis_url)
    yield plugin
    await plugin.aclose()
