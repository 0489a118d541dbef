"""What is different under trio, where a cancelled scope stays cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
import trio
import trio.lowlevel

from litestar_safe_sse import CloseReason, StreamContext
from tests.core.apps import Probe, Server, leave
from tests.core.clients import Connection
from tests.loops import TRIO

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", [TRIO])]


async def test_every_await_of_a_stopped_body_is_cancelled_unless_it_is_shielded() -> None:
    """What waits has trio's own semantics."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            probe.note("waits")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                probe.note("shielded")
            for _ in range(2):
                try:
                    await trio.lowlevel.checkpoint()
                except trio.Cancelled:
                    probe.note("cancelled")

    server, connection = Server(body), Connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, connection)
        await server.probe.until("waits")
        connection.leave()
    assert server.probe.events == ["waits", "shielded", "cancelled", "cancelled", "cleanup"]


async def test_cleanups_are_not_cancelled() -> None:
    """What is registered with the stream may await, though the body was cancelled."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def release() -> None:
            await trio.sleep(0.001)
            assert trio.current_effective_deadline() > trio.current_time()
            probe.note("released")

        stream.push_async_callback(release)
        yield "one"
        await trio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["released", "cleanup"]


async def test_contexts_of_a_handler_are_entered_by_the_request_and_left_by_the_owner() -> None:
    """One that holds nothing of its task can be used so; one with a nursery is for the body to enter."""
    tasks: list[trio.lowlevel.Task] = []

    class Resource:
        async def __aenter__(self) -> None:
            tasks.append(trio.lowlevel.current_task())

        async def __aexit__(self, *_: object) -> None:
            tasks.append(trio.lowlevel.current_task())

    async def handler(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        tasks.append(trio.lowlevel.current_task())
        await stream.enter_async_context(Resource())
        return body(probe, stream)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(trio.sleep, 0)
            tasks.append(trio.lowlevel.current_task())
            yield "one"

    server = Server(handler)
    await server.run(Connection())
    request, entered_by, body_of, left_by = tasks
    assert entered_by is request
    assert left_by is body_of is not request
    assert server.probe.reason is CloseReason.COMPLETED
