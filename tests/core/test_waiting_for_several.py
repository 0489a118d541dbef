"""Bodies that wait for several things at once, or for a thread, whose clients leave at every instant of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from litestar_safe_sse import StreamContext
from tests.bounds import WAIT
from tests.core.apps import Probe, Server
from tests.core.cancelling import Tidying
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]

INSTANTS = 40
"""Turns of the loop, in which each body has waited several times."""


async def end(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def fed() -> AsyncIterator[list[asyncio.Queue[str]]]:
    """Two queues that tasks fill, one of them more often."""

    async def feed(queue: asyncio.Queue[str], turns: int) -> None:
        while True:
            queue.put_nowait("item")
            for _ in range(turns):
                await asyncio.sleep(0)

    queues = [asyncio.Queue[str](), asyncio.Queue[str]()]
    feeding = [asyncio.ensure_future(feed(queue, turns)) for queue, turns in zip(queues, (2, 5), strict=True)]
    try:
        yield queues
    finally:
        await end(feeding)


async def tasks_with_a_timeout(tidy: Tidying) -> AsyncIterator[str]:
    async with fed() as queues:
        getting = {asyncio.ensure_future(queue.get()): queue for queue in queues}
        try:
            while True:
                done, _ = await asyncio.wait(getting, timeout=0, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    queue = getting.pop(task)
                    getting[asyncio.ensure_future(queue.get())] = queue
                    yield task.result()
        finally:
            await tidy()
            await end(getting)


async def several_queues(tidy: Tidying) -> AsyncIterator[str]:
    async with fed() as queues:
        try:
            while True:
                yield " ".join(await asyncio.gather(*(queue.get() for queue in queues)))
        finally:
            await tidy()


async def a_thread(tidy: Tidying) -> AsyncIterator[str]:
    try:
        while True:
            yield await asyncio.to_thread(str, "item")
    finally:
        await tidy()


@pytest.mark.parametrize("waiting", [tasks_with_a_timeout, several_queues, a_thread])
async def test_a_body_is_ended_once_at_whichever_instant(
    waiting: Callable[[Tidying], AsyncIterator[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled or closed once, and tidies up undisturbed."""

    async def visit(turns: int) -> None:
        tidy, connection = Tidying(), Connection()
        server = Server(lambda probe, stream: waiting(tidy))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: b"item" in got.body)
            for _ in range(turns):
                await asyncio.sleep(0)
            connection.leave()
        assert server.probe.events == ["cleanup"]
        assert (tidy.done, tidy.cancelled) == (True, 0)

    async with anyio.create_task_group() as visits:
        for turns in range(INSTANTS):
            visits.start_soon(visit, turns)
    assert "SSE stream" not in caplog.text


async def test_a_thread_that_a_body_waits_for_goes_on() -> None:
    """The body is ended at once, and what it had given to the thread is still in use."""
    steps: list[str] = []
    goes_on = threading.Event()

    def step() -> None:
        in_loop(probe.note, "waits")
        goes_on.wait(WAIT)
        steps.append("came back")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.to_thread(step)
        finally:
            probe.note("finally")

    in_loop = asyncio.get_running_loop().call_soon_threadsafe
    server, connection = Server(body), Connection()
    probe = server.probe
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await probe.until("waits")
        connection.leave()
    assert probe.events == ["waits", "finally", "cleanup"]
    assert steps == []
    goes_on.set()
