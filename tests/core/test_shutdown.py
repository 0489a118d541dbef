"""A shutdown of the application: streams end first, and may say farewell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from tests.bounds import WAIT
from tests.core.apps import Probe, Server, check
from tests.core.bodies import waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


async def test_a_lifespan_shutdown_ends_the_streams_first() -> None:
    """At shutdown the streams end as SHUTDOWN, before the application's own hooks run."""
    server, connection = Server(waiting), Connection()
    async with anyio.create_task_group() as tasks:
        async with server.app.lifespan():
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: b"one" in got.body)
        server.probe.note("the application's own")
    assert server.probe.events == ["began", "finally", "cleanup", "the application's own"]
    assert server.probe.reason is CloseReason.SHUTDOWN
    assert connection.complete


async def test_a_body_that_asks_may_say_farewell() -> None:
    """A body that looks at ``closing`` has ``shutdown_grace`` to end by itself."""

    asking = anyio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            yield "one"
            asking.set()
            await stream.wait_closing()
            yield "farewell"
        finally:
            probe.note("finally")

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        with anyio.fail_after(WAIT):
            await asking.wait()
    check(server, CloseReason.SHUTDOWN)
    assert connection.body.endswith(b"data: farewell\r\n\r\n")
    assert connection.complete


async def test_the_grace_ends() -> None:
    """A body that asked for a grace and does not end in it is ended."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            yield "one"
            await stream.wait_closing()
            await anyio.sleep_forever()
        finally:
            probe.note("finally")

    server, connection = Server(body, SafeSSEConfig(shutdown_grace=0.05)), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
    check(server, CloseReason.SHUTDOWN)


async def test_a_client_that_leaves_during_the_grace_cuts_no_cleanup_short() -> None:
    """In the grace a client's leaving does not cancel the body, which may be in its ``finally`` already."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "one"
            await stream.wait_closing()
            yield "farewell"
        finally:
            connection.leave()
            await anyio.sleep(0.05)
            probe.note("finally")

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
    assert server.probe.events == ["began", "finally", "cleanup"]
    assert server.probe.reason is CloseReason.SHUTDOWN


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME])
async def test_a_farewell_gets_through_a_server_that_cancels(times: int, reason: CloseReason) -> None:
    """A server that cancels its requests when it shuts down does not keep the last events from being sent."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "one"
            await stream.wait_closing()
            await anyio.sleep(0.01)
            yield "farewell"
        finally:
            await anyio.sleep(0.01)
            probe.note("finally")

    server, connection = Server(body), Connection()
    request = asyncio.ensure_future(server.app(connection.scope, connection.receive, connection.send))
    await connection.until(lambda got: b"one" in got.body)
    if reason is not CloseReason.SHUTDOWN:  # which may be saying farewell already
        (stream,) = server.streams
        stream.close(reason)
    server.streams.begin_drain()
    for _ in range(times):
        request.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([request], timeout=WAIT)
    assert request.cancelled()
    check(server, reason)
    assert connection.body.endswith(b"data: farewell\r\n\r\n")
    assert connection.complete
    await server.streams.drain()
    server.streams.stop()


async def test_streams_are_refused_while_draining() -> None:
    """Once a shutdown has begun, a new stream is refused."""
    server = Server(waiting)
    async with server.app.lifespan():
        server.streams.begin_drain()
        connection = Connection()
        await server.run(connection)
    assert connection.status == 503
    assert server.probe.events == []
