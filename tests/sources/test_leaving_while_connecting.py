"""Clients that leave while their bodies connect to Redis, at every instant of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from litestar_safe_sse import StreamContext
from tests.bounds import WAIT
from tests.core.apps import Probe, Server
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

CLIENTS = 350
"""A thousand, of the three kinds together."""

AT_ONCE = 50
INSTANTS = 100


async def blpop(client: Redis) -> None:
    await client.blpop(["nothing"], timeout=0)  # type: ignore[misc,unused-ignore]


async def ping_and_blpop(client: Redis) -> None:
    await client.ping()  # type: ignore[misc,unused-ignore]
    await client.blpop(["nothing"], timeout=0)  # type: ignore[misc,unused-ignore]


async def subscribe(client: Redis) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("nothing")
        async for _ in pubsub.listen():
            pass


@pytest.mark.parametrize("waiting", [blpop, ping_and_blpop, subscribe])
async def test_every_client_is_cleaned_up_at_once(
    waiting: Callable[[Redis], Any], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A body is ended before its time is up, even where redis-py has swallowed its cancellation."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        client = Redis.from_url(redis_url)
        try:
            probe.note("connects")
            await waiting(client)
            yield "never"
        finally:
            await client.aclose()
            probe.note("finally")

    server = Server(body)

    async def visit(instant: int) -> None:
        connection = Connection()
        async with anyio.create_task_group() as group:
            group.start_soon(run, connection)
            await server.probe.until("connects")
            for _ in range(instant):
                await asyncio.sleep(0)
            connection.leave()

    async def run(connection: Connection) -> None:
        await server.app(connection.scope, connection.receive, connection.send)

    with anyio.fail_after(WAIT):
        for first in range(0, CLIENTS, AT_ONCE):
            async with anyio.create_task_group() as group:
                for number in range(first, first + AT_ONCE):
                    group.start_soon(visit, number * 7 % INSTANTS)
    server.check_empty()
    assert server.probe.events.count("connects") == server.probe.events.count("finally")
    assert server.probe.events.count("cleanup") == CLIENTS
    assert "SSE stream" not in caplog.text
