"""Logs for tests that hold for each kind: fixtures to be imported, all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from litestar_safe_sse.sources.event_log import EventLog
from litestar_safe_sse.sources.memory import MemoryEventLog
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.testing import MakeLog
from tests.postgres_server import PostgresServer
from tests.redis_server import OTHERS, RedisServer

__all__ = ("MakeLog", "anyio_backend", "case", "log", "logs_in", "make_log", "redis_of_case")

ASYNCIO = ("asyncio", {"use_uvloop": False})
UVLOOP = ("asyncio", {"use_uvloop": True})


@pytest.fixture(
    params=[
        pytest.param((ASYNCIO, "memory"), id="memory-asyncio"),
        pytest.param((("trio", {}), "memory"), id="memory-trio"),
        pytest.param((ASYNCIO, "redis"), id="redis-asyncio"),
        pytest.param((UVLOOP, "redis"), id="redis-uvloop", marks=pytest.mark.long),
        pytest.param((ASYNCIO, "postgres"), id="postgres-asyncio"),
        pytest.param((UVLOOP, "postgres"), id="postgres-uvloop", marks=pytest.mark.long),
        *(pytest.param((ASYNCIO, kind), id=kind, marks=pytest.mark.long) for kind in OTHERS),
    ]
)
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def anyio_backend(case: Any) -> Any:
    return case[0]


@pytest.fixture
def redis_of_case(case: Any, request: pytest.FixtureRequest) -> RedisServer | None:
    return None if case[1] in ("memory", "postgres") else request.getfixturevalue("redis_of_kind")(case[1])


@pytest.fixture
async def make_log(
    case: Any, redis_of_case: RedisServer | None, request: pytest.FixtureRequest
) -> AsyncIterator[MakeLog]:
    if case[1] == "postgres":
        async with logs_in(request.getfixturevalue("shared_postgres")) as make:
            yield make
        return
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


@asynccontextmanager
async def logs_in(server: PostgresServer) -> AsyncIterator[MakeLog]:
    """Makes logs in PostgreSQL, in tables that are empty, and closes them."""
    await make_tables_anew(server.url)
    made: list[PostgresEventLog] = []

    def make(**settings: Any) -> PostgresEventLog:
        made.append(PostgresEventLog(server.url, **settings))
        return made[-1]

    try:
        yield make
    finally:
        for log in made:
            await log.aclose()


DESCRIBED = """
SELECT string_agg(row, ' ' ORDER BY row) FROM (
    SELECT (oid, xmin)::text AS row FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT (oid, xmin)::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT (oid, xmin)::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace
) AS described
"""
"""What is in the schema, in which version: who alters a table, or lets others use it, makes another."""

EMPTY = """
DELETE FROM sse_log_topics; DELETE FROM sse_log_events; DELETE FROM sse_log_keys; DELETE FROM sse_log_present;
DELETE FROM sse_log_secret; INSERT INTO sse_log_secret (secret) VALUES (replace(gen_random_uuid()::text, '-', ''));
"""

_made: dict[str, str] = {}
"""What the tables were when they were new, by the server's address."""


async def make_tables_anew(url: str) -> None:
    """Drops what a test before has left, and makes what a log needs; or empties it, if that comes to the same."""
    import asyncpg

    connection = await asyncpg.connect(url)
    if await connection.fetchval(DESCRIBED) == _made.get(url, ""):
        await connection.execute(EMPTY)
    else:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await connection.execute(PostgresEventLog(url).create_tables_sql)
        _made[url] = await connection.fetchval(DESCRIBED)
    await connection.close()
