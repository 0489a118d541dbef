"""The contract of an event log, held against the one in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from litestar_safe_sse.sources.testing import EventLogContract, MakeLog
from tests.loops import ASYNCIO, UVLOOP_AT_LENGTH
from tests.postgres_server import PostgresServer
from tests.sources.logs import logs_in


class TestPostgresEventLog(EventLogContract):
    @pytest.fixture(params=[ASYNCIO, UVLOOP_AT_LENGTH])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    async def make_log(self, shared_postgres: PostgresServer) -> AsyncIterator[MakeLog]:
        async with logs_in(shared_postgres) as make:
            yield make
