"""The grace in which a body may say farewell: who has one, how it is asked for, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from litestar_safe_sse import CloseReason, StreamContext
from tests.bounds import NEVER, SHORT
from tests.core.apps import PATIENT, Probe, Server
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

Ask = Callable[[StreamContext], Awaitable[None]]


async def by_iterating(stream: StreamContext) -> None:
    async def source() -> AsyncIterator[str]:
        await anyio.sleep_forever()
        yield ""

    async for _ in stream.iterate(source()):
        raise AssertionError


async def by_looking(stream: StreamContext) -> None:
    while not stream.closing:  # noqa: ASYNC110 - now and then, without being woken
        await anyio.sleep(0.001)


async def by_waiting(stream: StreamContext) -> None:
    await stream.wait_closing()


async def by_a_task_that_waits(stream: StreamContext) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.wait_closing)


def polite(ask: Ask) -> Callable[[Probe, StreamContext], AsyncIterator[str]]:
    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        probe.note("asks")
        await ask(stream)
        yield "farewell"
        probe.note("ended by itself")

    return body


async def end(server: Server, connection: Connection, reason: CloseReason) -> None:
    """Serves a stream that ends for a reason, once its body has got to where it asks."""
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await server.probe.until("asks")
        await anyio.wait_all_tasks_blocked()
        if reason is not CloseReason.SHUTDOWN:
            await server.probe.until("cleanup")
    assert server.probe.reason is reason


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME])
@pytest.mark.parametrize("ask", [by_iterating, by_waiting, by_a_task_that_waits])
async def test_a_body_that_asked_says_farewell(ask: Ask, reason: CloseReason) -> None:
    """In whichever way it asked, it goes on to its end, and the client gets all of it."""
    lifetime = SHORT if reason is CloseReason.MAX_LIFETIME else None
    config = replace(PATIENT, shutdown_grace=NEVER, max_lifetime=lifetime)
    server, connection = Server(polite(ask), config), Connection()
    await end(server, connection, reason)
    assert server.probe.events == ["asks", "ended by itself", "cleanup"]
    assert connection.body.endswith(b"data: farewell\r\n\r\n")
    assert connection.complete


async def test_a_body_that_looks_says_farewell() -> None:
    """It looks at ``closing`` now and then, and need not wait for it."""
    server, connection = Server(polite(by_looking), replace(PATIENT, shutdown_grace=NEVER)), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await server.probe.until("asks")
        await connection.until(lambda got: b"one" in got.body)
        assert server.probe.stream is not None
        assert not server.probe.stream.closing
    assert server.probe.events == ["asks", "ended by itself", "cleanup"]
    assert connection.body.endswith(b"data: farewell\r\n\r\n")


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME])
async def test_a_body_that_did_not_ask_has_no_grace(reason: CloseReason) -> None:
    """It is ended at once, however long the grace would be."""

    async def ask(stream: StreamContext) -> None:
        await anyio.sleep_forever()

    lifetime = SHORT if reason is CloseReason.MAX_LIFETIME else None
    config = replace(PATIENT, shutdown_grace=NEVER, max_lifetime=lifetime)
    server, connection = Server(polite(ask), config), Connection()
    await end(server, connection, reason)
    assert server.probe.events == ["asks", "cleanup"]
    assert connection.body == b"data: one\r\n\r\n"
    assert connection.complete


async def test_without_a_grace_a_body_that_asked_is_ended_at_once() -> None:
    """``shutdown_grace=0`` means that there is none, not even to say farewell at once."""
    server, connection = Server(polite(by_waiting), replace(PATIENT, shutdown_grace=0)), Connection()
    await end(server, connection, CloseReason.SHUTDOWN)
    assert server.probe.events == ["asks", "cleanup"]


@pytest.mark.parametrize("reason", [CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME])
async def test_a_grace_ends(reason: CloseReason) -> None:
    """A body that asked, and goes on after its grace, is ended as any other."""

    async def ask(stream: StreamContext) -> None:
        await stream.wait_closing()
        await anyio.sleep_forever()

    lifetime = SHORT if reason is CloseReason.MAX_LIFETIME else None
    config = replace(PATIENT, shutdown_grace=SHORT, max_lifetime=lifetime)
    server, connection = Server(polite(ask), config), Connection()
    await end(server, connection, reason)
    assert server.probe.events == ["asks", "cleanup"]
    assert connection.complete


@pytest.mark.parametrize("reason", [CloseReason.CLOSED, CloseReason.REVOKED])
async def test_a_stream_that_is_closed_has_no_grace(reason: CloseReason) -> None:
    """The application's order is carried out at once, also in a grace that has begun."""
    server, connection = Server(polite(by_waiting), replace(PATIENT, shutdown_grace=NEVER)), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("asks")
        assert server.probe.stream is not None
        await server.probe.stream.aclose(reason)
    assert server.probe.events == ["asks", "cleanup"]
    assert server.probe.reason is reason
