"""What is sent beside what is yielded: in order, bounded by the same buffer, and refused when nothing can be sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    SafeSSEConfig,
    SSEError,
    SSEMessage,
    StreamClosedError,
    StreamContext,
)
from tests.bounds import NEVER, WAIT
from tests.core.apps import Probe, Server, check, leave
from tests.core.bodies import rest
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


def datas(connection: Connection) -> list[str]:
    return [line.removeprefix("data: ") for line in connection.body.decode().split("\r\n") if line.startswith("data")]


async def serve(body: Any, **options: Any) -> tuple[Server, Connection]:
    server, connection = Server(body, **options), Connection()
    await server.run(connection)
    return server, connection


@pytest.mark.parametrize("prefetch", [0, NEVER])
async def test_what_is_sent_and_what_is_yielded_are_in_order(prefetch: float) -> None:
    """By the body itself."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[object]:
        probe.note("began")
        await stream.send("one")
        yield "two"
        await stream.send(SSEMessage("three", id=3))
        await stream.send("four")
        yield "five"
        await rest(probe)

    server, connection = await serve(body, prefetch=prefetch)
    check(server, CloseReason.COMPLETED)
    assert datas(connection) == ["one", "two", "three", "four", "five"]


async def test_a_body_that_is_prefetched_is_held_where_it_sends(anyio_backend: Any) -> None:
    """Its first event is held until the headers have been sent, however it comes."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await stream.send("one")
        probe.note("went on")
        yield "two"

    server, connection = Server(body, prefetch=NEVER), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await anyio.sleep(0.02)
            server.probe.note("committed")
        await connection.send(message)

    await server.run(connection, send=send)
    assert server.probe.events == ["committed", "went on", "cleanup"]
    assert datas(connection) == ["one", "two"]


async def test_source_that_calls_back() -> None:
    """From tasks of the body's own, while it waits for something else."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def call_back() -> None:
            for number in range(100):
                await stream.send(str(number))

        probe.note("began")
        async with anyio.create_task_group() as group:
            group.start_soon(call_back)
        yield "end"
        await rest(probe)

    server, connection = await serve(body)
    check(server, CloseReason.COMPLETED)
    assert datas(connection) == [*map(str, range(100)), "end"]


async def test_what_is_sent_goes_out_at_once() -> None:
    """The client has it while the body waits."""
    got = anyio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        await stream.send("now")
        await got.wait()
        yield "end"
        await rest(probe)

    server, connection = Server(body), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await connection.until(lambda connection: b"now" in connection.body)
            got.set()
    check(server, CloseReason.COMPLETED)


async def test_many_who_send_are_bounded_by_the_buffer() -> None:
    """While nothing is taken, no more than fills it is kept; all of it arrives, each sender's in order."""
    most = 0

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        nonlocal most

        async def call_back(name: int) -> None:
            nonlocal most
            for number in range(10):
                await stream.send(f"{name}.{number} {'x' * 100}")
                most = max(most, stream.statistics().bytes_pending)

        probe.note("began")
        async with anyio.create_task_group() as group:
            for name in range(20):
                group.start_soon(call_back, name)
        yield "end"
        await rest(probe)

    server, connection = Server(body, SafeSSEConfig(buffer_size=500, ping_interval=None)), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        await connection.send(message)

    await server.run(connection, send=send)
    check(server, CloseReason.COMPLETED)
    assert most < 500 + 150
    sent = [data.partition(" ")[0] for data in datas(connection)]
    for name in range(20):
        assert [data for data in sent if data.startswith(f"{name}.")] == [f"{name}.{number}" for number in range(10)]
    assert sent[-1] == "end"


async def test_each_who_sends_has_a_turn() -> None:
    """Who has sent waits behind the others, though each event fills the buffer and is taken at once."""
    order: list[int] = []

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def send(name: int) -> None:
            for _ in range(10):
                await stream.send("x" * 1000)
                order.append(name)

        probe.note("began")
        async with anyio.create_task_group() as group:
            for name in range(3):
                group.start_soon(send, name)
        yield "end"
        await rest(probe)

    server, _ = await serve(body, config=SafeSSEConfig(buffer_size=500, ping_interval=None))
    check(server, CloseReason.COMPLETED)
    for sent in range(3, 28):
        counts = [order[:sent].count(name) for name in range(3)]
        assert max(counts) - min(counts) <= 2


async def test_who_waits_for_room_can_be_cancelled() -> None:
    """A scope ends it, though room is made at every turn of the loop, and the others go on."""
    sent: list[str] = []

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def send() -> None:
            for _ in range(500):
                await stream.send("x" * 1000)
                sent.append("x")

        probe.note("began")
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(send)
            for _ in range(10):
                with anyio.CancelScope() as scope:
                    group.start_soon(turns, scope)
                    while True:
                        await stream.send("y" * 1000)
                probe.note(f"cancelled among {len(sent)}")
        yield "end"
        await rest(probe)

    async def turns(scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()
        scope.cancel()

    server, connection = await serve(body, config=SafeSSEConfig(buffer_size=500, ping_interval=None))
    assert len(sent) == 1000
    assert connection.body.count(b"data: x") == 1000
    cancelled = [int(event.split()[-1]) for event in server.probe.events if "cancelled" in event]
    assert len(cancelled) == 10
    assert cancelled[-1] < 500


async def test_sender_is_told_that_the_stream_has_ended() -> None:
    """Whoever it is, once the client has gone; and that it has cleaned up."""
    failures: list[BaseException] = []

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def call_back() -> None:
            try:
                with anyio.CancelScope(shield=True):
                    for _ in range(100_000):
                        await stream.send("x" * 1000)
                        await anyio.lowlevel.checkpoint()
            except StreamClosedError as error:
                failures.append(error)

        probe.note("began")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(call_back)
                yield "one"
                await anyio.sleep_forever()
        finally:
            await rest(probe)

    server = Server(body)
    await leave(server)
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert len(failures) == 1
    assert server.probe.stream is not None
    with pytest.raises(StreamClosedError):
        await server.probe.stream.send("too late")


async def test_farewell_that_is_sent_to_nobody_is_dropped() -> None:
    """As one that is yielded: the rest of the ``finally`` runs."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.send("farewell")
            await rest(probe)

    server = Server(body)
    connection = await leave(server)
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert datas(connection) == ["one"]


async def test_farewell_that_is_sent_to_a_client_that_listens() -> None:
    """It arrives, as one that is yielded."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.send("farewell")
                await stream.send("goodbye")
            await rest(probe)

    server, connection = Server(body), Connection()
    with anyio.fail_after(WAIT):
        async with server.app.lifespan(), anyio.create_task_group() as group:
            group.start_soon(server.run, connection)
            await connection.until(lambda connection: b"one" in connection.body)
            server.streams.begin_drain()
    check(server, CloseReason.SHUTDOWN)
    assert datas(connection) == ["one", "farewell", "goodbye"]


async def test_what_cannot_be_sent_is_refused_where_it_is_sent() -> None:
    """The stream goes on if its sender does."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        with pytest.raises(InvalidFieldError):
            await stream.send(None)
        yield "end"
        await rest(probe)

    server, connection = await serve(body)
    check(server, CloseReason.COMPLETED)
    assert datas(connection) == ["end"]


async def test_nothing_can_be_sent_before_the_body_begins() -> None:
    """The error says when."""
    failures: list[SSEError] = []

    async def handler(stream: StreamContext) -> Any:
        try:
            await stream.send("early")
        except SSEError as error:
            failures.append(error)
        return ["one"]

    server, connection = Server(lambda probe, stream: handler(stream)), Connection()
    await server.run(connection)
    assert "while the body runs" in str(failures[0])


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_source_that_calls_back_from_a_thread(anyio_backend: Any) -> None:
    """By way of the event loop, whose buffer holds the thread up."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()

        def call_back() -> None:
            for number in range(100):
                asyncio.run_coroutine_threadsafe(stream.send(str(number)), loop).result(WAIT)

        probe.note("began")
        await anyio.to_thread.run_sync(call_back)
        yield "end"
        await rest(probe)

    server, connection = await serve(body)
    check(server, CloseReason.COMPLETED)
    assert datas(connection) == [*map(str, range(100)), "end"]


async def test_a_body_that_goes_on_sending_ends_when_its_client_leaves() -> None:
    """What it sends then is dropped, and each ``send()`` is a wait all the same, in which it can be cancelled."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            for _ in range(100_000):  # for ever, but for a test that fails
                await stream.send("more")
            probe.note("was not ended")
        finally:
            probe.note("finally")

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["finally", "cleanup"]
