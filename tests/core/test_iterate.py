"""The timeout-sliced iterator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import InvalidFieldError, StreamContext
from tests.core.apps import Probe, Server, leave
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


async def test_iterate_ends_when_the_stream_closes() -> None:
    """The loop over ``iterate()`` is left as at the end of its source, which has been cleaned up, for a farewell."""

    async def source(probe: Probe) -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            probe.note("source")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(source(probe)):
            yield item
        yield "farewell"
        probe.note("finally")

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
    assert server.probe.events == ["source", "finally", "cleanup"]
    assert connection.body.endswith(b"data: farewell\r\n\r\n")


async def test_a_slice_that_runs_out_cancels_nothing() -> None:
    """A source that takes many slices for an item is not disturbed by their ends."""

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            await anyio.sleep(0.03)
            yield number

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[int]:
        async for item in stream.iterate(source(), slice_timeout=0.001):
            yield item

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert connection.body == b":\r\ndata: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"


@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves_ends_the_source_too(waits: bool) -> None:
    """When the client leaves, the source of ``iterate()`` is ended before the cleanups, waiting or not."""

    async def source(probe: Probe) -> AsyncIterator[str]:
        try:
            yield "one"
            while waits:
                await anyio.sleep_forever()
            yield "two"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            probe.note("source")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(source(probe)):
            yield item
            if not waits:
                await anyio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["source", "cleanup"]


async def test_an_error_of_the_source_is_the_bodys() -> None:
    """What the source of ``iterate()`` raises is raised in the body."""

    async def source() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[int]:
        try:
            async for item in stream.iterate(source):
                yield item
        except LookupError:
            probe.note("raised")

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.events == ["raised", "cleanup"]


@pytest.mark.parametrize("source", [asyncio.Queue(), 3, None, object(), list])
async def test_what_cannot_be_iterated_over_is_refused(source: Any) -> None:
    """A body may be a single item; a source that is one would be a mistake, and a queue most likely of all."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        with pytest.raises(InvalidFieldError, match="invalid source: must be an "):
            stream.iterate(source)
        yield "refused"

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert b"refused" in connection.body


async def test_iterate_over_a_sync_source() -> None:
    """A sync source of ``iterate()`` is advanced in a thread."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[bool]:
        main = threading.get_ident()
        async with stream.iterate(threading.get_ident() != main for _ in range(2)) as items:
            async for item in items:
                yield item

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert connection.body.removeprefix(b":\r\n") == b"data: true\r\n\r\n" * 2
