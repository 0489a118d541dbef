"""Whoever watches streams is notified of each thing once, in order."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, NamedTuple

import anyio
import pytest

from litestar_safe_sse import CloseReason, InvalidFieldError, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.statistics import ObservedStream, Observer
from tests.bounds import WAIT
from tests.core.apps import NAMES, PATIENT, Probe, Server
from tests.core.bodies import short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


class Sent(NamedTuple):
    """What a server has taken."""

    bytes: int
    events: int
    heartbeats: int

    @classmethod
    def by(cls, stream: ObservedStream) -> Sent:
        return cls(stream.bytes_sent, stream.events_sent, stream.heartbeats_sent)

    @classmethod
    def to(cls, connection: Connection) -> Sent:
        return cls(len(connection.body), connection.body.count(b"data:"), connection.body.count(b"ping"))


class Recorder(Observer):
    """An observer that keeps what it is notified of."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.streams: list[ObservedStream] = []
        self.sent = Sent(0, 0, 0)
        """What the last stream that has closed had sent."""

    def stream_opened(self, stream: ObservedStream) -> None:
        self.streams.append(stream)
        self.events.append(("opened", stream.id))

    def stream_refused(self, handler: str, why: str) -> None:
        self.events.append(("refused", why))

    def stream_answered(self, stream: ObservedStream) -> None:
        self.events.append(("answered", stream.id))

    def stream_owned(self, stream: ObservedStream) -> None:
        self.events.append(("owned", stream.id))

    def stream_begun(self, stream: ObservedStream) -> None:
        self.events.append(("begun", stream.id))

    def stream_ended(self, stream: ObservedStream) -> None:
        self.events.append(("ended", stream.id))

    def stream_closed(self, stream: ObservedStream) -> None:
        self.events.append(("closed", stream.id, stream.close_reason))
        self.sent = Sent.by(stream)

    def streams_drained(self) -> None:
        self.events.append(("drained",))


async def test_an_observer_sees_a_stream_from_its_opening_to_its_end() -> None:
    """Each stream is opened and closed once, and the bytes are those that the server has taken."""
    server, connection, recorder = Server(short), Connection(), Recorder()
    server.streams.observe(recorder)
    await server.run(connection)
    assert server.probe.stream is not None
    id = server.probe.stream.id
    steps = ["opened", "answered", "owned", "begun", "ended"]
    assert recorder.events == [*((step, id) for step in steps), ("closed", id, CloseReason.COMPLETED)]
    assert recorder.sent == Sent.to(connection)


async def test_an_observer_is_not_called_for_what_is_sent() -> None:
    """A hundred chunks are no more calls than one."""
    counts = []
    for number in (1, 100):

        async def body(probe: Probe, stream: StreamContext, number: int = number) -> AsyncIterator[int]:
            for each in range(number):
                yield each
                await stream.flush()

        server, connection, recorder = Server(body), Connection(), Recorder()
        server.streams.observe(recorder)
        await server.run(connection)
        assert recorder.sent == Sent.to(connection)
        assert recorder.sent.events == number
        counts.append([event[0] for event in recorder.events])
    assert counts[0] == counts[1]


async def test_what_the_server_did_not_take_was_not_sent() -> None:
    """Neither a chunk whose send fails, nor what waits for it."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await stream.flush()
        yield "two"
        await anyio.sleep_forever()

    class Failing(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if b"two" in message.get("body", b""):
                raise ConnectionResetError
            await super().send(message)

    server, connection, recorder = Server(body), Failing(), Recorder()
    server.streams.observe(recorder)
    await server.run(connection)
    assert recorder.sent == Sent.to(connection)
    assert recorder.sent.events == 1
    assert recorder.events[-1][-1] is CloseReason.CLIENT_DISCONNECTED


async def test_heartbeats_that_are_not_taken_are_not_counted() -> None:
    """As that is which a client who has stopped reading is sent last."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    class Stalling(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if b"ping" in message.get("body", b"") and b"ping" in self.body:
                self.leave()
                await anyio.sleep_forever()
            await super().send(message)

    server, connection, recorder = Server(body, replace(PATIENT, ping_interval=0.02)), Stalling(), Recorder()
    server.streams.observe(recorder)
    await server.run(connection)
    assert recorder.sent == Sent.to(connection)
    assert recorder.sent.heartbeats == 1
    assert server.probe.stream is not None


async def test_an_observer_learns_that_all_streams_have_ended() -> None:
    """At a shutdown, when the last of them has cleaned up."""
    server, connection, recorder = Server(waiting), Connection(), Recorder()
    server.streams.observe(recorder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        await server.streams.drain()
        assert ("drained",) in recorder.events
        assert len(server.streams) == 0
    assert [event[0] for event in recorder.events if event[0] in ("ended", "drained")] == ["ended", "drained"]
    assert recorder.events.count(("closed", recorder.streams[0].id, CloseReason.SHUTDOWN)) == 1


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
    assert [event[0] for event in recorder.events] == [
        *("opened", "answered", "owned", "begun", "refused", "ended", "closed")
    ]


async def test_an_observer_tells_heartbeats_from_events() -> None:
    """At any time, and a heartbeat is not where a stream begins."""
    go = anyio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await go.wait()
        yield "one"
        await anyio.sleep_forever()

    server, connection, recorder = Server(body, replace(PATIENT, ping_interval=0.02)), Connection(), Recorder()
    server.streams.observe(recorder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body.count(b"ping") == 2)
        assert [event[0] for event in recorder.events] == ["opened", "answered", "owned"]
        go.set()
        await connection.until(lambda got: b"one" in got.body)
        await anyio.wait_all_tasks_blocked()
        assert Sent.by(recorder.streams[0]) == Sent.to(connection)
        assert recorder.events[-1][0] == "begun"
        connection.leave()
    assert recorder.sent == Sent.to(connection)
    assert recorder.sent.events == 1
    assert recorder.sent.heartbeats >= 2


async def test_what_is_discarded_is_observed_too() -> None:
    """A stream that no response has taken is closed once, and has not been answered."""
    server, recorder = Server(waiting), Recorder()
    server.streams.observe(recorder)
    stream = server.streams.admit(NAMES)
    await stream.discard(CloseReason.ERROR)
    assert [event[0] for event in recorder.events] == ["opened", "owned", "ended", "closed"]


async def test_an_observer_learns_of_the_end_though_the_request_is_cancelled() -> None:
    """As by a time limit that a middleware has, or by a server at its exit, while the stream cleans up."""
    cleaning, may_end = anyio.Event(), anyio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def cleanup() -> None:
            cleaning.set()
            await may_end.wait()

        stream.push_async_callback(cleanup)
        yield "one"
        await anyio.sleep_forever()

    server, connection, recorder = Server(body), Connection(leaves_after=b"one"), Recorder()
    server.streams.observe(recorder)
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.app, connection.scope, connection.receive, connection.send)
            await cleaning.wait()
            tasks.cancel_scope.cancel()
            may_end.set()
    server.check_empty()
    steps = [event[0] for event in recorder.events]
    assert steps == ["opened", "answered", "owned", "begun", "ended", "closed"]


@pytest.mark.parametrize("observer", [None, object(), Observer, print])
async def test_what_is_no_observer_is_refused(observer: Any) -> None:
    """When it is given, and not with each stream."""
    with pytest.raises(
        InvalidFieldError, match="invalid observer: must be an instance of a class that is derived from"
    ):
        Server(short).streams.observe(observer)


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
