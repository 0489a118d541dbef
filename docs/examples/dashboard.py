"""Shows the newest reading to everybody; a client that reads slowly misses some, and never lags behind."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from litestar import Litestar, get
from msgspec import Struct

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext

INTERVAL = 0.2


class Reading(Struct):
    number: int
    load: float
    viewers: int


class Gauge:
    """Takes one reading for all streams."""

    def __init__(self) -> None:
        self.reading = Reading(0, 0.0, 0)
        self.changed = anyio.Event()

    async def run(self) -> None:
        while True:
            self.reading = Reading(self.reading.number + 1, os.getloadavg()[0], len(plugin.streams))
            self.changed.set()
            self.changed = anyio.Event()
            await anyio.sleep(INTERVAL)


@asynccontextmanager
async def measuring(app: Litestar) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(gauge.run)
        yield
        group.cancel_scope.cancel()


@get("/dashboard")
async def dashboard(stream: StreamContext) -> SafeServerSentEvent:
    async def body() -> AsyncIterator[Reading]:
        while True:
            changed = gauge.changed
            yield gauge.reading
            await stream.flush()  # until the server has taken it; meanwhile newer ones replace each other
            await changed.wait()

    return SafeServerSentEvent(body(), event_type="reading")


gauge = Gauge()
plugin = SafeSSEPlugin(SafeSSEConfig(send_timeout=10, max_lifetime=3600, max_streams=1000, on_refusal="reconnect"))
app = Litestar([dashboard], plugins=[plugin], lifespan=[measuring])
