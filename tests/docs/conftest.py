"""Real servers of Redis and PostgreSQL for the recipes that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer, running_postgres
from tests.redis_server import RedisServer, running_redis


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps its data when it is started again."""
    with running_redis(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of the test's own, which keeps its data when it is started again."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server
