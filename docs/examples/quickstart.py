"""A stream that holds a connection, and gives it back however it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext


class Connection:
    """Stands for a connection to a database, a broker or another service."""

    async def read(self) -> dict[str, float]:
        await anyio.sleep(0.2)
        return {"time": anyio.current_time()}


@asynccontextmanager
async def connect() -> AsyncIterator[Connection]:
    print("connected")
    try:
        yield Connection()
    finally:
        await anyio.sleep(0.1)  # a goodbye to the other side: it takes time, and it must not be cut off
        print("connection closed")


@get("/readings")
async def readings(stream: StreamContext) -> SafeServerSentEvent:
    connection = await stream.enter_async_context(connect())

    async def body() -> AsyncIterator[SSEMessage]:
        while True:
            yield SSEMessage(await connection.read(), event="reading")

    return SafeServerSentEvent(body())


app = Litestar([readings], plugins=[SafeSSEPlugin()])
