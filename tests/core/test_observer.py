"""Whoever watches streams is notified of each thing once, in order."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.statistics import ObservedStream, Observer
from tests.core.apps import NAMES, PATIENT, Probe, Server
from tests.core.bodies import short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


class Recorder(Observer):
    """An observer that keeps what it is notified of."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.bytes = self.bytes_at_close = self.events_sent = self.heartbeats = 0

    def stream_opened(self, stream: ObservedStream) -> None:
        self.events.append(("opened", stream.id))

    def stream_refused(self, handler: str, why: str) -> None:
        self.events.append(("refused", why))

    def stream_answered(self, stream: ObservedStream) -> None:
        self.events.append(("answered", stream.id))

    def stream_owned(self, stream: ObservedStream) -> None:
        self.events.append(("owned", stream.id))

    def stream_sent(self, stream: ObservedStream, size: int, events: int, heartbeats: int) -> None:
        self.bytes += size
        self.events_sent += events
        self.heartbeats += heartbeats

    def stream_ended(self, stream: ObservedStream) -> None:
        self.events.append(("ended", stream.id))

    def stream_closed(self, stream: ObservedStream) -> None:
        self.events.append(("closed", stream.id, stream.close_reason))
        self.bytes_at_close = stream.bytes_sent


async def test_an_observer_sees_a_stream_from_its_opening_to_its_end() -> None:
    """Each stream is opened and closed once, and the bytes are those that the server has taken."""
    server, connection, recorder = Server(short), Connection(), Recorder()
    server.streams.observe(recorder)
    await server.run(connection)
    assert server.probe.stream is not None
    id = server.probe.stream.id
    steps = ["opened", "answered", "owned", "ended"]
    assert recorder.events == [*((step, id) for step in steps), ("closed", id, CloseReason.COMPLETED)]
    assert recorder.bytes == recorder.bytes_at_close == len(connection.body)
    assert recorder.events_sent == connection.body.count(b"data:")
    assert recorder.heartbeats == 0


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
    assert [event[0] for event in recorder.events] == ["opened", "answered", "owned", "refused", "ended", "closed"]


async def test_an_observer_tells_heartbeats_from_events() -> None:
    """What a chunk is made of is told exactly."""
    server, connection, recorder = Server(waiting, replace(PATIENT, ping_interval=0.02)), Connection(), Recorder()
    server.streams.observe(recorder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body.count(b"ping") == 2)
        connection.leave()
    assert recorder.events_sent == connection.body.count(b"data:") == 1
    assert recorder.heartbeats == connection.body.count(b"ping") >= 2
    assert recorder.bytes == len(connection.body)


async def test_what_is_discarded_is_observed_too() -> None:
    """A stream that no response has taken is closed once, and has not been answered."""
    server, recorder = Server(waiting), Recorder()
    server.streams.observe(recorder)
    stream = server.streams.admit(NAMES)
    await stream.discard(CloseReason.ERROR)
    assert [event[0] for event in recorder.events] == ["opened", "owned", "ended", "closed"]


async def test_observers_run_where_they_say() -> None:
    """What is set in the context of the owner is seen by the body and the cleanups, and by nobody else."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    class Setting(Observer):
        def stream_owned(self, stream: ObservedStream) -> None:
            variable.set("set")

        def stream_closed(self, stream: ObservedStream) -> None:
            seen.append(f"request {variable.get()}")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.callback(lambda: seen.append(f"cleanup {variable.get()}"))
        seen.append(f"body {variable.get()}")
        yield "one"

    server = Server(body)
    server.streams.observe(Setting())
    await server.run(Connection())
    assert seen == ["body set", "cleanup set", "request unset"]
