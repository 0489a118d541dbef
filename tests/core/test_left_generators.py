"""Async generators that were left half-way are closed with the stream, wherever that was, and each by itself."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, SSEError, StreamContext
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import Probe, Server, leave
from tests.core.bodies import short
from tests.core.clients import Connection
from tests.loops import ASYNCIO, UVLOOP

pytestmark = pytest.mark.anyio


async def rows(probe: Probe, name: str = "rows") -> AsyncIterator[str]:
    """A cursor, say, whose closing takes a while."""
    try:
        for _ in range(10):
            yield "one"
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        probe.note(f"{name} closed")


class Completion:
    """Keeps its own generator: a cycle of references, as clients of language models have."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.tokens = self.upstream()

    async def upstream(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "one"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.probe.note("upstream closed")

    async def __aiter__(self) -> AsyncIterator[str]:
        async for token in self.tokens:
            yield token


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_garbage_collection")
@pytest.mark.parametrize("others", [0, 20])
async def test_a_generator_in_a_cycle_is_closed_before_the_cleanups(others: int) -> None:
    """It does not wait for a garbage collection, however many streams are open beside it."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for token in Completion(probe):
            yield token

    async def waits(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("waits")
        await anyio.sleep_forever()
        yield "never"

    server = Server(body)
    async with anyio.create_task_group() as group:
        for _ in range(others):
            other = Server(waits)
            group.start_soon(other.run, Connection())
            await other.probe.until("waits")
        await leave(server)
        assert server.probe.events == ["upstream closed", "cleanup"]
        group.cancel_scope.cancel()


class Lazy:
    """A proxy such as frameworks have: who asks for its class has it find its object first."""

    def __getattribute__(self, name: str) -> object:
        raise LookupError("outside of a request")


class Nowhere:
    __module__ = None  # type: ignore[assignment]


def of_nothing() -> Any:
    return weakref.proxy({"gone"})


@pytest.mark.usefixtures("without_garbage_collection")
@pytest.mark.parametrize("held", [Lazy, Nowhere, of_nothing])
async def test_what_a_generator_in_a_cycle_holds_is_not_asked_for_its_class(held: Callable[[], object]) -> None:
    """It may have to be made first, or be gone."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        completion: Any = Completion(probe)
        completion.held = held()
        async for token in completion:
            yield token

    server = Server(body)
    with anyio.fail_after(WAIT):
        await leave(server)
    assert server.probe.events == ["upstream closed", "cleanup"]


async def test_the_shutdown_of_another_application_leaves_generators_to_those_of_this_one() -> None:
    """Of two in one loop each has its streams close what they leave half-way, and with the last the hooks go."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await probe.until("other application has shut down")
        async for row in rows(probe):
            yield row
            await anyio.sleep_forever()

    before = sys.get_asyncgen_hooks()
    server, other, connection = Server(body), Server(short), Connection(leaves_after=b"one")
    async with server.app.lifespan(), anyio.create_task_group() as tasks:
        async with other.app.lifespan():
            await other.run(Connection())
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: got.status)
        server.probe.note("other application has shut down")
    assert server.probe.events[1:] == ["rows closed", "cleanup"]
    assert sys.get_asyncgen_hooks() == before


@pytest.mark.usefixtures("without_garbage_collection")
async def test_a_generator_that_somebody_else_holds_is_left_alone() -> None:
    """What a body has begun may belong to the application: a pool that is made by the first who needs it."""
    pools: list[Any] = []

    @asynccontextmanager
    async def pool(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("pool closed")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        pools.append(pool(probe))
        yield await pools[0].__aenter__()
        await anyio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["cleanup"]
    await pools[0].__aexit__(None, None, None)
    assert server.probe.events == ["cleanup", "pool closed"]


@pytest.mark.parametrize("completes", [True, False])
async def test_a_generator_left_in_a_cleanup_is_closed(completes: bool) -> None:
    """In a callback, or in a context manager that returns in the middle of a loop."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def release() -> None:
            async for _ in rows(probe, "callback's"):
                break

        @asynccontextmanager
        async def session() -> AsyncIterator[str]:
            async for row in rows(probe, "manager's"):
                yield row
                return

        stream.push_async_callback(release)
        await stream.enter_async_context(session())
        yield "one"
        if not completes:
            await anyio.sleep_forever()

    server, connection = Server(body), Connection(leaves_after=None if completes else b"one")
    await server.run(connection)
    assert sorted(server.probe.events) == ["callback's closed", "cleanup", "manager's closed"]


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], indirect=True)  # trio holds a task's frames for longer
async def test_one_that_fails_and_one_that_hangs_keep_none_from_being_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Each has a time of its own, and all failures are reported."""

    async def failing() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            raise LookupError("on purpose")

    async def hanging() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            await anyio.sleep(NEVER)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        left = [rows(probe, "first"), failing(), hanging(), rows(probe, "last")]
        for generator in left:
            await anext(generator)
        yield "one"
        await anyio.sleep_forever()

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    await leave(server)
    assert sorted(server.probe.events[:2]) == ["first closed", "last closed"]
    assert server.probe.events[2:] == ["cleanup"]
    assert "on purpose" in caplog.text
    assert "was not done in time" in caplog.text


async def hanging_in_its_end(probe: Probe) -> AsyncIterator[str]:
    """One whose closing hangs, until it is cancelled."""
    try:
        yield "one"
        await anyio.sleep_forever()
    finally:
        probe.note("hangs")
        try:
            await anyio.sleep(NEVER)
        finally:
            probe.note("cancelled")


@pytest.mark.parametrize("then", ["goes on", "is left", "completes"])
async def test_a_generator_that_the_body_has_left_and_that_hangs_is_cancelled_in_time(
    then: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed beside the body, which does not wait for it; once it has had its time nothing else does either."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for _ in hanging_in_its_end(probe):
            break
        await probe.until("hangs")
        yield "one"
        if then == "goes on":
            await probe.until("cancelled")
            yield "two"
        if then != "completes":
            await anyio.sleep_forever()

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    connection = Connection(leaves_after={"goes on": b"two", "is left": b"one"}.get(then))
    await server.run(connection)
    assert server.probe.events == ["hangs", "cancelled", "cleanup"]
    assert "a generator of the body: TimeoutError('was not done in time" in caplog.text


async def test_a_generator_that_a_source_left_is_closed_with_the_source() -> None:
    """What dies inside of a source of ``iterate`` is closed before the cleanups."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def source() -> AsyncIterator[str]:
            async for row in rows(probe):
                yield row

        async for row in stream.iterate(source()):
            yield row
            await anyio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["rows closed", "cleanup"]


async def test_a_source_that_hangs_keeps_none_from_being_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Those of the sources that can be closed are, before the cleanups."""

    async def hanging() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(4 * SHORT):
                await anyio.sleep(NEVER)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        sources = [stream.iterate(rows(probe, "first")), stream.iterate(hanging()), stream.iterate(rows(probe, "last"))]
        for source in sources:
            await anext(source)
        yield "one"
        await anyio.sleep_forever()

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    await leave(server)
    assert sorted(server.probe.events[:-1]) == ["first closed", "last closed"]
    assert server.probe.events[-1] == "cleanup"


@pytest.mark.parametrize("then", ["goes on", "is left", "is left at its loop"])
async def test_a_source_that_hangs_is_cancelled_again(then: str) -> None:
    """When it has had its time, be it that the stream ends, or that its loop was left and the body goes on."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(hanging_in_its_end(probe)):
            yield item
            if then != "is left at its loop":
                break
        if then == "goes on":
            await probe.until("cancelled")
            yield "two"
        await anyio.sleep_forever()

    server = Server(body, SafeSSEConfig(cleanup_timeout=SHORT))
    await server.run(Connection(leaves_after=b"two" if then == "goes on" else b"one"))
    assert server.probe.events == ["hangs", "cancelled", "cleanup"]


async def test_a_generator_may_yield_where_it_was_left() -> None:
    """It is closed at that ``yield`` again, so that what stands behind it runs."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def inner() -> AsyncIterator[str]:
            try:
                try:
                    while True:
                        yield "one"
                finally:
                    yield "more"
            finally:
                probe.note("inner closed")

        async for item in inner():
            yield item

    server = Server(body)
    await leave(server)
    assert server.probe.events == ["inner closed", "cleanup"]


@pytest.mark.parametrize("how", ["break", "return", "raise"])
async def test_a_source_is_closed_when_its_loop_is_left(how: str) -> None:
    """As with a plain ``async for``: a body that polls has one source open, not as many as it has polled."""

    async def poll(probe: Probe, stream: StreamContext) -> str:
        async for row in stream.iterate(rows(probe, "poll")):
            if how == "return":
                return row
            if how == "raise":
                raise LookupError
            break
        return "left"

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        for number in range(3):
            try:
                await poll(probe, stream)
            except LookupError:
                assert how == "raise"
            await probe.until_count("poll closed", number + 1)
        yield "one"

    server = Server(body)
    await server.run(Connection())
    assert server.probe.events == ["poll closed"] * 3 + ["cleanup"]


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], indirect=True)  # on trio a stream can hold no task group
async def test_a_cleanup_is_not_cancelled_with_a_task_group_of_the_stream() -> None:
    """A task group that was entered for the stream fails: what was registered after it runs to its end."""

    async def fail() -> None:
        raise LookupError("on purpose")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def release() -> None:
            await anyio.sleep(0.001)
            await anyio.sleep(0.001)
            probe.note("released")

        group = await stream.enter_async_context(anyio.create_task_group())
        stream.push_async_callback(release)
        group.start_soon(fail)
        yield "one"
        await anyio.sleep_forever()

    server = Server(body)
    with pytest.raises(SSEError, match="CancelledError"):
        await server.run(Connection())
    assert server.probe.events == ["released", "cleanup"]
    assert server.probe.reason is CloseReason.ERROR


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], indirect=True)  # trio holds a task's frames for longer
async def test_a_generator_in_a_variable_is_closed_by_its_owner() -> None:
    """Also where the loop lets go of it only when the owner's turn is over."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def cursor() -> AsyncIterator[str]:
            try:
                yield "one"
            finally:
                assert anyio.get_current_task() == owner
                probe.note("cursor closed")

        owner = anyio.get_current_task()
        left = cursor()
        yield await anext(left)
        await anyio.sleep_forever()

    server = Server(body)
    await leave(server)
    assert sorted(server.probe.events) == ["cleanup", "cursor closed"]
