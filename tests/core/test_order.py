"""What comes first: the handler, then the headers with all that others do in ``send``, then the body."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.timing import FINAL_SEND_TIMEOUT
from litestar_safe_sse._runtime.current import current_runtime
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import Probe, Server, check
from tests.core.bodies import short, waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


async def test_the_body_begins_when_the_headers_are_sent() -> None:
    """What a hook or a middleware awaits in ``send``, such as a commit, is over before the body begins."""
    server, connection = Server(short), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await anyio.sleep(0.01)
            server.probe.note("committed")
        await connection.send(message)

    await server.run(connection, send=send)
    assert server.probe.events == ["committed", "began", "finally", "cleanup"]


@pytest.mark.parametrize("body", [short, waiting])
async def test_a_body_does_not_begin_if_the_headers_cannot_be_sent(body: Any) -> None:
    """A middleware that fails in ``send`` is heard, the body is never started, and the cleanups run."""
    server, connection = Server(body), Connection()

    async def send(message: dict[str, Any]) -> None:
        raise LookupError("no headers")

    with pytest.raises(LookupError, match="no headers"):
        await server.run(connection, send=send)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.ERROR


async def test_a_client_that_leaves_while_the_headers_are_sent_never_starts_the_body() -> None:
    """A client that leaves meanwhile ends the stream before it has begun; ``send`` has ``cleanup_timeout``."""
    server, connection = Server(waiting, SafeSSEConfig(cleanup_timeout=SHORT)), Connection()

    async def send(message: dict[str, Any]) -> None:
        connection.leave()
        await anyio.sleep_forever()

    await server.run(connection, send=send)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED


@pytest.mark.parametrize("prefetch", [0, NEVER], ids=["", "prefetched"])
@pytest.mark.parametrize("way", ["leaves", "shutdown", "closed"])
async def test_what_is_done_in_send_with_the_headers_is_not_cut_short(way: str, prefetch: float) -> None:
    """A commit there is over before the request is, though the stream has ended and cleaned up meanwhile."""
    config = SafeSSEConfig(cleanup_timeout=WAIT, ping_interval=None)
    server, connection = Server(waiting, config, prefetch=prefetch), Connection()
    go_on = anyio.Event()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            server.probe.note("commit")
            await go_on.wait()
            server.probe.note("committed")
        await connection.send(message)

    async with server.app.lifespan(), anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.run, connection, send=send))
        await server.probe.until("commit")
        assert server.probe.stream is not None
        if way == "leaves":
            connection.leave()
        elif way == "shutdown":
            server.streams.begin_drain()
        else:
            await server.probe.stream.aclose()
        await server.probe.until("cleanup")
        if way == "shutdown":  # in which clients have half a second for the last bytes
            await anyio.sleep(1.2 * FINAL_SEND_TIMEOUT)
        go_on.set()
    began = ["began", "finally"] if prefetch else []
    assert sorted(server.probe.events) == sorted([*began, "commit", "committed", "cleanup"])
    assert server.probe.events[-1] == "committed"
    assert connection.complete == (way != "leaves")


async def test_headers_that_are_never_taken_end_the_stream() -> None:
    """``send_timeout`` counts for the headers too."""
    server, connection = Server(waiting, SafeSSEConfig(send_timeout=SHORT)), Connection()

    async def send(message: dict[str, Any]) -> None:
        await anyio.sleep_forever()

    await server.run(connection, send=send)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.SEND_TIMEOUT


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.CLOSED])
async def test_blocked_headers_do_not_hold_up_the_end(reason: CloseReason) -> None:
    """A stream that is told to end before it could begin cleans up at once; nobody waits for its time to be over."""
    server, connection = Server(waiting, SafeSSEConfig(cleanup_timeout=2 * SHORT)), Connection()
    blocked = anyio.Event()

    async def send(message: Any) -> None:
        blocked.set()
        await anyio.sleep_forever()

    async def visit() -> None:
        await server.run(connection, send=send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(visit)
        await blocked.wait()
        assert server.probe.stream is not None
        with anyio.fail_after(WAIT):
            await server.probe.stream.aclose(reason)
        assert server.probe.events == ["cleanup"]
    assert server.probe.reason is reason


async def test_an_event_that_is_ready_follows_the_headers_at_once() -> None:
    """Where nothing awaits in ``send``, the first body message holds the first event (trio starts tasks at random)."""
    server, connection = Server(short), Connection()
    await server.run(connection)
    check(server, CloseReason.COMPLETED)
    assert connection.messages[1]["body"].startswith(b"data: one") or not current_runtime().starts_in_order


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "parked"])
@pytest.mark.parametrize("gone", [True, False], ids=["client-gone", "client-listens"])
async def test_a_body_may_yield_on_its_way_out(waits: bool, gone: bool) -> None:
    """All that stands behind a ``yield`` in a ``finally`` runs, and a client that still listens is sent the event."""

    async def marking(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            try:
                while True:
                    yield "one"
                    if waits:
                        await anyio.sleep_forever()
            finally:
                yield "[DONE]"
        finally:
            with anyio.CancelScope(shield=True):  # on trio a cancelled body cannot await without
                await anyio.sleep(0.001)
            probe.note("given back")

    server, connection = Server(marking), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        assert server.probe.stream is not None
        if gone:
            connection.leave()
        else:
            await server.probe.stream.aclose()
    assert server.probe.events == ["given back", "cleanup"]
    assert connection.complete is not gone
    if not gone:
        assert connection.body.endswith(b"data: [DONE]\r\n\r\n")


async def test_a_body_that_yields_for_ever_on_its_way_out_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """The cleanups run all the same, and a warning says so."""

    async def stubborn(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        while len(probe.events) < 65:
            try:
                yield "one"
            except GeneratorExit:
                probe.note("refused")

    server, connection = Server(stubborn), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        connection.leave()
    assert server.probe.events[-1] == "cleanup"
    assert "was left behind" in caplog.text
