"""The tasks of a stream: what reaches which, when they end, and that events need none of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, StreamContext
from litestar_safe_sse._runtime.asyncio import AsyncioRuntime
from tests.bounds import SHORT, WAIT
from tests.core.apps import PATIENT, Probe, Server
from tests.core.bodies import short
from tests.core.clients import Connection
from tests.loops import ASYNCIO

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO])


@on_asyncio
async def test_the_owner_is_not_among_all_tasks() -> None:
    """Nobody who cancels all that there is finds it."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        assert asyncio.current_task() not in asyncio.all_tasks()
        yield "one"

    connection = Connection()
    await Server(body).run(connection)
    assert connection.body == b"data: one\r\n\r\n"


async def test_the_listener_is_cancelled_when_the_stream_has_ended() -> None:
    """A ``receive()`` that nothing has come of is not left behind, and has been waited in until then."""
    server, connection = Server(short), Connection()

    async def receive() -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            server.probe.note("listener")

    await server.run(connection, receive=receive)
    assert server.probe.events == ["began", "finally", "cleanup", "listener"]
    assert connection.complete


@on_asyncio
async def test_a_body_that_ends_by_itself_is_cancelled_in_its_finally_once() -> None:
    """When its client leaves, nobody can tell from outside; then it may await again."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            probe.note("finally")
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                probe.note("cancelled")
            await anyio.sleep(0.001)
            probe.note("over")

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("finally")
        connection.leave()
    assert server.probe.events == ["finally", "cancelled", "over", "cleanup"]
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED


class Stuck(Connection):
    """A client that takes nothing any more once a body has said its last."""

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        if b"last" in message.get("body", b""):
            await anyio.sleep_forever()


async def last_words(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
    yield "one"
    await stream.wait_closing()
    yield "last"


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME])
async def test_the_last_events_are_not_waited_for_at_any_price(reason: CloseReason) -> None:
    """At a shutdown the client has half a second to take them, else ``cleanup_timeout``; the reason stays."""
    lifetime = SHORT if reason is CloseReason.MAX_LIFETIME else None
    config = replace(PATIENT, max_lifetime=lifetime, shutdown_grace=WAIT)
    if reason is CloseReason.MAX_LIFETIME:
        config = replace(config, cleanup_timeout=SHORT)
    server, connection = Server(last_words, config), Stuck()
    returned = anyio.Event()

    async def request() -> None:
        await server.run(connection)
        returned.set()

    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(request)
        await connection.until(lambda got: b"one" in got.body)
        await anyio.wait_all_tasks_blocked()
        if reason is CloseReason.MAX_LIFETIME:
            await returned.wait()
    assert server.probe.reason is reason
    assert b"last" in connection.body
    assert not connection.complete


@on_asyncio
async def test_an_event_needs_no_task_no_scope_and_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of a thousand events makes as many as one of ten."""
    made: list[str] = []

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        for _ in range(events):
            await anyio.lowlevel.checkpoint()
            yield "one"

    for owner, name in [(AsyncioRuntime, "spawn"), (asyncio, "Lock"), (threading, "Lock")]:
        counted(owner, name)
    for name in ("CancelScope", "move_on_after", "fail_after"):
        counted(anyio, name)
    counts = []
    for events in (10, 1000):
        made.clear()
        connection = Connection()
        await Server(body).run(connection)
        assert connection.body.count(b"one") == events
        counts.append(sorted(made))
    assert counts[0] == counts[1]
    assert "AsyncioRuntime.spawn" in counts[0]
