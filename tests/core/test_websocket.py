"""The laws hold over a WebSocket: one reason, one cleanup, after the body, and a code that says why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, SSEError, StreamContext
from litestar_safe_sse._core.websocket import MessageTooLargeError, WebSocketChannel
from tests.bounds import NEVER, SHORT
from tests.core.apps import PATIENT, Probe, check
from tests.core.bodies import (
    async_factory,
    context_variable,
    factory,
    iterator,
    nested,
    parked,
    parked_in_a_task_group,
    scope,
    short,
    sync_generator,
    task_group,
    waiting,
)
from tests.core.websockets import Socket, WebSocketServer

pytestmark = pytest.mark.anyio

BODIES = [nested, task_group, scope, context_variable, iterator, sync_generator, factory, async_factory]


async def test_a_body_that_ends_closes_the_websocket() -> None:
    """Accepted, each event a message, and closed by 1000."""
    server, socket = WebSocketServer(short), Socket()
    await server.run(socket)
    check(server, CloseReason.COMPLETED)
    assert socket.kinds == ["accept", "send", "send", "close"]
    assert socket.body == b'{"data":"one"}\n{"data":"two"}'
    assert socket.code == 1000


async def test_messages_can_be_binary() -> None:
    """The same JSON, as bytes."""
    server, socket = WebSocketServer(short, binary=True), Socket()
    await server.run(socket)
    assert socket.messages[1] == {"type": "websocket.send", "bytes": b'{"data":"one"}'}


@pytest.mark.parametrize("body", [waiting, parked])
async def test_a_client_that_leaves_ends_the_stream(body: Any) -> None:
    """And nothing more is sent, not even a close frame."""
    server, socket = WebSocketServer(body), Socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, socket)
        await socket.until(lambda got: b"data" in got.body)
        socket.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert socket.code is None


@pytest.mark.parametrize("body", [*BODIES, parked_in_a_task_group], ids=lambda body: body.__name__)
async def test_each_kind_of_body_is_cleaned_up(body: Any) -> None:
    """Exactly once, before the registered cleanup, as over HTTP."""
    server, socket = WebSocketServer(body), Socket(leaves_after=b"one")
    await server.run(socket)
    assert server.probe.events[-1] == "cleanup"
    assert server.probe.events.count("finally") <= 1
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED


async def test_a_client_that_left_before_it_was_accepted_never_starts_the_body() -> None:
    """It is not accepted either; the cleanups run."""
    server, socket = WebSocketServer(waiting), Socket()
    socket.leave()
    await server.run(socket)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED
    assert "send" not in socket.kinds


async def test_a_client_that_never_connects_does_not_hold_up_a_shutdown() -> None:
    """A server that says nothing at all leaves the stream where it is, to be ended in its time."""
    server, socket = WebSocketServer(waiting, SafeSSEConfig(cleanup_timeout=SHORT)), Socket()

    async def receive() -> Any:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(socket, receive=receive))
        await anyio.wait_all_tasks_blocked()
        assert len(server.streams) == 1
        await server.streams.drain()
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.SHUTDOWN


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CloseReason.CLOSED, 1000),
        (CloseReason.REVOKED, 1008),
        (CloseReason.MAX_LIFETIME, 1001),
        (CloseReason.SHUTDOWN, 1001),
    ],
)
async def test_the_code_says_why(reason: CloseReason, code: int) -> None:
    """Whether to come back is told by the close frame."""
    server, socket = WebSocketServer(waiting), Socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, socket)
        await socket.until(lambda got: b"one" in got.body)
        assert server.probe.stream is not None
        await server.probe.stream.aclose(reason)
    check(server, reason)
    assert socket.messages[-1] == {"type": "websocket.close", "code": code, "reason": str(reason)}


async def failing(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        probe.note("began")
        yield "one"
        raise LookupError("on purpose")
    finally:
        await anyio.sleep(0.001)
        probe.note("finally")


async def test_a_body_that_fails_closes_by_1011() -> None:
    """What it had yielded is sent, and the error is raised to the server after the cleanup."""
    server, socket = WebSocketServer(failing), Socket()
    with pytest.raises(LookupError):
        await server.run(socket)
    check(server, CloseReason.ERROR)
    assert b"one" in socket.body
    assert socket.code == 1011


async def test_a_client_can_be_told_of_an_error_by_a_last_event() -> None:
    """``on_error`` makes it, and the code is that of an error all the same."""
    server, socket = WebSocketServer(failing, on_error=lambda error: {"event": "error", "data": str(error)}), Socket()
    with pytest.raises(LookupError):
        await server.run(socket)
    assert socket.body.endswith(b'{"event":"error","data":"on purpose"}')
    assert socket.code == 1011


async def test_a_lifetime_that_is_over_closes_by_1001() -> None:
    """For the client to come back."""
    server, socket = WebSocketServer(waiting, max_lifetime=SHORT), Socket()
    await server.run(socket)
    check(server, CloseReason.MAX_LIFETIME)
    assert socket.code == 1001


@pytest.mark.parametrize("body", [waiting, parked])
async def test_a_client_that_stops_reading_is_given_up(body: Any) -> None:
    """A blocked ``send()`` ends the stream, and no close frame is waited for."""
    server, socket = WebSocketServer(body, send_timeout=SHORT), Socket()

    async def send(message: dict[str, Any]) -> None:
        await socket.send(message)
        if message["type"] == "websocket.send":
            await anyio.sleep_forever()

    await server.run(socket, send=send)
    check(server, CloseReason.SEND_TIMEOUT)
    assert socket.code is None


async def test_a_send_that_fails_means_that_the_client_left() -> None:
    """An ``OSError`` ends the stream as CLIENT_DISCONNECTED, and is not raised."""
    server, socket = WebSocketServer(waiting), Socket()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            raise OSError

    await server.run(socket, send=send)
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_heartbeats_are_empty_objects() -> None:
    """A peer that is dead is found by a message that says nothing."""
    server, socket = WebSocketServer(waiting, ping_interval=0.01), Socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, socket)
        await socket.until(lambda got: b"\n{}\n{}" in got.body)
        socket.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_a_farewell_is_sent_before_the_close() -> None:
    """A body that asked has its grace at a shutdown, and what it says then comes before 1001."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "one"
            await stream.wait_closing()
            yield "farewell"
        finally:
            probe.note("finally")

    server, socket = WebSocketServer(body, shutdown_grace=NEVER), Socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, socket)
        await socket.until(lambda got: b"one" in got.body)
        await server.streams.drain()
    check(server, CloseReason.SHUTDOWN)
    assert socket.body.endswith(b'farewell"}')
    assert socket.code == 1001


async def test_what_a_client_says_is_let_go() -> None:
    """However much it is; that it leaves is learnt behind it."""
    server, socket = WebSocketServer(waiting), Socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, socket)
        await socket.until(lambda got: b"one" in got.body)
        for _ in range(1000):
            socket.say("x" * 100)
        socket.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_many_small_messages_give_the_loop_its_turns() -> None:
    """A chunk of thousands of messages holds nobody up, on servers that take each without waiting."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        for number in range(5000):
            yield str(number)
        probe.note("finally")

    turns = 0
    server, socket = WebSocketServer(body), Socket()

    async def count_turns(scope: anyio.CancelScope) -> None:
        nonlocal turns
        with scope:
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

    async with anyio.create_task_group() as tasks:
        counting = anyio.CancelScope()
        tasks.start_soon(count_turns, counting)
        await server.run(socket)
        counting.cancel()
    assert socket.kinds.count("send") == 5000
    assert turns >= 5000 / 64


async def test_the_first_message_can_be_waited_for() -> None:
    """The others are let go, and so is it where nobody expects it."""
    socket = Socket()
    channel = WebSocketChannel(socket.receive, socket.send)
    channel.expect_first(limit=10)
    socket.say("first")
    socket.say("second")
    socket.leave()
    await channel.wait_left()
    assert await channel.first_message() == b"first"


async def test_a_first_message_that_is_too_large_is_an_error() -> None:
    """Which says how large it may be."""
    socket = Socket()
    channel = WebSocketChannel(socket.receive, socket.send)
    channel.expect_first(limit=4)
    socket.say("first")
    socket.leave()
    await channel.wait_left()
    with pytest.raises(MessageTooLargeError, match="at most 4 bytes"):
        await channel.first_message()


async def test_the_application_does_not_read_beside_its_stream() -> None:
    """Before it, it may; after that a message would be lost to one of them."""
    socket = Socket()
    channel = WebSocketChannel(socket.receive, socket.send)
    assert (await channel.receive())["type"] == "websocket.connect"
    socket.leave()
    assert (await channel.receive())["type"] == "websocket.disconnect"
    assert (await channel.receive())["type"] == "websocket.disconnect"
    await channel.wait_left()
    with pytest.raises(SSEError, match="alone"):
        await channel.receive()


async def test_nothing_follows_the_close_frame() -> None:
    """A framework would close once more, for an exception that the client has been told of."""
    socket = Socket()
    channel = WebSocketChannel(socket.receive, socket.send)
    for message in ({"type": "websocket.accept"}, {"type": "websocket.accept"}):
        await channel.send(message)
    await channel.send({"type": "websocket.close", "code": 1000, "reason": "é" * 100})
    await channel.send({"type": "websocket.close", "code": 4500})
    assert socket.kinds == ["accept", "close"]
    assert len(socket.messages[-1]["reason"].encode()) <= 123


async def test_a_refusal_is_told_by_a_code() -> None:
    """A handshake that is refused is a 403, so what is to come again is accepted first; what is forbidden is not."""
    for code, kinds in ((1013, ["accept", "close"]), (4401, ["close"])):
        socket = Socket()
        await WebSocketChannel(socket.receive, socket.send).send({"type": "websocket.close", "code": code})
        assert socket.kinds == kinds


async def test_a_server_that_cancels_at_its_shutdown_does_not_cut_the_farewell() -> None:
    """The stream goes on to its end, and to the close frame."""
    server, socket = WebSocketServer(waiting, PATIENT), Socket()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with anyio.CancelScope() as request:
                tasks.start_soon(stop, request)
                await server.app(socket.scope, socket.receive, socket.send)

        async def stop(request: anyio.CancelScope) -> None:
            await socket.until(lambda got: b"one" in got.body)
            server.streams.begin_drain()
            request.cancel()

        tasks.start_soon(run)
    check(server, CloseReason.SHUTDOWN)
    assert socket.code == 1001


@pytest.mark.parametrize("config", [SafeSSEConfig(cleanup_timeout=SHORT)])
async def test_a_close_that_is_blocked_is_given_up(config: SafeSSEConfig) -> None:
    """A client that takes no close frame holds up nothing beyond ``cleanup_timeout``."""
    server, socket = WebSocketServer(short, config), Socket()

    async def send(message: dict[str, Any]) -> None:
        await socket.send(message)
        if message["type"] == "websocket.close":
            await anyio.sleep_forever()

    await server.run(socket, send=send)
    check(server, CloseReason.COMPLETED)
