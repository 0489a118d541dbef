"""Exactly once, end to end: workers are killed, Redis is restarted, clients leave and come back all the time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources.redis.log import RedisEventLog
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from tests.redis_server import RedisServer
from tests.sources.workers import Worker

WORKERS = 4
KILLS = 4
CLIENTS = 100
TOPICS = [f"topic{number}" for number in range(20)]
EVENTS = 1000
"""For each topic."""
PUBLISHING = 8.0
"""Seconds over which they are appended."""
BOUND = 420.0


class Outage:
    """The one of Redis: it lasts until an event could not be appended, and no topic is complete before it."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.noticed = anyio.Event()


class Client:
    """An ``EventSource`` that aborts whenever it likes, and asks any worker next."""

    def __init__(self, number: int, workers: list[Worker]) -> None:
        self._chance = random.Random(number)
        self._workers = workers
        self.topics = self._chance.sample(TOPICS, 2)
        self.seen: dict[str, list[str]] = {topic: [] for topic in self.topics}
        self.left = EVENTS * len(self.topics)
        self.others: list[bytes] = []
        self.visits = 0
        self._last_event_id = b""

    async def run(self) -> None:
        while self.left > 0:
            worker = self._chance.choice(self._workers)
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            self.visits += 1
            try:
                with anyio.move_on_after(self._chance.choice([0.01, 0.2, 0.5, 1.5, 3.0])):
                    await self._visit(reader, writer)
            except OSError:
                pass
            finally:
                self._chance.choice([writer.transport.abort, writer.close])()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resume = b"Last-Event-ID: %b\r\n" % self._last_event_id if self._last_event_id else b""
        path = "/events?topics=" + ",".join(self.topics)
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), resume))
        with contextlib.suppress(EOFError):  # cut off
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            left = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                chunk = (await reader.readexactly(size + 2))[:-2]
                *blocks, left = (left + chunk).split(b"\r\n\r\n")
                for block in blocks:
                    self._dispatch(block)
                if self.left <= 0:
                    return

    def _dispatch(self, block: bytes) -> None:
        lines = [line for line in block.split(b"\r\n") if not line.startswith(b":")]
        fields = dict(line.split(b": ", 1) for line in lines)
        self._last_event_id = fields.get(b"id", self._last_event_id)
        if fields.get(b"event") == b"subscribed":  # where a client begins that was here before the first event
            return
        if b"event" in fields:
            self.others.append(block)
        elif b"data" in fields:
            topic, number = fields[b"data"].decode().split()
            self.seen[topic].append(number)
            self.left -= 1


async def publish(log: RedisEventLog, topic: str, outage: Outage) -> None:
    """Appends all events of a topic, evenly, and again what could not be."""
    began = time.monotonic()
    for number in range(EVENTS):
        if number == EVENTS - 1:
            await outage.begun.wait()
        while True:
            try:
                await log.append(topic, f"{topic} {number}", idempotency_key=f"{number}")
            except SourceUnavailableError:
                outage.noticed.set()
                await asyncio.sleep(0.05)
            else:
                break
        await asyncio.sleep(max(0.0, began + PUBLISHING * number / EVENTS - time.monotonic()))


async def trouble(workers: list[Worker], redis: RedisServer, outage: Outage) -> None:
    """Kills a worker now and then, and Redis once."""
    for number in range(KILLS):
        await asyncio.sleep(PUBLISHING / (KILLS + 1))
        worker = workers[number % WORKERS]
        worker.end(signal.SIGKILL)
        worker.start()
        if number == KILLS // 2:
            await asyncio.to_thread(redis.kill)
            outage.begun.set()
            await outage.noticed.wait()
            await asyncio.to_thread(redis.start_again)
        await worker.ready()


@contextlib.asynccontextmanager
async def running_workers(redis: RedisServer, directory: Path) -> AsyncIterator[list[Worker]]:
    workers = [Worker("resume_app", directory, number, REDIS_URL=redis.url) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            await worker.ready()
        yield workers
        for worker in workers:
            assert worker.end(signal.SIGTERM) in (0, -signal.SIGTERM), worker.output()
            assert "Traceback" not in worker.output(), worker.output()
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                worker.end()


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_every_client_gets_every_event_exactly_once_and_in_order(own_redis: RedisServer, tmp_path: Path) -> None:
    """20,000 events, 100 clients, 4 workers; 4 are killed, and Redis is killed and started again."""
    plugin = RedisPlugin(own_redis.url)
    log = RedisEventLog(plugin)
    outage = Outage()
    try:
        with anyio.fail_after(BOUND):
            async with running_workers(own_redis, tmp_path) as workers:
                clients = [Client(number, workers) for number in range(CLIENTS)]
                async with anyio.create_task_group() as tasks:
                    for client in clients:
                        tasks.start_soon(client.run)
                    for topic in TOPICS:
                        tasks.start_soon(publish, log, topic, outage)
                    tasks.start_soon(trouble, workers, own_redis, outage)
    finally:
        await plugin.aclose()
    expected = [f"{number}" for number in range(EVENTS)]
    for client in clients:
        assert client.others == []
        assert all(numbers == expected for numbers in client.seen.values())
    assert sum(client.visits for client in clients) > 5 * CLIENTS
