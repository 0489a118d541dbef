"""The first event is prefetched: the headers wait for it, and the body waits at it for the headers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, InvalidFieldError, SafeSSEConfig, StreamContext
from litestar_safe_sse._runtime.current import current_runtime
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import PATIENT, Body, Probe, Server, check
from tests.core.bodies import parked, rest, short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


def prefetching(body: Body, seconds: float = NEVER, config: SafeSSEConfig = PATIENT) -> Server:
    return Server(body, config, prefetch=seconds)


async def hesitant(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """Has nothing to say until it is ended, and awaits while it ends."""
    try:
        probe.note("began")
        await anyio.sleep_forever()
        yield "never"
    finally:
        await rest(probe)


async def stepping(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    probe.note("began")
    yield "one"
    probe.note("went on")


def stepping_in_a_thread(probe: Probe, stream: StreamContext) -> Any:
    in_loop = current_runtime().call_threadsafe

    def steps() -> Iterator[str]:
        in_loop(lambda: probe.note("began"))
        yield "one"
        in_loop(lambda: probe.note("went on"))

    return steps()


@pytest.mark.parametrize("body", [stepping, stepping_in_a_thread])
async def test_a_body_is_held_at_its_first_event_until_the_headers_are_sent(body: Body) -> None:
    """What stands before the first ``yield`` runs first, then a commit in ``send``, then what stands behind it."""
    server, connection = prefetching(body), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await anyio.sleep(0.02)
            server.probe.note("committed")
        await connection.send(message)

    await server.run(connection, send=send)
    assert server.probe.events == ["began", "committed", "went on", "cleanup"]
    assert connection.body == b"data: one\r\n\r\n"
    assert connection.complete


async def test_the_first_event_follows_the_headers_at_once() -> None:
    """It is in the first message of the response's body."""
    server, connection = prefetching(short), Connection()
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.messages[1]["body"].startswith(b"data: one")
    assert connection.body == b"data: one\r\n\r\ndata: two\r\n\r\n"


async def test_a_failure_ahead_of_the_first_event_is_raised_when_all_is_cleaned_up() -> None:
    """Nothing has been sent by then, so that whoever catches it can still answer as it likes."""

    async def failing(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            await anyio.lowlevel.checkpoint()
            raise LookupError("nothing here")
            yield "never"
        finally:
            await rest(probe)

    server, connection = prefetching(failing), Connection()
    with pytest.raises(LookupError, match="nothing here"):
        await server.run(connection)
    check(server, CloseReason.ERROR)
    assert connection.messages == []
    server.check_empty()


async def test_a_first_event_that_cannot_be_sent_is_a_failure_ahead_of_it() -> None:
    """The body is closed at its ``yield``, and nothing has been sent."""

    async def unsendable(probe: Probe, stream: StreamContext) -> AsyncIterator[object]:
        try:
            probe.note("began")
            yield None
        finally:
            await rest(probe)

    server, connection = prefetching(unsendable), Connection()
    with pytest.raises(InvalidFieldError, match="must not be None"):
        await server.run(connection)
    check(server, CloseReason.ERROR)
    assert connection.messages == []


async def test_a_failure_behind_the_first_event_comes_behind_the_headers() -> None:
    """The client has got the event by then."""

    async def failing(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            yield "one"
            raise LookupError("later")
        finally:
            await rest(probe)

    server, connection = prefetching(failing), Connection()
    with pytest.raises(LookupError, match="later"):
        await server.run(connection)
    check(server, CloseReason.ERROR)
    assert connection.status == 200
    assert connection.body == b"data: one\r\n\r\n"
    assert not connection.complete


async def test_the_headers_do_not_wait_for_longer() -> None:
    """They are sent when the time is over, and the body goes on as if nothing had been."""
    go_on = anyio.Event()

    async def slow(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            await go_on.wait()
            yield "one"
        finally:
            await rest(probe)

    server, connection = prefetching(slow, 0.01), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await connection.until(lambda connection: connection.status == 200)
            go_on.set()
    check(server, CloseReason.COMPLETED)
    assert connection.body.removeprefix(b":\r\n") == b"data: one\r\n\r\n"


async def test_an_event_that_comes_while_the_headers_are_sent_is_held_too() -> None:
    """The time was over before it came: the body is held at it all the same."""
    sending = anyio.Event()

    async def late(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await sending.wait()
        yield "one"
        probe.note("went on")

    server, connection = prefetching(late, 0.01), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sending.set()
            await anyio.sleep(0.02)
            server.probe.note("committed")
        await connection.send(message)

    await server.run(connection, send=send)
    assert server.probe.events == ["committed", "went on", "cleanup"]


async def test_a_body_without_events_is_a_whole_stream() -> None:
    """It is answered and ended properly."""

    async def empty(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        for item in iter(list[str]()):
            yield item
        await rest(probe)

    server, connection = prefetching(empty), Connection()
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.status == 200
    assert connection.complete


async def test_client_that_leaves_meanwhile() -> None:
    """The body, which waits, gets its one cancellation."""
    server, connection = prefetching(hesitant), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await server.probe.until("began")
            connection.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert connection.body == b""


async def test_request_that_is_cancelled_meanwhile() -> None:
    """The cancellation goes on when all is cleaned up, and nothing was sent."""
    server, connection = prefetching(hesitant), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await server.probe.until("began")
            group.cancel_scope.cancel()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert connection.messages == []
    server.check_empty()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_shutdown_meanwhile(cancelled: bool) -> None:
    """The stream ends; its client is answered, so that it comes back, unless the server has cancelled the request."""
    server, connection = prefetching(hesitant), Connection()
    with anyio.fail_after(WAIT):
        async with server.app.lifespan(), anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await server.probe.until("began")
            server.streams.begin_drain()
            if cancelled:
                group.cancel_scope.cancel()
    check(server, CloseReason.SHUTDOWN)
    if not cancelled:
        assert connection.status == 200
        assert connection.complete


async def test_farewell_to_a_client_that_has_no_headers_yet() -> None:
    """A body that is told of the shutdown while its first event is waited for says what it has to say."""

    async def polite(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            await stream.wait_closing()
            yield "farewell"
        finally:
            await rest(probe)

    server, connection = prefetching(polite), Connection()
    with anyio.fail_after(WAIT):
        async with server.app.lifespan(), anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await server.probe.until("began")
            server.streams.begin_drain()
    check(server, CloseReason.SHUTDOWN)
    assert connection.body == b"data: farewell\r\n\r\n"
    assert connection.complete


async def test_lifetime_that_is_over_meanwhile() -> None:
    """``max_lifetime`` counts from before."""
    config = SafeSSEConfig(ping_interval=None, max_lifetime=SHORT)
    server, connection = prefetching(hesitant, config=config), Connection()
    await server.run(connection)
    check(server, CloseReason.MAX_LIFETIME)
    assert connection.complete


async def test_stream_that_its_body_closes_meanwhile() -> None:
    """It ends properly."""

    async def closing(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            await stream.aclose()
            await anyio.sleep_forever()
            yield "never"
        finally:
            await rest(probe)

    server, connection = prefetching(closing), Connection()
    await server.run(connection)
    check(server, CloseReason.CLOSED)
    assert connection.complete


@pytest.mark.parametrize("body", [short, waiting, parked])
async def test_headers_that_cannot_be_sent(body: Body) -> None:
    """A middleware that fails in ``send`` is heard, and the body is closed at its ``yield``."""
    server, connection = prefetching(body), Connection()

    async def send(message: dict[str, Any]) -> None:
        raise LookupError("no headers")

    with pytest.raises(LookupError, match="no headers"):
        await server.run(connection, send=send)
    check(server, CloseReason.ERROR)
    server.check_empty()


@pytest.mark.parametrize("body", [short, waiting, parked])
async def test_client_that_leaves_while_the_headers_are_sent(body: Body) -> None:
    """The body is closed at its ``yield``."""
    server, connection = prefetching(body, config=SafeSSEConfig(cleanup_timeout=SHORT)), Connection()

    async def send(message: dict[str, Any]) -> None:
        connection.leave()
        await anyio.sleep_forever()

    await server.run(connection, send=send)
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_headers_that_are_never_taken() -> None:
    """``send_timeout`` counts for them as ever."""
    config = SafeSSEConfig(send_timeout=SHORT, ping_interval=None)
    server, connection = prefetching(waiting, config=config), Connection()

    async def send(message: dict[str, Any]) -> None:
        await anyio.sleep_forever()

    await server.run(connection, send=send)
    check(server, CloseReason.SEND_TIMEOUT)


async def test_a_heartbeat_that_is_due_lets_the_headers_go() -> None:
    """Whoever counts on heartbeats gets them."""
    config = SafeSSEConfig(ping_interval=0.01)
    server, connection = prefetching(hesitant, config=config), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await connection.until(lambda connection: b": ping" in connection.body)
            connection.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_a_body_that_was_held_may_run_ahead_afterwards() -> None:
    """Its bound is the buffer's again."""

    async def busy(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            for _ in range(1000):
                yield "x" * 100
        finally:
            await rest(probe)

    server, connection = prefetching(busy), Connection()
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.body.count(b"data") == 1000
    assert len(connection.messages) < 500
