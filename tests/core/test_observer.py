"""Whoever watches streams is notified of each thing once, in order."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig
from litestar_safe_sse._core.statistics import ObservedStream
from tests.core.apps import Server
from tests.core.bodies import short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


class Recorder:
    """An observer that keeps what it is notified of."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.bytes = 0

    def stream_opened(self, stream: ObservedStream) -> None:
        self.events.append(("opened", stream.id))

    def stream_refused(self, handler: str, why: str) -> None:
        self.events.append(("refused", why))

    def stream_sent(self, stream: ObservedStream, size: int) -> None:
        self.bytes += size

    def stream_closed(self, stream: ObservedStream) -> None:
        self.events.append(("closed", stream.id, stream.close_reason))


async def test_an_observer_sees_a_stream_from_its_opening_to_its_end() -> None:
    """Each stream is opened and closed once, and the bytes are those that the server has taken."""
    server, connection, recorder = Server(short), Connection(), Recorder()
    server.streams.observe(recorder)
    await server.run(connection)
    assert server.probe.stream is not None
    id = server.probe.stream.id
    assert recorder.events == [("opened", id), ("closed", id, CloseReason.COMPLETED)]
    assert recorder.bytes == len(connection.body)


async def test_an_observer_sees_refusals() -> None:
    """A stream that is not admitted is refused, and neither opened nor closed."""
    server, connection, recorder = Server(waiting, SafeSSEConfig(max_streams=1)), Connection(), Recorder()
    server.streams.observe(recorder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        refused = Connection()
        await server.app(refused.scope, refused.receive, refused.send)
        connection.leave()
    assert [event[0] for event in recorder.events] == ["opened", "refused", "closed"]
