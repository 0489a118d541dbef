"""Heartbeats: when they are sent, and what they find out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Any

import anyio
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.timers import EARLY
from tests.core.apps import Probe, Server, check
from tests.core.bodies import waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("silent", [False, True])
async def test_the_heartbeat_finds_a_client_that_nobody_told_of(silent: bool) -> None:
    """On a server that notices only when something is sent, the first heartbeat finds that a client has left."""
    server, connection = Server(waiting, ping_interval=0.1), Connection()
    left = anyio.Event()
    sent_since: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        if left.is_set():
            sent_since.append(message)
            connection.leave()  # receive() tells, now that something has been sent
            if not silent:
                raise OSError
            return
        await connection.send(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(connection, send=send))
        await connection.until(lambda got: b"one" in got.body)
        left.set()
        await server.probe.until("cleanup")
    check(server, CloseReason.CLIENT_DISCONNECTED)
    (heartbeat,) = sent_since
    assert b": ping" in heartbeat["body"]


async def test_heartbeats_are_comments_at_their_interval() -> None:
    """An idle stream sends a comment each ``ping_interval``."""
    server, connection = Server(waiting, ping_interval=0.02), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body.count(b": ping\r\n") >= 3)
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
        await connection.until(lambda got: got.body.count(b": ping\r\n") >= 2)
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
    sent: list[tuple[float, bytes]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append((monotonic(), message.get("body", b"")))
        await connection.send(message)

    await server.run(connection, send=send)
    # On a busy machine some of the waits are longer than they were to be.
    gaps = [(after - before, chunk) for (before, _), (after, chunk) in pairwise(sent)]
    assert all(gap >= 0.1 - EARLY for gap, chunk in gaps if b"ping" in chunk)


async def test_a_response_can_do_without_the_heartbeats_of_the_others() -> None:
    """``None`` is no heartbeats, whatever the configuration says; left out, it is the configuration's."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "x"
        await anyio.sleep_forever()

    config = SafeSSEConfig(ping_interval=0.005)
    with_them, without = Connection(), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Server(body, config, ping_interval=None).run, without)
        await without.until(lambda got: got.body)
        tasks.start_soon(Server(body, config).run, with_them)
        await with_them.until(lambda got: got.body.count(b": ping") >= 3)
        with_them.leave()
        without.leave()
    assert b"ping" not in without.body
