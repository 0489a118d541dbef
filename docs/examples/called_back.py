"""Readings of a sensor whose driver calls back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from litestar import Litestar
from msgspec import Struct

from litestar_safe_sse import SafeSSEPlugin, StreamContext, sse


class Reading(Struct, tag="reading"):
    celsius: float


class Started(Struct, tag="started"):
    sensor: str


@asynccontextmanager
async def sensor(on_reading: Callable[[Reading], Awaitable[None]]) -> AsyncIterator[str]:
    """Stands for a driver that takes a function to be called."""

    async def measure() -> None:
        for number in range(1000):
            await on_reading(Reading(20 + number / 10))
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(measure)
        try:
            yield "kitchen"
        finally:
            group.cancel_scope.cancel()
            print("sensor closed", flush=True)


@sse("/readings")
async def readings(stream: StreamContext) -> AsyncIterator[Started | Reading]:
    async with sensor(stream.send) as name:
        yield Started(name)
        await stream.wait_closing()


app = Litestar([readings], plugins=[SafeSSEPlugin()])
