"""Bodies of every kind: one owner, one cancellation, closed exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Litestar, get

from litestar_safe_sse import (
    CloseReason,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
)
from litestar_safe_sse._runtime.current import current_runtime
from tests.core.apps import Probe, Server
from tests.core.clients import BOUND, Connection

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


async def leave(server: Server, after: bytes = b"one") -> Connection:
    """Serves a client that leaves once it has seen something."""
    connection = Connection(leaves_after=after)
    await server.run(connection)
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED
    return connection


async def rest(probe: Probe) -> None:
    """A cleanup inside a body: it awaits, more than once."""
    with anyio.CancelScope(shield=True):  # needed on trio only
        await anyio.sleep(0.001)
        await anyio.sleep(0.001)
    probe.note("finally")


async def nested(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    async def inner() -> AsyncIterator[str]:
        async for item in innermost():
            yield item

    async def innermost() -> AsyncIterator[str]:
        task = anyio.get_current_task()
        try:
            while True:
                yield "one"
        finally:
            assert anyio.get_current_task() == task
            await rest(probe)

    async for item in inner():
        yield item


async def task_group(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield "one"
            await anyio.sleep_forever()
    finally:
        await rest(probe)


async def parked_in_a_task_group(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            while True:
                yield "one"
    finally:
        await rest(probe)


async def scope(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        with anyio.move_on_after(100):
            yield "one"
            with anyio.CancelScope():
                yield "two"
                await anyio.sleep_forever()
    finally:
        await rest(probe)


async def timeout(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """A timeout inside the body strikes while the stream is open, and means what it says."""
    try:
        with anyio.move_on_after(0.01):
            yield "zero"
            await anyio.sleep_forever()
        yield "one"
        await anyio.sleep_forever()
    finally:
        await rest(probe)


async def context_variable(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    token = variable.set("inside")
    try:
        yield "one"
        assert variable.get() == "inside"
        await anyio.sleep_forever()
    finally:
        variable.reset(token)
        await rest(probe)


async def never_waits(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        while True:
            yield "one"
    finally:
        await rest(probe)


async def raises_in_cleanup(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        yield "one"
        await anyio.sleep_forever()
    finally:
        await rest(probe)
        raise LookupError("in the cleanup")


def iterator(probe: Probe, stream: StreamContext) -> Any:
    class Ticker:
        def __init__(self) -> None:
            self.first = True

        def __aiter__(self) -> Ticker:
            return self

        async def __anext__(self) -> str:
            if not self.first:
                await anyio.sleep_forever()
            self.first = False
            return "one"

        async def aclose(self) -> None:
            await rest(probe)

    return Ticker()


def sync_generator(probe: Probe, stream: StreamContext) -> Any:
    threads: set[int] = set()

    def generate() -> Iterator[str]:
        try:
            while True:
                threads.add(threading.get_ident())
                yield "one"
        finally:
            threads.add(threading.get_ident())
            assert len(threads) == 1
            assert threading.get_ident() != main
            in_loop(lambda: probe.note("finally"))

    main = threading.get_ident()
    in_loop = current_runtime().call_threadsafe
    return generate()


def factory(probe: Probe, stream: StreamContext) -> Any:
    return lambda: never_waits(probe, stream)


def async_factory(probe: Probe, stream: StreamContext) -> Any:
    async def make() -> Any:
        await anyio.lowlevel.checkpoint()
        return never_waits(probe, stream)

    return make


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
        await connection.until(lambda got: b"one" in got.body)
        assert server.probe.stream is not None
        await server.probe.stream.aclose()
    assert server.probe.events == ["cancelled", "finally", "cleanup"]
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

    server = Server(body, SafeSSEConfig(cleanup_timeout=0.05))
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
            release.wait(BOUND)
            yield "two"
        finally:
            closed.set()

    server = Server(body, SafeSSEConfig(cleanup_timeout=0.05))
    await leave(server)
    assert server.probe.events == ["cleanup"]
    assert "the body: TimeoutError" in caplog.text
    assert not closed.is_set()
    release.set()
    assert await anyio.to_thread.run_sync(closed.wait, BOUND)


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


async def test_a_fast_body_does_not_starve_other_streams() -> None:
    """While one body never waits, the others of the loop have their turns."""
    server, other = Server(never_waits), Server(context_variable)
    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: got.body)
        with anyio.fail_after(1):
            await leave(other)
        connection.leave()


async def test_a_body_runs_ahead_by_a_bounded_number_of_bytes() -> None:
    """While a ``send()`` is blocked, a body is parked once it is ``buffer_size`` bytes ahead."""
    yielded = 0

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        nonlocal yielded
        for _ in range(10_000):
            yielded += 1
            yield "x" * 990

    server, connection = Server(body, buffer_size=10_000), Connection()
    blocked, release = anyio.Event(), anyio.Event()

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            blocked.set()
            await release.wait()
        await connection.send(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(connection, send=send))
        await blocked.wait()
        await anyio.wait_all_tasks_blocked()
        assert yielded <= 25
        release.set()
    assert yielded == 10_000
    assert connection.complete


async def test_flush_returns_when_all_that_was_yielded_was_sent() -> None:
    """``flush()`` waits for the ``send()`` of everything yielded before it."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await stream.flush()
        probe.note("sent one" if b"one" in connection.body else "lied")
        yield "two"
        yield "three"
        await stream.flush()
        probe.note("sent three" if b"three" in connection.body else "lied")

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.events == ["sent one", "sent three", "cleanup"]


@on_asyncio
async def test_a_timeout_around_a_yield_loses_no_event() -> None:
    """A timeout of the body that strikes while the writer is blocked neither loses nor doubles an event."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        number = 0
        while number < 20:
            with anyio.move_on_after(0.002):
                while number < 20:
                    number += 1
                    yield f"{number:04}" + "x" * 500
                    await anyio.lowlevel.checkpoint()

    server, connection = Server(body, buffer_size=100), Connection()

    async def send(message: dict[str, Any]) -> None:
        await anyio.sleep(0.003)
        await connection.send(message)

    await server.run(connection, send=send)
    numbers = [int(line[6:10]) for line in connection.body.splitlines() if line.startswith(b"data")]
    assert numbers == list(range(1, 21))


# Contexts of the handler and of the body


@asynccontextmanager
async def group(probe: Probe) -> AsyncIterator[Any]:
    """A resource that holds a task group, as many clients do."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        token = variable.set("entered")
        try:
            yield tasks
        finally:
            variable.reset(token)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            probe.note("left")


@on_asyncio
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_handler_may_enter_what_the_owner_has_to_leave(leaves: bool) -> None:
    """A context that holds a task group can be entered in the handler; its context variables are seen there."""
    probe, plugin, connection = Probe(), SafeSSEPlugin(), Connection(leaves_after=b"one" if leaves else None)

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(group(probe))
        assert variable.get() == "entered"
        other.set("set in the handler")

        async def body() -> AsyncIterator[str]:
            try:
                assert variable.get() == "entered"
                assert other.get() == "set in the handler"
                yield "one"
                if leaves:
                    await anyio.sleep_forever()
            finally:
                await rest(probe)

        return SafeServerSentEvent(body())

    other: contextvars.ContextVar[str] = contextvars.ContextVar("other")
    app = Litestar([handler], plugins=[plugin], logging_config=None)
    with anyio.fail_after(BOUND):
        await app(connection.scope, connection.receive, connection.send)  # type: ignore[arg-type]
    assert probe.events == ["finally", "left"]
    expected = CloseReason.CLIENT_DISCONNECTED if leaves else CloseReason.COMPLETED
    assert plugin.streams.statistics().closed == {expected: 1}


@on_asyncio
async def test_a_context_that_cannot_be_entered_fails_the_handler() -> None:
    """What entering a context raises is raised in the handler, and what was entered before is left."""
    probe, plugin, connection = Probe(), SafeSSEPlugin(), Connection()

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        await anyio.lowlevel.checkpoint()
        raise ConnectionRefusedError("no such server")
        yield

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(group(probe))
        with pytest.raises(ConnectionRefusedError):
            await stream.enter_async_context(broken())
        raise PermissionError

    app = Litestar([handler], plugins=[plugin], logging_config=None)
    with anyio.fail_after(BOUND):
        await app(connection.scope, connection.receive, connection.send)  # type: ignore[arg-type]
    assert connection.status == 500
    assert probe.events == ["left"]
    assert plugin.streams.statistics().closed == {CloseReason.ERROR: 1}


@on_asyncio
async def test_a_handler_cancelled_while_it_enters_a_context_leaves_nothing_open() -> None:
    """A handler that is cancelled while the owner enters a context for it leaves that context as if it were its own."""
    probe, plugin, connection = Probe(), SafeSSEPlugin(), Connection()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        probe.note("entering")
        try:
            await anyio.sleep_forever()
            yield
        finally:
            await anyio.sleep(0.001)
            probe.note("gave up")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(group(probe))
        await stream.enter_async_context(slow())
        raise AssertionError

    app = Litestar([handler], plugins=[plugin], logging_config=None)
    task = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))  # type: ignore[arg-type]
    await probe.until("entering")
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=BOUND)
    assert done
    assert task.cancelled()
    assert probe.events == ["entering", "gave up", "left"]
    assert plugin.streams.statistics().closed == {CloseReason.CLIENT_DISCONNECTED: 1}


# The timeout-sliced iterator


async def test_iterate_ends_when_the_stream_closes() -> None:
    """The loop over ``iterate()`` is left as at the end of its source, which has been cleaned up, for a farewell."""

    async def source(probe: Probe) -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            probe.note("source")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(source(probe)):
            yield item
        yield "farewell"
        probe.note("finally")

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks, server.app.lifespan():
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
    assert server.probe.events == ["source", "finally", "cleanup"]
    assert connection.body.endswith(b"data: farewell\r\n\r\n")


async def test_a_slice_that_runs_out_cancels_nothing() -> None:
    """A source that takes many slices for an item is not disturbed by their ends."""

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            await anyio.sleep(0.03)
            yield number

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[int]:
        async for item in stream.iterate(source(), slice_timeout=0.001):
            yield item

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert connection.body == b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"


@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves_ends_the_source_too(waits: bool) -> None:
    """When the client leaves, the source of ``iterate()`` is ended before the cleanups, waiting or not."""

    async def source(probe: Probe) -> AsyncIterator[str]:
        try:
            yield "one"
            while waits:
                await anyio.sleep_forever()
            yield "two"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            probe.note("source")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(source(probe)):
            yield item
            if not waits:
                await anyio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["source", "cleanup"]


async def test_an_error_of_the_source_is_the_bodys() -> None:
    """What the source of ``iterate()`` raises is raised in the body."""

    async def source() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[int]:
        try:
            async for item in stream.iterate(source):
                yield item
        except LookupError:
            probe.note("raised")

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.events == ["raised", "cleanup"]


async def test_iterate_over_a_sync_source() -> None:
    """A sync source of ``iterate()`` is advanced in a thread."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[bool]:
        main = threading.get_ident()
        async with stream.iterate(threading.get_ident() != main for _ in range(2)) as items:
            async for item in items:
                yield item

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert connection.body == b"data: true\r\n\r\n" * 2


async def test_what_was_sent_is_let_go() -> None:
    """While a stream waits for its next event, nothing of it holds on to the bytes of the last one."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "x" * 50_000
        await stream.flush()
        probe.note("sent")
        await anyio.sleep_forever()

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, connection)
        await server.probe.until("sent")
        for _ in range(10):  # what lingers after a send takes a few turns
            await anyio.lowlevel.checkpoint()
        chunk = next(message["body"] for message in connection.messages if len(message.get("body", b"")) > 50_000)
        connection.messages.clear()
        assert sys.getrefcount(chunk) == 2  # ours, and that of the question
        connection.leave()
