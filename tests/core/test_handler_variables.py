"""Context variables and the contexts that a handler enters: what sets, resets and sees them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from litestar_safe_sse import StreamContext
from tests.bounds import WAIT
from tests.core.apps import PATIENT, App
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = pytest.mark.anyio

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@contextmanager
def acting_for(name: str, seen: list[str]) -> Iterator[None]:
    """Resets a variable, which can be done only where it was set."""
    seen.append(f"{name} entered by {tenant.get()}")
    token = tenant.set(name)
    yield
    tenant.reset(token)
    seen.append(f"{name} left")


@asynccontextmanager
async def acting_for_async(name: str, seen: list[str]) -> AsyncIterator[None]:
    with acting_for(name, seen):
        yield


async def serve(handler: Any) -> None:
    connection = Connection()
    app = App(handler, PATIENT)
    with anyio.fail_after(WAIT):
        await app(connection.scope, connection.receive, connection.send)


async def one(seen: list[str]) -> AsyncIterator[str]:
    seen.append(f"body of {tenant.get()}")
    yield "one"


@pytest.mark.parametrize("how", ["handler", "thread", "body", "child"])
async def test_a_context_is_left_where_it_was_entered(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its variable can be reset, whoever has entered it; what it sets is seen by the one who did, and by the body."""
    seen: list[str] = []

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        def enter() -> None:
            stream.enter_context(acting_for("a", seen))
            assert tenant.get() == "a"

        if how == "handler":
            enter()
        elif how == "thread":
            await anyio.to_thread.run_sync(enter)

        async def body() -> AsyncIterator[str]:
            if how == "body":
                enter()
            elif how == "child":
                async with anyio.create_task_group() as group:
                    group.start_soon(enter_in_a_child)
            async for item in one(seen):
                yield item

        async def enter_in_a_child() -> None:
            enter()

        return body()

    await serve(handler)
    inside = "nobody" if how == "child" else "a"
    assert seen == ["a entered by nobody", f"body of {inside}", "a left"]
    assert "failed" not in caplog.text


async def test_contexts_see_those_that_were_entered_before_them(caplog: pytest.LogCaptureFixture) -> None:
    """Sync ones nest."""
    seen: list[str] = []

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        stream.enter_context(acting_for("a", seen))
        stream.enter_context(acting_for("b", seen))
        return one(seen)

    await serve(handler)
    assert seen == ["a entered by nobody", "b entered by a", "body of b", "b left", "a left"]
    assert "failed" not in caplog.text


@on_asyncio
async def test_contexts_sync_and_async_see_those_that_were_entered_before_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In whichever order."""
    seen: list[str] = []

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        stream.enter_context(acting_for("a", seen))
        await stream.enter_async_context(acting_for_async("b", seen))
        stream.enter_context(acting_for("c", seen))
        await stream.enter_async_context(acting_for_async("d", seen))
        assert tenant.get() == "d"
        return one(seen)

    await serve(handler)
    assert seen[:5] == ["a entered by nobody", "b entered by a", "c entered by b", "d entered by c", "body of d"]
    assert seen[5:] == ["d left", "c left", "b left", "a left"]
    assert "failed" not in caplog.text


@on_asyncio
async def test_each_context_sees_what_the_handler_has_set_by_then() -> None:
    """A variable that is set, or set back, between two contexts is seen by the second, and by the body."""
    seen: list[str] = []
    other: contextvars.ContextVar[str] = contextvars.ContextVar("other", default="unset")

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        seen.append(f"session {tenant.get()} {other.get()}")
        yield

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        token = other.set("set")
        await stream.enter_async_context(session())
        tenant.set("a")
        await stream.enter_async_context(session())
        other.reset(token)
        tenant.set("b")
        await stream.enter_async_context(session())
        await stream.enter_async_context(acting_for_async("c", seen))
        tenant.set("b")
        await stream.enter_async_context(session())
        return one(seen)

    await serve(handler)
    assert seen[:3] == ["session nobody set", "session a set", "session b unset"]
    assert seen[3:] == ["c entered by b", "session b unset", "body of b", "c left"]


@on_asyncio
@pytest.mark.parametrize("set_before", [True, False])
async def test_what_a_handler_has_unset_is_unset_in_the_body(set_before: bool) -> None:
    """A variable that was set when a context was entered, and reset later, is not seen by the body."""
    seen: list[str] = []

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        token = tenant.set("a") if set_before else None
        await stream.enter_async_context(contextlib.AsyncExitStack())
        token = token or tenant.set("a")
        await stream.enter_async_context(contextlib.AsyncExitStack())
        tenant.reset(token)
        return one(seen)

    await serve(handler)
    assert seen == ["body of nobody"]


@on_asyncio
async def test_what_was_entered_for_one_dependency_is_seen_by_all() -> None:
    """Dependencies that are resolved at once have contexts of their own, in which their handler does not run."""
    seen: list[str] = []

    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        async def dependency() -> None:
            await stream.enter_async_context(acting_for_async("a", seen))

        tenant.set("outer")
        async with anyio.create_task_group() as group:
            group.start_soon(dependency)
        return one(seen)

    await serve(handler)
    assert seen == ["a entered by outer", "body of a", "a left"]
