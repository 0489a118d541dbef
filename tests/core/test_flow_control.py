"""How far a body runs ahead of its client, and what is kept meanwhile."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import StreamContext
from tests.core.apps import Probe, Server, leave
from tests.core.bodies import context_variable, never_waits
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = pytest.mark.anyio


async def test_a_fast_body_does_not_starve_other_streams() -> None:
    """While one body never waits, the others of the loop have their turns."""
    server, other = Server(never_waits), Server(context_variable)
    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body)
        await leave(other)
        connection.leave()


async def test_a_body_runs_ahead_by_a_bounded_number_of_bytes() -> None:
    """While a ``send()`` is blocked, a body is parked once it is ``buffer_size`` bytes ahead."""
    yielded = 0

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        nonlocal yielded
        for _ in range(10_000):
            yielded += 1
            yield "x" * 990

    server, connection = Server(body, buffer_size=10_000), Connection()
    blocked, release = anyio.Event(), anyio.Event()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            blocked.set()
            await release.wait()
        await connection.send(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(connection, send=send))
        await blocked.wait()
        await anyio.wait_all_tasks_blocked()
        assert yielded <= 25
        release.set()
    assert yielded == 10_000
    assert connection.complete


async def test_flush_returns_when_all_that_was_yielded_was_sent() -> None:
    """``flush()`` waits for the ``send()`` of everything yielded before it."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await stream.flush()
        probe.note("sent one" if b"one" in connection.body else "lied")
        yield "two"
        yield "three"
        await stream.flush()
        probe.note("sent three" if b"three" in connection.body else "lied")

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.events == ["sent one", "sent three", "cleanup"]


@on_asyncio
async def test_a_timeout_around_a_yield_loses_no_event() -> None:
    """A timeout of the body that strikes while the writer is blocked neither loses nor doubles an event."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        number = 0
        while number < 20:
            with anyio.move_on_after(0.002):
                while number < 20:
                    number += 1
                    yield f"{number:04}" + "x" * 500
                    await anyio.lowlevel.checkpoint()

    server, connection = Server(body, buffer_size=100), Connection()

    async def send(message: dict[str, Any]) -> None:
        await anyio.sleep(0.003)
        await connection.send(message)

    await server.run(connection, send=send)
    numbers = [int(line[6:10]) for line in connection.body.splitlines() if line.startswith(b"data")]
    assert numbers == list(range(1, 21))


async def test_what_was_sent_is_let_go() -> None:
    """While a stream waits for its next event, nothing of it holds on to the bytes of the last one."""
    size = 4_000_000

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "x" * size
        await stream.flush()
        probe.note("sent")
        await anyio.sleep_forever()

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as group:
        tracemalloc.start()
        try:
            group.start_soon(server.run, connection)
            await server.probe.until("sent")
            assert len(connection.body) > size
            assert tracemalloc.get_traced_memory()[0] > size  # it is counted
            connection.messages.clear()
            for _ in range(10):  # what lingers after a send takes a few turns
                await anyio.lowlevel.checkpoint()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < size / 2
        finally:
            tracemalloc.stop()
        connection.leave()
