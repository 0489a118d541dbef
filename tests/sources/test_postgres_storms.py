"""What is under way while PostgreSQL ends connections, hangs or crashes: several appended at once, ends, replays."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any

import anyio
import asyncpg
import pytest

from litestar_safe_sse.exceptions import SourceUnavailableError, TopicFinishedError
from litestar_safe_sse.sources.postgres.connections import within
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from tests.bounds import WAIT
from tests.postgres_server import PostgresServer
from tests.sources.clients import eventually
from tests.sources.subscriptions import data, take, take_all

pytestmark = pytest.mark.anyio

OLD = 400
"""Events that are replayed, of a page and more each."""

JOBS = 6
PARTS = 15
TOGETHER = 4
TIMES = 3
"""How often PostgreSQL is disturbed."""


class Jobs:
    """Topics that are appended to, each to its end.

    Args:
        log: The log.
    """

    def __init__(self, log: PostgresEventLog) -> None:
        self._log = log
        self.done = 0
        self.failed = 0

    async def insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """As a careful publisher does it."""
        while True:
            try:
                result = await call()
            except SourceUnavailableError:
                self.failed += 1
                await asyncio.sleep(0.02)
            else:
                self.done += 1
                return result

    async def run(self, topic: str) -> None:
        for part in range(PARTS):
            items = expected(topic)[part * TOGETHER : (part + 1) * TOGETHER]
            ids = await self.insist(lambda: self._log.append_many(topic, items, idempotency_key=items[0]))  # noqa: B023
            assert len(set(ids)) == TOGETHER
        end = await self.insist(lambda: self._log.finish(topic))
        assert await self.insist(lambda: self._log.finish(topic)) == end
        with pytest.raises(TopicFinishedError):
            await self.insist(lambda: self._log.append(topic, "late"))


def expected(topic: str) -> list[str]:
    return [f"{topic} {number}" for number in range(PARTS * TOGETHER)]


async def end_connections(server: PostgresServer, jobs: Jobs) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname IS NOT NULL"
    )
    await connection.close()


async def hang(server: PostgresServer, jobs: Jobs) -> None:
    failed = jobs.failed
    server.pause()
    await eventually(lambda: jobs.failed > failed)
    server.resume()


async def crash(server: PostgresServer, jobs: Jobs) -> None:
    server.crash()


class GivenUp:
    """Runs a command, and gives up its connection right after a wait, before the command goes on.

    Args:
        connection: The connection.
        command: The command.
        wait: After which one.
    """

    def __init__(self, connection: Any, command: Awaitable[Any], wait: int) -> None:
        self.waits = 0
        self._connection = connection
        self._command = command
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._command.__await__()
        pending = steps.send(None)
        while True:
            got = yield pending
            self.waits += 1
            if self.waits == self._wait:
                self._connection.terminate()
            try:
                pending = steps.send(got)
            except StopIteration as stop:
                return stop.value


async def test_a_connection_that_is_given_up_at_any_time_is_an_outage(shared_postgres: PostgresServer) -> None:
    """Also where asyncpg is between two steps, and does not expect it: readers wait, and streams stay open."""
    log = PostgresEventLog(shared_postgres.url)
    await log.create_tables()
    waits = 0
    for wait in range(1, 100):
        connection = await asyncpg.connect(shared_postgres.url)
        command = GivenUp(connection, connection.fetch(log._queries.look, ["a"], [0]), wait)
        with suppress(asyncpg.InterfaceError, SourceUnavailableError):  # of which the first is known as an outage, too
            await within(WAIT, connection, command)
        connection.terminate()
        waits = command.waits
        if waits < wait:
            break
    assert 3 <= waits < 98


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
@pytest.mark.parametrize("disturb", [end_connections, hang, crash])
async def test_what_is_under_way_is_done_whole_and_once(
    own_postgres: PostgresServer,
    disturb: Callable[[PostgresServer, Jobs], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each job's events arrive together, in order, with one end; who reads what is old has no gap in it."""
    log, writer = (PostgresEventLog(own_postgres.url) for _ in range(2))
    await log.create_tables()
    await log.append_many("old", [f"{number} {'x' * 2000}" for number in range(OLD)])
    for one in (log, writer):
        one._connector.reply_timeout = 1.0
    jobs, topics, over = Jobs(writer), [f"job{number}" for number in range(JOBS)], asyncio.Event()

    async def replay() -> None:
        while not over.is_set():
            async with log.subscribe("old", start="oldest") as subscription:
                got = await take(subscription, OLD)
            assert [text.split()[0] for text in data(got)] == [f"{number}" for number in range(OLD)]

    async def watch(topic: str) -> None:
        sent = await take_all(log.subscribe(topic, start="oldest"))
        got = [message for message in sent if message.event != "subscribed"]
        assert data(got[:-1]) == expected(topic)
        assert [message.event for message in got] == [None] * len(expected(topic)) + ["finished"]

    async def disturb_all() -> None:
        for number in range(1, TIMES + 1):
            await eventually(lambda: jobs.done >= number * JOBS * PARTS // (TIMES + 2))  # noqa: B023
            await disturb(own_postgres, jobs)

    try:
        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(replay)
                async with anyio.create_task_group() as work:
                    for topic in topics:
                        work.start_soon(watch, topic)
                        work.start_soon(jobs.run, topic)
                    work.start_soon(disturb_all)
                over.set()
    finally:
        await writer.aclose()
        await log.aclose()
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
