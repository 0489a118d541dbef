"""Contexts that a handler enters and the stream's owner leaves."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, StreamContext
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
