"""Heartbeats: when they are sent, and what they find out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from tests.core.apps import Probe, Server, check
from tests.core.bodies import waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("silent", [False, True])
async def test_the_heartbeat_finds_a_client_that_nobody_told_of(silent: bool) -> None:
    """On a server that notices only when something is sent, a client's leaving is known within a ping interval."""
    server, connection = Server(waiting, ping_interval=0.1), Connection()
    left = anyio.Event()

    async def send(message: dict[str, Any]) -> None:
        if left.is_set():
            connection.leave()  # receive() tells, now that something has been sent
            if not silent:
                raise OSError
            return
        await connection.send(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(connection, send=send))
        await connection.until(lambda got: b"one" in got.body)
        left.set()
        with anyio.fail_after(0.1 + 0.25):
            await server.probe.until("cleanup")
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_heartbeats_are_comments_at_their_interval() -> None:
    """An idle stream sends a comment each ``ping_interval``."""
    server, connection = Server(waiting, ping_interval=0.02), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body.count(b": ping\r\n\r\n") >= 3)
        assert server.probe.stream is not None
        assert server.probe.stream.statistics().heartbeats >= 3
        connection.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)


@pytest.mark.parametrize("send_timeout", [30.0, None])
async def test_heartbeats_go_on_after_a_send_that_took_longer_than_their_interval(send_timeout: float | None) -> None:
    """One that falls due while a ``send()`` is under way is not the last."""
    server, connection = Server(waiting, ping_interval=0.02, send_timeout=send_timeout), Connection()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await anyio.sleep(0.05)
        await connection.send(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.run, connection, send=send))
        await connection.until(lambda got: got.body.count(b": ping\r\n\r\n") >= 2)
        connection.leave()
    check(server, CloseReason.CLIENT_DISCONNECTED)


async def test_a_busy_stream_sends_no_heartbeats() -> None:
    """A stream that sends events more often than ``ping_interval`` needs no heartbeat."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        for _ in range(20):
            yield "x"
            await anyio.sleep(0.01)
        probe.note("finally")

    server, connection = Server(body, ping_interval=0.1), Connection()
    await server.run(connection)
    assert b"ping" not in connection.body


async def test_a_response_can_do_without_the_heartbeats_of_the_others() -> None:
    """``None`` is no heartbeats, whatever the configuration says; left out, it is the configuration's."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "x"
        await anyio.sleep(0.05)

    config = SafeSSEConfig(ping_interval=0.005)
    for overrides, beats in (({"ping_interval": None}, False), ({}, True)):
        connection = Connection()
        await Server(body, config, **overrides).run(connection)
        assert (b"ping" in connection.body) is beats
