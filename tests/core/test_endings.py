"""Each way in which a stream can end: one reason, one cleanup, after the body."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from litestar_safe_sse import CloseReason, InvalidFieldError, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.buffer import AT_WORK
from litestar_safe_sse.config import MAX_DURATION
from tests.bounds import NEVER, SHORT
from tests.core.apps import Probe, Server, check
from tests.core.bodies import parked, rest, short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


async def test_a_body_that_ends_completes_the_response() -> None:
    """A body that comes to its end ends the response, and the stream as COMPLETED."""
    server, connection = Server(short), Connection()
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.complete
    assert connection.body == b"data: one\r\n\r\ndata: two\r\n\r\n"


@pytest.mark.parametrize("body", [waiting, parked])
async def test_a_client_that_leaves_ends_the_stream(body: Any) -> None:
    """A client that leaves ends the stream as CLIENT_DISCONNECTED, and nothing more is sent."""
    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"data" in got.body)
        connection.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert not connection.complete


async def test_a_client_that_left_before_the_response_never_starts_the_body() -> None:
    """A client known to have left before the response began never starts the body; its cleanups run."""
    server, connection = Server(waiting), Connection()
    connection.leave()
    await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED


async def empty(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    nothing: str
    for nothing in ():
        yield nothing


@pytest.mark.parametrize("last", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [(empty, CloseReason.COMPLETED), (waiting, CloseReason.CLOSED), (waiting, CloseReason.MAX_LIFETIME)],
)
async def test_what_send_raises_reaches_the_server_though_the_stream_has_ended(
    body: Any, reason: CloseReason, last: str
) -> None:
    """As what a hook raises that commits ahead of the headers, or a middleware at the end; the first reason stays."""

    class Failing(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if message["type"] == last and not message.get("body"):
                for stream in server.streams:
                    stream.close(reason)
                raise LookupError("of a hook")
            await super().send(message)
            for stream in server.streams:
                if message.get("body") and body is waiting:
                    stream.close(reason)

    server = Server(body, prefetch=1 if body is empty else 0)
    with pytest.raises(LookupError, match="of a hook"):
        await server.run(Failing())
    assert server.probe.reason is reason
    server.check_empty()


@pytest.mark.parametrize("reason", [CloseReason.CLOSED, CloseReason.REVOKED])
async def test_the_application_closes_a_stream(reason: CloseReason) -> None:
    """``aclose()`` from outside ends the stream for its reason, and returns when it has cleaned up."""
    server, connection = Server(waiting), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        assert server.probe.stream is not None
        await server.probe.stream.aclose(reason)
        assert server.probe.events == ["began", "finally", "cleanup"]
    check(server, reason)
    assert connection.complete


async def test_a_body_closes_its_own_stream() -> None:
    """``aclose()`` called by the body does not wait for itself; the body ends at its next yield, uncancelled."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            await stream.aclose()
            yield "last"
            probe.note("went on")
        finally:
            await anyio.sleep(0.001)
            probe.note("finally")

    server, connection = Server(body), Connection()
    await server.run(connection)
    check(server, CloseReason.CLOSED)
    assert b"last" in connection.body


async def test_a_stream_that_its_handler_has_closed_never_starts_the_body() -> None:
    """Its response is whole, and has no event."""

    async def handler(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await stream.aclose()
        return waiting(probe, stream)

    server, connection = Server(handler), Connection()
    await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.CLOSED
    assert connection.complete
    assert b"data" not in connection.body


async def test_all_streams_are_closed_at_once() -> None:
    """``aclose_all()`` ends every stream and waits for their cleanups."""
    server = Server(waiting)
    connections = [Connection() for _ in range(10)]

    async def run(connection: Connection) -> None:
        await server.app(connection.scope, connection.receive, connection.send)

    async with anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(run, connection)
        for connection in connections:
            await connection.until(lambda got: b"one" in got.body)
        assert len(server.streams) == 10
        await server.streams.aclose_all(CloseReason.REVOKED)
        assert len(server.streams) == 0
    assert server.streams.statistics().closed == {CloseReason.REVOKED: 10}
    assert server.probe.events.count("cleanup") == server.probe.events.count("finally") == 10


async def test_a_lifetime_ends_a_stream() -> None:
    """A stream is ended when ``max_lifetime`` is over."""
    server, connection = Server(waiting, max_lifetime=SHORT), Connection()
    await server.run(connection)
    check(server, CloseReason.MAX_LIFETIME)
    assert connection.complete


@pytest.mark.parametrize("body", [waiting, parked])
async def test_a_client_that_stops_reading_is_given_up(body: Any) -> None:
    """A ``send()`` that is blocked for ``send_timeout`` ends the stream as SEND_TIMEOUT."""
    server, connection = Server(body, send_timeout=SHORT), Connection()

    async def send(message: dict[str, Any]) -> None:
        await connection.send(message)
        if message.get("body"):
            await anyio.sleep_forever()

    await server.run(connection, send=send)
    check(server, CloseReason.SEND_TIMEOUT)
    assert not connection.complete


async def test_a_send_timeout_shorter_than_the_ping_interval_is_kept() -> None:
    """``send_timeout`` is kept to although no heartbeat is due for long."""
    server, connection = Server(waiting, send_timeout=SHORT, ping_interval=NEVER), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await anyio.sleep_forever()

    await server.run(connection, send=send)
    check(server, CloseReason.SEND_TIMEOUT)


@pytest.mark.parametrize("error", [OSError, BrokenPipeError, ConnectionResetError])
async def test_a_send_that_fails_means_that_the_client_left(error: type[OSError]) -> None:
    """An ``OSError`` of ``send()`` (ASGI 2.4) ends the stream as CLIENT_DISCONNECTED, and is not raised."""
    server, connection = Server(waiting), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            raise error

    await server.run(connection, send=send)
    check(server, CloseReason.CLIENT_DISCONNECTED)


@pytest.mark.parametrize("body", [waiting, parked])
async def test_a_request_that_is_cancelled_means_that_the_client_left(body: Any) -> None:
    """A server that cancels the request ends the stream as CLIENT_DISCONNECTED, and goes on being cancelled."""
    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"data" in got.body)
        tasks.cancel_scope.cancel()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert not connection.complete


async def talkative(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """One that yields nothing, and sends without end."""
    try:
        probe.note("began")
        while True:
            await stream.send("x" * 1000)
            if probe.stream is None:
                yield "never"
    finally:
        await rest(probe)


class TooMuchError(Exception):
    """What ends a stream that would take all memory."""


async def assisted(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """One that waits for a task that sends without end."""

    async def talk() -> None:
        while True:
            await stream.send("x" * 1000)

    try:
        probe.note("began")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            yield "one"
            await anyio.sleep_forever()
    finally:
        await rest(probe)


def work() -> None:
    """Blocks the loop for longer than what counts as being at work on the next event."""
    time.sleep(1.5 * AT_WORK)


async def obliging(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """One that works on each event without a wait, and then lets others run."""
    try:
        probe.note("began")
        while True:
            yield "x" * 1000
            work()
            await checkpoint()
    finally:
        await rest(probe)


@pytest.mark.parametrize("body", [parked, talkative, assisted, obliging])
@pytest.mark.parametrize("turns", range(4))
async def test_a_busy_body_holds_up_no_cancellation_of_its_request(body: Any, turns: int) -> None:
    """A scope of anyio's ends a request at once though its body never waits, wherever the two are in their turns."""
    server, connection = Server(body), Connection()
    sent_after = 0

    async def send(message: dict[str, Any]) -> None:  # as many servers' it does not wait
        nonlocal sent_after
        await connection.send(message)
        sent_after += timeout.cancel_called
        if sent_after > 20:
            raise TooMuchError

    with anyio.CancelScope() as timeout:
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await connection.until(lambda got: b"data" in got.body)
                for _ in range(turns):
                    await checkpoint()
                timeout.cancel()

            tasks.start_soon(end)
            await server.run(connection, send=send)
    check(server, CloseReason.CLIENT_DISCONNECTED)


@pytest.mark.parametrize("failing", ["before", "between"])
async def test_a_body_that_fails_ends_the_stream_and_the_error_is_raised(failing: str) -> None:
    """A body's error is raised after the cleanup; what it had yielded is sent, and the end is missing."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            if failing == "between":
                yield "one"
            raise LookupError("no such thing")
        finally:
            await anyio.sleep(0.001)
            probe.note("finally")

    server, connection = Server(body), Connection()
    with pytest.raises(LookupError, match="no such thing"):
        await server.run(connection)
    check(server, CloseReason.ERROR)
    assert (b"one" in connection.body) is (failing == "between")
    assert not connection.complete


async def test_an_item_that_cannot_be_sent_ends_the_stream_as_an_error() -> None:
    """An item that cannot be encoded ends the stream as ERROR, and nothing of it is sent."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[Any]:
        try:
            probe.note("began")
            yield "good"
            yield {"data": "bad", "event": "a\nb"}
        finally:
            await anyio.sleep(0.001)
            probe.note("finally")

    server, connection = Server(body), Connection()
    with pytest.raises(InvalidFieldError, match="event"):
        await server.run(connection)
    check(server, CloseReason.ERROR)
    assert connection.body == b"data: good\r\n\r\n"


async def test_the_longest_durations_end_nothing() -> None:
    """What can be set can be waited for, on every event loop."""
    longest = dict.fromkeys(
        ("ping_interval", "send_timeout", "max_lifetime", "cleanup_timeout", "shutdown_grace"), MAX_DURATION
    )
    server, connection = Server(short, SafeSSEConfig(**longest)), Connection()  # type: ignore[arg-type]
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.complete
