"""A cancellation that is being handled is left to whoever handles it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from tests.bounds import NEVER
from tests.core.apps import Probe
from tests.core.cancelling import LONGER, Tidying, a_while_later, forever, stop
from tests.loops import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]


async def in_a_finally(tidy: Tidying) -> None:
    try:
        await forever()
    finally:
        await tidy()


async def in_an_except(tidy: Tidying) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        await tidy()
        raise


async def turned_into_another(tidy: Tidying) -> None:
    try:
        await in_a_finally(Tidying())
    except asyncio.CancelledError as exc:
        try:
            raise LookupError from exc
        finally:
            await tidy()


async def turned_into_another_by_a_child(tidy: Tidying) -> None:
    async def child() -> None:
        try:
            await forever()
        except asyncio.CancelledError as exc:
            raise LookupError from exc

    try:
        await asyncio.ensure_future(child())
    finally:
        await tidy()


async def turned_into_its_own_cause_by_a_child(tidy: Tidying) -> None:
    async def child() -> None:
        try:
            try:
                await forever()
            except asyncio.CancelledError as exc:
                raise OSError from exc
        except OSError as exc:
            raise exc from exc

    try:
        await asyncio.ensure_future(child())
    finally:
        await tidy()


async def raised_anew_by_a_child(tidy: Tidying) -> None:
    async def child() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        raise asyncio.CancelledError

    try:
        await asyncio.ensure_future(child())
    finally:
        await tidy()


async def by_children_one_of_whom_swallows(tidy: Tidying) -> None:
    """``gather()`` raises a cancellation of its own then."""
    try:
        await asyncio.gather(in_a_finally(Tidying()), a_while_later())
    finally:
        await tidy()


async def in_a_generator_that_is_left(tidy: Tidying) -> None:
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await forever()
        finally:
            await tidy()

    async for _ in items():
        pass


async def by_an_exit_stack(tidy: Tidying) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tidy)
        await forever()


async def by_a_task_group(tidy: Tidying) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(in_a_finally, Tidying())
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await tidy()


async def by_a_child(tidy: Tidying) -> None:
    await asyncio.ensure_future(in_a_finally(tidy))


async def by_wait_for(tidy: Tidying) -> None:
    await asyncio.wait_for(in_a_finally(tidy), NEVER)


async def by_wait_for_within_another(tidy: Tidying) -> None:
    await asyncio.wait_for(by_wait_for(tidy), NEVER)


async def twice(tidy: Tidying) -> None:
    try:
        await in_a_finally(Tidying())
    finally:
        await tidy()


@pytest.mark.parametrize(
    "waiting",
    [
        in_a_finally,
        in_an_except,
        turned_into_another,
        turned_into_another_by_a_child,
        turned_into_its_own_cause_by_a_child,
        raised_anew_by_a_child,
        by_children_one_of_whom_swallows,
        in_a_generator_that_is_left,
        by_an_exit_stack,
        by_a_task_group,
        by_a_child,
        by_wait_for,
        by_wait_for_within_another,
        twice,
    ],
)
async def test_a_cancellation_that_is_being_handled_is_not_delivered_again(
    waiting: Callable[[Tidying], Awaitable[None]],
) -> None:
    """Whatever awaits while it handles its cancellation, or an exception that it became, is left alone."""
    tidying = Tidying()

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            await waiting(tidying)
        finally:
            await asyncio.sleep(LONGER)
            probe.note("finally")

    assert await stop(body) == ["waits", "finally", "cleanup"]
    assert tidying.done
    assert tidying.cancelled == 0


@pytest.mark.parametrize("by", ["except", "suppress", "finally"])
async def test_a_body_that_catches_its_cancellation_itself_may_tidy_up_afterwards(by: str) -> None:
    """A body that swallows its cancellation in its own frame is not cancelled again behind its ``try``."""
    tidying = Tidying()

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        if by == "except":
            try:
                await forever()
            except asyncio.CancelledError:
                probe.note("cancelled")
        elif by == "suppress":
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
        else:
            for _ in range(1):
                try:
                    await forever()
                finally:
                    break  # noqa: B012
        await tidying()
        yield "goodbye"
        probe.note("went on")

    assert "went on" not in await stop(body)
    assert tidying.done
    assert tidying.cancelled == 0


async def test_a_function_that_catches_a_cancellation_may_tidy_up_for_a_moment() -> None:
    """It is not cancelled again at once, but some time later, since nobody can tell that it has not lost it."""
    tidied = False

    async def function() -> None:
        nonlocal tidied
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await asyncio.sleep(0.001)
        tidied = True
        await forever()

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        await function()

    assert await stop(body) == ["waits", "cleanup"]
    assert tidied
