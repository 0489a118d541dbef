"""The drain: bounded, per event loop, and over before the pools are closed."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import sniffio

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from tests.bounds import SHORT, WAIT
from tests.core.apps import Probe, Server
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


async def waiting(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        yield "one"
        await anyio.sleep_forever()
    finally:
        probe.note("finally")


async def test_a_drain_waits_no_longer_than_grace_and_cleanup(
    anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Bodies and cleanups that hang are cut short together: all of them within grace plus one ``cleanup_timeout``."""

    async def hangs(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        for number in range(3):
            stream.push_async_callback(hang, number)
        stream.push_async_callback(probe.cleanup)
        try:
            assert not stream.closing
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=anyio_backend[0] != "trio"):  # trio can leave no task behind
                await anyio.sleep_forever()

    async def hang(number: int) -> None:
        hung.append(number)
        await anyio.sleep_forever()

    hung: list[int] = []
    grace, cleanup = 0.2, 1.0
    server = Server(hangs, SafeSSEConfig(shutdown_grace=grace, cleanup_timeout=cleanup))
    connection = Connection()
    times: list[float] = []
    async with anyio.create_task_group() as tasks:
        async with server.app.lifespan():
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: b"one" in got.body)
            times.append(time.monotonic())
        times.append(time.monotonic())
    assert times[1] - times[0] < grace + 2.5 * cleanup  # one after another, they would take longer
    assert hung == [2, 1, 0]
    assert server.probe.events.count("cleanup") == 2  # the handler's own, and the body's
    assert "hang: TimeoutError" in caplog.text


async def test_a_drain_waits_for_each_response() -> None:
    """Behind its stream a response may have background tasks, of which one is done before the other."""
    server = Server(waiting)
    server.streams.start()
    loop = server.streams.loop_state()
    drained = anyio.Event()

    async def drain() -> None:
        await server.streams.drain()
        drained.set()

    for _ in range(2):
        loop.begin_response()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        await anyio.wait_all_tasks_blocked()
        for _ in range(2):
            assert not drained.is_set()
            loop.end_response()
            await anyio.wait_all_tasks_blocked()
        assert drained.is_set()
    server.streams.stop()


@pytest.mark.parametrize("enters", [False, True])
async def test_a_handler_at_work_keeps_what_it_has_opened(enters: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The time of the streams does not end the work of a handler: what it has registered is cleaned up behind it."""
    go_on = anyio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        server.probe.note("at work")
        await go_on.wait()
        server.probe.note("done")
        yield

    async def handle(probe: Probe, stream: StreamContext) -> Any:
        if enters:
            await stream.enter_async_context(slow())
        else:
            async with slow():
                pass
        return waiting(probe, stream)

    server, connection = Server(handle, SafeSSEConfig(shutdown_grace=SHORT, cleanup_timeout=SHORT)), Connection()
    async with anyio.create_task_group() as tasks:
        async with server.app.lifespan():
            tasks.start_soon(server.run, connection)
            await server.probe.until("at work")
        assert server.probe.events == ["at work"]  # the drain was over, and waited no longer
        go_on.set()
    assert server.probe.events == ["at work", "done", "cleanup"]
    assert server.probe.reason is CloseReason.SHUTDOWN
    assert "left behind" not in caplog.text


async def test_a_second_lifespan_serves_again() -> None:
    """An application that is started again, in the same loop, admits streams again."""
    server = Server(waiting)
    for _ in range(2):
        connection = Connection()
        async with anyio.create_task_group() as tasks, server.app.lifespan():
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: b"one" in got.body)
        assert connection.status == 200
    assert server.streams.statistics().closed == {CloseReason.SHUTDOWN: 2}


async def test_each_event_loop_is_drained_by_itself(anyio_backend: Any) -> None:
    """A shutdown in one event loop leaves the streams of another alone."""
    server = Server(waiting)
    connection = Connection()
    failures: list[BaseException] = []

    async def elsewhere() -> None:
        other = Connection()
        async with anyio.create_task_group() as tasks, server.app.lifespan():
            tasks.start_soon(lambda: server.app(other.scope, other.receive, other.send))
            await other.until(lambda got: b"one" in got.body)
            assert len(server.streams) == 2

    def run() -> None:
        try:
            anyio.run(elsewhere, backend=anyio_backend[0])
        except BaseException as exc:
            failures.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        thread = threading.Thread(target=run)
        thread.start()
        await anyio.to_thread.run_sync(thread.join, WAIT)
        assert not failures
        assert len(server.streams) == 1
        connection.leave()
    assert server.streams.statistics().closed == {
        CloseReason.SHUTDOWN: 1,
        CloseReason.CLIENT_DISCONNECTED: 1,
    }


async def test_streams_beyond_the_limit_are_refused() -> None:
    """Beyond ``max_streams`` a request is refused, and admitted again once there is room."""
    server = Server(waiting, SafeSSEConfig(max_streams=1))
    first, second, third = Connection(), Connection(), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, first)
        await first.until(lambda got: b"one" in got.body)
        with anyio.fail_after(WAIT):
            await server.app(second.scope, second.receive, second.send)
        assert second.status == 503
        first.leave()
    third.leave()
    await server.run(third)
    assert third.status == 200
    assert server.streams.statistics().refused == 1


@pytest.mark.parametrize("began_before", [False, True], ids=["at-shutdown", "by-max-lifetime-before"])
async def test_a_grace_of_its_own_is_bounded_by_the_shutdown(began_before: bool) -> None:
    """A response's longer grace, or one that ``max_lifetime`` had begun, ends in time for the body to clean up."""

    async def talkative(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "one"
            await stream.wait_closing()
            probe.note("farewell")
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            probe.note("finally")

    lifetime = 0.01 if began_before else None
    config = SafeSSEConfig(shutdown_grace=0.2, cleanup_timeout=0.5)
    server = Server(talkative, config, shutdown_grace=3600, max_lifetime=lifetime)
    connection = Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        if began_before:
            await server.probe.until("farewell")
    assert server.probe.events == ["farewell", "finally", "cleanup"]
    assert server.probe.reason is (CloseReason.MAX_LIFETIME if began_before else CloseReason.SHUTDOWN)


async def test_a_drain_is_spread_evenly_within_the_grace() -> None:
    """With ``drain_spread`` streams are told one by one, the oldest first, and all end in the time of the drain."""

    async def told(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        number = len(server.streams)
        assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        yield "one"
        await stream.wait_closing()
        probe.note(str(number))
        times.append(time.monotonic())
        yield "farewell"

    times: list[float] = []
    spread = 0.4
    server = Server(told, SafeSSEConfig(shutdown_grace=spread, drain_spread=spread, cleanup_timeout=WAIT))
    connections = [Connection() for _ in range(4)]
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        for connection in connections:
            tasks.start_soon(server.app, connection.scope, connection.receive, connection.send)
            await connection.until(lambda got: b"one" in got.body)
        times.append(time.monotonic())
    order = [event for event in server.probe.events if event != "cleanup"]
    if sniffio.current_async_library() == "trio":  # which shuffles those that are told in one turn of a busy loop
        order.sort()
    assert order == ["1", "2", "3", "4"]
    assert times[4] - times[0] >= spread * 3 / 4 - 0.01
    assert server.streams.statistics().closed == {CloseReason.SHUTDOWN: 4}


async def test_a_server_that_cancels_leaves_a_spread_drain_its_time() -> None:
    """A stream that is not told yet goes on, and ends as one that the shutdown has ended."""
    server = Server(waiting, SafeSSEConfig(shutdown_grace=0.2, drain_spread=0.2))
    connections = [Connection() for _ in range(2)]
    async with server.app.lifespan(), anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(server.app, connection.scope, connection.receive, connection.send)
            await connection.until(lambda got: b"one" in got.body)
        server.streams.begin_drain()
        tasks.cancel_scope.cancel()
    assert server.streams.statistics().closed == {CloseReason.SHUTDOWN: 2}
    assert [connection.complete for connection in connections] == [True, True]
