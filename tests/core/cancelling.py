"""Work that loses its cancellation, or takes its time with it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

import anyio

from litestar_safe_sse import CloseReason
from litestar_safe_sse._runtime.tokens import PAUSE
from tests.bounds import NEVER
from tests.core.apps import Probe, Server
from tests.core.clients import Connection

LONGER = 2.5 * PAUSE
"""Seconds that something tidies up for, so that a second cancellation would reach it."""


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def stop(body: Callable[[Probe], AsyncIterator[str]], meanwhile: Callable[[], object] | None = None) -> list[str]:
    """Ends the stream of a body where it waits, and does something else in the same turn of the loop."""

    server, connection = Server(lambda probe, _: body(probe)), Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, connection)
        await server.probe.until("waits")
        await asyncio.sleep(0.001)
        for stream in server.streams:
            stream.close(CloseReason.CLIENT_DISCONNECTED)
        if meanwhile is not None:
            meanwhile()
    return server.probe.events


class Tidying:
    """Awaits for longer than it takes to be cancelled again, and counts how often it was."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.done = False

    async def __call__(self) -> None:
        for _ in range(5):
            try:
                await asyncio.sleep(LONGER / 5)
            except asyncio.CancelledError:
                self.cancelled += 1
        self.done = True


async def by_wait_for() -> None:
    await asyncio.wait_for(waits_on(), NEVER)


async def by_wait_for_within_another() -> None:
    await asyncio.wait_for(by_wait_for(), NEVER)


async def by_wait_for_in_a_generator() -> None:
    async def items() -> AsyncIterator[None]:
        await asyncio.wait_for(again_and_again(), NEVER)
        yield

    async for _ in items():
        pass


async def waits_on() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await forever()
    await forever()


async def filters_a_backlog() -> None:
    """Up to Python 3.11 the timeout loses each cancellation that comes when the item is on its way."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    while True:
        queue.put_nowait(1)
        await asyncio.wait_for(queue.get(), NEVER)
        if sys.version_info >= (3, 12):  # which does not wait for what is there
            await asyncio.sleep(0)


async def returns() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await forever()


async def in_a_generator() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        await waits_on()

    async for _ in items():
        pass


async def in_a_child() -> None:
    await asyncio.ensure_future(waits_on())


async def in_a_child_that_returns() -> None:
    await asyncio.ensure_future(returns())


async def in_children() -> None:
    await asyncio.gather(waits_on(), waits_on())


async def a_while_later() -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        await asyncio.sleep(LONGER)


async def with_another_exception() -> None:
    with contextlib.suppress(ConnectionError):
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError from None


async def again_and_again() -> None:
    for _ in range(3):
        await returns()
