"""Presence, end to end: who has come to several processes, one of which is killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from litestar_safe_sse.sources import EventLog, PostgresEventLog, Presence, RedisEventLog, RedisPlugin
from tests.bounds import START, WAIT
from tests.loops import ASYNCIO
from tests.sources.clients import eventually
from tests.sources.logs import make_tables_anew
from tests.sources.workers import Worker

SEATS_LAST = 3.0
"""Seconds; a process is not to be so busy that it tells of nobody for as long."""


class Guest:
    """A client that stays in a room until it leaves."""

    def __init__(self, worker: Worker, name: str) -> None:
        self._worker = worker
        self._name = name
        self._writer: asyncio.StreamWriter | None = None

    async def come(self) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._worker.port)
        self._writer.write(f"GET /room?name={self._name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


@contextlib.asynccontextmanager
async def running_workers(directory: Path, many: int, **environment: str) -> AsyncIterator[list[Worker]]:
    workers = [
        Worker("presence_app", directory, number, SEATS_LAST=str(SEATS_LAST), **environment) for number in range(many)
    ]
    try:
        with anyio.fail_after(START):
            for worker in workers:
                worker.start()
            for worker in workers:
                await worker.ready()
        yield workers
    finally:
        for worker in workers:
            worker.end()


@pytest.fixture(params=["redis", "postgres"])
async def there(request: pytest.FixtureRequest) -> AsyncIterator[tuple[EventLog, dict[str, str]]]:
    """A log of this process, and what tells others where it is."""
    if request.param == "redis":
        url = request.getfixturevalue("shared_redis").url
        plugin = RedisPlugin(url)
        await plugin.execute("FLUSHALL")
        yield RedisEventLog(plugin, presence=str), {"REDIS_URL": url}
        await plugin.aclose()
    else:
        url = request.getfixturevalue("shared_postgres").url
        await make_tables_anew(url)
        log = PostgresEventLog(url, presence=str)
        yield log, {"POSTGRES_URL": url}
        await log.aclose()


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [ASYNCIO])
async def test_who_was_with_a_process_that_is_killed_is_gone(there: Any, tmp_path: Path) -> None:
    """After a while, and once; all others are there all the time."""
    log, environment = there
    seen: list[Presence] = []

    async def tells(streams: int, **members: int) -> None:
        async def does() -> bool:
            seen.append(await log.presence("room"))
            return seen[-1] == Presence(streams, members)

        await eventually(does)

    async with running_workers(tmp_path, 2, **environment) as (killed, other):
        guests = [Guest(worker, name) for worker, name in ((killed, "ann"), (killed, "bob"), (other, "ann"))]
        try:
            with anyio.fail_after(WAIT):
                for guest in guests:
                    await guest.come()
            await tells(3, ann=2, bob=1)
            seen.clear()
            assert killed.end(signal.SIGKILL) == -signal.SIGKILL
            await tells(1, ann=1)
            assert all(presence.members["ann"] >= 1 for presence in seen)
            streams = [presence.streams for presence in seen]
            assert streams == sorted(streams, reverse=True)
            guests[2].leave()
            await tells(0)
        finally:
            for guest in guests:
                guest.leave()
