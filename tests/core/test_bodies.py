"""Bodies of every kind: one owner, one cancellation, closed exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, SSEMessage, StreamContext
from litestar_safe_sse._core.timing import SECOND_CANCELLATION
from tests.bounds import SHORT, WAIT
from tests.core.apps import Probe, Server, leave
from tests.core.bodies import (
    async_factory,
    context_variable,
    factory,
    iterator,
    nested,
    never_waits,
    parked_in_a_task_group,
    raises_in_cleanup,
    rest,
    scope,
    sync_generator,
    task_group,
    timeout,
    variable,
)
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        nested,
        task_group,
        parked_in_a_task_group,
        scope,
        timeout,
        context_variable,
        never_waits,
        raises_in_cleanup,
        iterator,
        sync_generator,
        factory,
        async_factory,
    ],
)
async def test_a_body_of_any_kind_is_cleaned_up_when_its_client_leaves(
    body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a body is and does, its own cleanup is done once, and before the registered one."""
    server = Server(body)
    await leave(server)
    assert server.probe.events == ["finally", "cleanup"]
    assert variable.get() == "outside"
    assert ("failed" in caplog.text) is (body is raises_in_cleanup)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_generator_that_a_body_leaves_half_way_is_closed(goes_on: bool) -> None:
    """What a body breaks off is closed at once if the body goes on, and ahead of the cleanups in any case."""

    async def inner(probe: Probe) -> AsyncIterator[str]:
        try:
            while True:
                yield "one"
        finally:
            await rest(probe)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in inner(probe):
            yield item
            break
        if goes_on:
            await probe.until("finally")
            yield "two"

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.events == ["finally", "cleanup"]
    assert server.probe.reason is CloseReason.COMPLETED


@on_asyncio
async def test_a_body_may_swallow_its_cancellation() -> None:
    """A body that catches its cancellation may yield once more; it is closed there, and not cancelled again."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            try:
                probe.note("waits")
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                probe.note("cancelled")
            await anyio.sleep(0.001)
            yield "two"
            probe.note("went on")
        finally:
            await anyio.sleep(0.001)
            await rest(probe)

    server = Server(body)
    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("waits")
        assert server.probe.stream is not None
        await server.probe.stream.aclose()
    assert server.probe.events == ["waits", "cancelled", "finally", "cleanup"]
    assert connection.body.endswith(b"data: two\r\n\r\n")


@on_asyncio
async def test_a_timeout_in_a_finally_works() -> None:
    """The cancellation that ended a body does not make a timeout in its ``finally`` look like one."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(0.01) as limit:
                await anyio.sleep_forever()
            assert limit.cancelled_caught
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.sleep(10), 0.01)
            await rest(probe)

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["finally", "cleanup"]


@on_asyncio
async def test_a_body_may_await_for_as_long_as_it_has_time() -> None:
    """It is not cancelled again while it handles its cancellation, and ``cleanup_timeout`` is not over."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(3 * SECOND_CANCELLATION)
            probe.note("finally")

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["finally", "cleanup"]


async def test_a_body_that_has_no_more_time_is_cancelled_again(caplog: pytest.LogCaptureFixture) -> None:
    """So one ends that waits for too long in its ``except``; it is not left behind, and reported by that."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            probe.note("cancelled")
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                probe.note("cancelled again")
                raise

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    await leave(server)
    assert server.probe.events == ["cancelled", "cancelled again", "cleanup"]
    assert "left behind" not in caplog.text


async def test_a_body_that_will_not_end_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A body that outlives its time is cancelled again, then reported; its stream's cleanups run all the same."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        probe.note("went on")
        while not probe.released:  # type: ignore[attr-defined]
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
            except BaseException:
                probe.note("cancelled")
        probe.note("ended")

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    server.probe.released = False  # type: ignore[attr-defined]
    connection = Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, connection)
        await server.probe.until("went on")
        connection.leave()
    assert server.probe.events[-1] == "cleanup"
    assert "handler" in caplog.text
    assert "the body: TimeoutError" in caplog.text
    server.probe.released = True  # type: ignore[attr-defined]
    await server.probe.until("ended")
    assert server.probe.events.count("cleanup") == 1


async def test_a_blocked_thread_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A sync body whose thread is blocked for good holds nothing up; should it come back, it is closed there."""
    release, closed = threading.Event(), threading.Event()

    def body(probe: Probe, stream: StreamContext) -> Iterator[str]:
        try:
            yield "one"
            release.wait(WAIT)
            yield "two"
        finally:
            closed.set()

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    await leave(server)
    assert server.probe.events == ["cleanup"]
    assert "the body: TimeoutError" in caplog.text
    assert not closed.is_set()
    release.set()
    assert await anyio.to_thread.run_sync(closed.wait, WAIT)


async def test_a_body_that_was_never_started_is_closed() -> None:
    """An iterator that was never asked for an item is closed all the same."""
    closed: list[str] = []

    class Body:
        def __aiter__(self) -> Body:
            closed.append("started")
            return self

        async def __anext__(self) -> str:
            raise AssertionError

        async def aclose(self) -> None:
            closed.append("closed")

    server, connection = Server(lambda probe, stream: Body()), Connection()
    connection.leave()
    await server.run(connection)
    assert closed == ["closed"]
    assert server.probe.events == ["cleanup"]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        ("a\nb", b"data: a\r\ndata: b\r\n\r\n"),
        (b"bytes", b"data: bytes\r\n\r\n"),
        (7, b"data: 7\r\n\r\n"),
        ({"event": "e", "data": "d"}, b"event: e\r\ndata: d\r\n\r\n"),
        (SSEMessage(comment="c"), b": c\r\n\r\n"),
        (["a", 1, [2]], b"data: a\r\n\r\ndata: 1\r\n\r\ndata: [2]\r\n\r\n"),
        (lambda: iter(["a"]), b"data: a\r\n\r\n"),
        (range(2), b"data: 0\r\n\r\ndata: 1\r\n\r\n"),
        (lambda: "text", b"data: text\r\n\r\n"),
        ([], b""),
    ],
)
async def test_content_that_is_no_generator(content: Any, wire: bytes) -> None:
    """Plain values are one event, iterables one for each item, and a callable is called."""
    server, connection = Server(lambda probe, stream: content), Connection()
    await server.run(connection)
    assert connection.body == wire
    assert connection.complete
