"""Contexts that a handler enters and the stream's owner leaves."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SSEError, StreamClosedError, StreamContext
from litestar_safe_sse._core.portal import Portal
from tests.bounds import WAIT
from tests.core.apps import App, Probe
from tests.core.bodies import rest, variable
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = pytest.mark.anyio


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
    probe, connection = Probe(), Connection(leaves_after=b"one" if leaves else None)

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
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

        return body()

    other: contextvars.ContextVar[str] = contextvars.ContextVar("other")
    app = App(handler)
    with anyio.fail_after(WAIT):
        await app(connection.scope, connection.receive, connection.send)
    assert probe.events == ["finally", "left"]
    expected = CloseReason.CLIENT_DISCONNECTED if leaves else CloseReason.COMPLETED
    assert app.streams.statistics().closed == {expected: 1}


@on_asyncio
async def test_a_context_that_cannot_be_entered_fails_the_handler() -> None:
    """What entering a context raises is raised in the handler, and what was entered before is left."""
    probe, connection = Probe(), Connection()

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        await anyio.lowlevel.checkpoint()
        raise ConnectionRefusedError("no such server")
        yield

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(group(probe))
        with pytest.raises(ConnectionRefusedError):
            await stream.enter_async_context(broken())
        raise PermissionError

    app = App(handler)
    with anyio.fail_after(WAIT), pytest.raises(PermissionError):
        await app(connection.scope, connection.receive, connection.send)
    assert connection.status is None
    assert probe.events == ["left"]
    assert app.streams.statistics().closed == {CloseReason.ERROR: 1}


@on_asyncio
async def test_a_handler_cancelled_while_it_enters_a_context_leaves_nothing_open() -> None:
    """A handler that is cancelled while the owner enters a context for it leaves that context as if it were its own."""
    probe, connection = Probe(), Connection()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        probe.note("entering")
        try:
            await anyio.sleep_forever()
            yield
        finally:
            await anyio.sleep(0.001)
            probe.note("gave up")

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(group(probe))
        await stream.enter_async_context(slow())
        raise AssertionError

    app = App(handler)
    task = asyncio.ensure_future(app(connection.scope, connection.receive, connection.send))
    await probe.until("entering")
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=WAIT)
    assert done
    assert task.cancelled()
    assert probe.events == ["entering", "gave up", "left"]
    assert app.streams.statistics().closed == {CloseReason.CLIENT_DISCONNECTED: 1}


@asynccontextmanager
async def failing_group(probe: Probe) -> AsyncIterator[None]:
    """A task group whose task fails at once; its scope cancels for as long as it is not left."""

    async def fail() -> None:
        raise LookupError("on purpose")

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            yield
    finally:
        probe.note("left")


@asynccontextmanager
async def cancelling(probe: Probe) -> AsyncIterator[None]:
    """Cancels the task that has entered it, once, as asyncio's task groups and timeouts do."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    try:
        yield
    finally:
        probe.note("left")


@on_asyncio
@pytest.mark.parametrize("ending", [failing_group, cancelling])
@pytest.mark.parametrize("then", ["returns", "enters another", "raises"])
async def test_what_was_entered_ends_the_stream_while_its_handler_is_at_work(
    then: str, ending: Callable[[Probe], AbstractAsyncContextManager[None]]
) -> None:
    """The body does not begin, the handler is told if it asks for more, and what was entered is left."""
    probe, connection = Probe(), Connection()

    async def body() -> AsyncIterator[str]:
        probe.note("body")
        yield "one"

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(ending(probe))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        if then == "enters another":
            await stream.enter_async_context(group(probe))
        if then == "raises":
            raise PermissionError
        return body()

    app = App(handler)
    expected = {"returns": SSEError, "enters another": StreamClosedError, "raises": PermissionError}[then]
    with anyio.fail_after(WAIT), pytest.raises(expected):
        await app(connection.scope, connection.receive, connection.send)
    assert probe.events == ["left"]
    assert app.streams.statistics().closed == {CloseReason.ERROR: 1}


@on_asyncio
async def test_what_was_entered_ends_the_stream_while_its_handler_enters_another() -> None:
    """What is being entered is given up, and the handler is told why; it has not been cancelled itself."""
    probe, connection = Probe(), Connection()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            async with cancelling(probe):  # as one that was entered before might do now
                await anyio.sleep_forever()
            yield
        finally:
            probe.note("gave up")

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(group(probe))
        with pytest.raises(StreamClosedError, match="has ended it"):
            await stream.enter_async_context(slow())
        raise PermissionError

    app = App(handler)
    with anyio.fail_after(WAIT), pytest.raises(PermissionError):
        await app(connection.scope, connection.receive, connection.send)
    assert probe.events == ["left", "gave up", "left"]


@on_asyncio
async def test_a_stream_that_was_ended_waits_for_its_handler_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scope that cancels in each turn of the loop does not keep the owner busy while the handler is at work."""
    probe, waits = Probe(), 0
    wait_for_knock = Portal._wait_for_knock

    async def counted(self: Portal, *, is_ended: bool) -> None:
        nonlocal waits
        waits += 1
        await wait_for_knock(self, is_ended=is_ended)

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(failing_group(probe))
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        raise PermissionError

    monkeypatch.setattr(Portal, "_wait_for_knock", counted)
    connection = Connection()
    with anyio.fail_after(WAIT), pytest.raises(PermissionError):
        await App(handler)(connection.scope, connection.receive, connection.send)
    assert waits < 10


@on_asyncio
@pytest.mark.parametrize("by", ["itself", "a task that it awaits"])
async def test_a_context_may_enter_another_for_the_same_stream(by: str) -> None:
    """What it needs is entered first, and left last."""
    probe, connection = Probe(), Connection()

    @asynccontextmanager
    async def inner() -> AsyncIterator[None]:
        yield
        probe.note("inner left")

    @asynccontextmanager
    async def outer(stream: StreamContext) -> AsyncIterator[None]:
        entering = stream.enter_async_context(inner())
        await (entering if by == "itself" else asyncio.ensure_future(entering))
        yield
        probe.note("outer left")

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        await stream.enter_async_context(outer(stream))

        async def body() -> AsyncIterator[str]:
            yield "one"

        return body()

    with anyio.fail_after(WAIT):
        await App(handler)(connection.scope, connection.receive, connection.send)
    assert probe.events == ["outer left", "inner left"]
