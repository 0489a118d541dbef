"""The documented outbox: a real database, a real Redis and a real Uvicorn, and relays that are killed at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from redis import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.bounds import WAIT
from tests.docs.processes import ServerProcess, running
from tests.postgres_server import running_postgres
from tests.redis_server import RedisServer, running_redis

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "docs" / "examples" / "database"
ORDERS = 200
KILLS = 30


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}"
        return
    with running_postgres(tmp_path) as server:
        yield server.url.replace("postgresql:", "postgresql+asyncpg:")


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def environment(database: str, redis: RedisServer) -> dict[str, str]:
    return {"DATABASE": database, "REDIS_URL": redis.url, "PYTHONPATH": f"{EXAMPLES}:{HERE.parents[1]}"}


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[ServerProcess]:
    with running("outbox:app", EXAMPLES, without_models=False, **environment) as server:
        yield server


class Relays:
    """Relays that live one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = 0

    def start(self, how: str = "") -> None:
        """Begins a life."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()
        self.pid = int(self._read())

    def wait(self) -> None:
        """Waits until it is over."""
        assert self._read() == "over\n"
        self.pid = 0

    def kill(self) -> None:
        """Ends it, wherever it is."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def relays(environment: dict[str, str]) -> Iterator[Relays]:
    command = [sys.executable, str(HERE / "relaying.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        relays = Relays(process)
        try:
            yield relays
        finally:
            if relays.pid:
                with suppress(ProcessLookupError):
                    os.kill(relays.pid, signal.SIGKILL)
            process.kill()


def place(client: httpx.Client, many: int, first: int = 0) -> None:
    for number in range(first, first + many):
        assert client.post("/orders", params={"item": f"item {number}"}).status_code == 201


def ask(database: str, query: str) -> Any:
    """What the database says."""

    async def ask() -> Any:
        engine = create_async_engine(database)
        try:
            async with engine.begin() as connection:
                return (await connection.execute(text(query))).scalar()
        finally:
            await engine.dispose()

    return asyncio.run(ask())


def until_empty(database: str) -> None:
    """Waits until nothing is to be relayed any more."""
    deadline = time.monotonic() + WAIT
    while ask(database, "SELECT count(*) FROM outgoing WHERE refused IS NULL"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def relayed(redis: RedisServer) -> list[dict[str, Any]]:
    """What the log has of the orders."""
    with Redis.from_url(redis.url) as client:
        fields: list[dict[bytes, bytes]] = [entry for _, entry in client.xrange("{sse}:log:orders")]
        return [httpx.Response(200, content=entry[b"data"]).json() for entry in fields]


def appends(redis: RedisServer) -> int:
    """How often something was appended, or was said to have been."""
    with Redis.from_url(redis.url) as client:
        called = client.info("commandstats")
        return sum(called.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


def orders(first: int, beyond: int) -> list[dict[str, Any]]:
    return [{"order": number + 1, "item": f"item {number}"} for number in range(first, beyond)]


def test_a_relay_that_dies_before_it_has_noted_it_appends_nothing_twice(
    server: ServerProcess, environment: dict[str, str], redis: RedisServer
) -> None:
    """Not even if all do so, one after the other."""
    with httpx.Client(base_url=server.url, timeout=WAIT) as client, relays(environment) as relay:
        place(client, 5)
        for _ in range(3):
            relay.start("fatal")
            relay.wait()
        assert appends(redis) >= 15
        assert ask(environment["DATABASE"], "SELECT count(*) FROM outgoing") == 5
        place(client, 5, 5)
        relay.start()
        until_empty(environment["DATABASE"])
    assert relayed(redis) == orders(0, 10)


def test_relays_that_are_killed_at_any_moment_append_each_event_once(
    server: ServerProcess, environment: dict[str, str], redis: RedisServer
) -> None:
    """Two at a time, while orders come in; a client has them all, in their order, each once."""
    done = threading.Event()
    kills: list[int] = []

    def storm() -> None:
        chance = random.Random(len(kills))
        with relays(environment) as relay:
            while not done.is_set():
                relay.start()
                done.wait(chance.uniform(0.01, 0.3))
                kills.append(relay.pid)
                relay.kill()

    storms = [threading.Thread(target=storm) for _ in range(2)]
    with httpx.Client(base_url=server.url, timeout=WAIT) as client, client.stream("GET", "/orders") as response:
        events = EventSource(response).iter_sse()
        assert next(events).event == "subscribed"
        try:
            for thread in storms:
                thread.start()
            placed = 0
            while placed < ORDERS or len(kills) < KILLS:
                place(client, 1, placed)
                placed += 1
        finally:
            done.set()
            for thread in storms:
                thread.join(WAIT)
        with relays(environment) as relay:
            relay.start()
            until_empty(environment["DATABASE"])
        assert [next(events).json() for _ in range(placed)] == orders(0, placed)
    assert relayed(redis) == orders(0, placed)


def test_what_the_log_refuses_is_set_aside(
    server: ServerProcess, environment: dict[str, str], redis: RedisServer
) -> None:
    """It stays in the table with the reason, and those behind it are appended."""
    with httpx.Client(base_url=server.url, timeout=WAIT) as client, relays(environment) as relay:
        place(client, 2)
        ask_twice = "UPDATE outgoing SET topic = '' WHERE id = (SELECT min(id) FROM outgoing) RETURNING 1"
        assert ask(environment["DATABASE"], ask_twice) == 1
        relay.start()
        until_empty(environment["DATABASE"])
    assert relayed(redis) == orders(1, 2)
    assert "must be from 1 to 256 bytes" in ask(environment["DATABASE"], "SELECT refused FROM outgoing")


def test_an_event_that_is_appended_by_the_session_is_committed_with_it(tmp_path: Path) -> None:
    """By the log's function in PostgreSQL, without an outbox; what is rolled back is never sent."""
    with running_postgres(tmp_path) as postgres:
        environment = {"POSTGRES_URL": postgres.url, "PYTHONPATH": f"{EXAMPLES}:{HERE.parents[1]}"}
        with running("committed_feed:app", EXAMPLES, without_models=False, **environment) as server:
            with httpx.Client(base_url=server.url, timeout=WAIT) as client, client.stream("GET", "/orders") as response:
                events = EventSource(response).iter_sse()
                assert next(events).event == "subscribed"
                place(client, 1)
                assert client.post("/orders", params={"item": ""}).status_code == 400
                assert client.post("/orders", params={"item": "last"}).status_code == 201
                assert [next(events).json()["item"] for _ in range(2)] == ["item 0", "last"]
            database = postgres.url.replace("postgresql:", "postgresql+asyncpg:")
            assert ask(database, 'SELECT count(*) FROM "order"') == ask(database, "SELECT seq FROM sse_log_topics") == 2
