"""What goes on is told by the state of the stream, to all who have its context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from litestar_safe_sse import StreamContext, StreamState
from tests.bounds import NEVER
from tests.core.apps import PATIENT, Probe, Server
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("by_itself", [True, False], ids=["by-itself", "told-to"])
async def test_each_state_is_seen_by_what_goes_on_in_it(by_itself: bool) -> None:
    """By the handler, the body, the body in its grace and at its end, the cleanups, and whoever keeps the context."""
    seen: list[StreamState] = []

    async def handler(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        seen.append(stream.state)
        stream.callback(lambda: seen.append(stream.state))
        return body(probe, stream)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            seen.append(stream.state)
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "one"
            await stream.wait_closing()
            seen.append(stream.state)
            probe.note("farewell")
            if not by_itself:
                await anyio.sleep_forever()
        finally:
            seen.append(stream.state)

    server, connection = Server(handler, replace(PATIENT, shutdown_grace=NEVER)), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        server.streams.begin_drain()
        await server.probe.until("farewell")
        assert server.probe.stream is not None
        if not by_itself:
            await server.probe.stream.aclose()
    assert server.probe.stream is not None
    seen.append(server.probe.stream.state)
    ended = StreamState.CLOSING if by_itself else StreamState.ENDING
    assert seen == ["new", "open", "closing", ended, "cleaning", "closed"]
    server.streams.stop()


async def test_a_body_that_has_ended_by_itself_closes_what_it_left_while_it_is_ending() -> None:
    """Its generators and sources belong to it: the cleanups come after."""
    seen: list[StreamState] = []

    async def rows(stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            seen.append(stream.state)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.callback(lambda: seen.append(stream.state))
        async for row in stream.iterate(rows(stream)):
            yield row
            return

    await Server(body).run(Connection())
    assert seen == [StreamState.ENDING, StreamState.CLEANING]
