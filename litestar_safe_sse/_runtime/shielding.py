"""To wait for something, or to have it done, whatever cancellations reach the calling task."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse._runtime.base import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager

    from litestar_safe_sse._runtime.base import Event, OwnedTask, Runtime, Timer

__all__ = ("LEAVING_TIME", "run_shielded", "shielded_from_scopes", "wait_shielded")

LEAVING_TIME = 0.1
"""Seconds that something has after its cancellation, before it is left behind."""


class Clock(Protocol):
    """A loop's time, in which it answers."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer: ...


async def wait_shielded(event: Event) -> None:
    """Waits for an event through every cancellation, native ones included; raises the first only afterwards."""
    if event.is_set():
        return
    cancelled: BaseException | None = None
    try:
        try:
            await event.wait()
        except anyio.get_cancelled_exc_class() as exc:
            cancelled = exc
        if not event.is_set():  # the shield is put up only once there is something to keep off
            with anyio.CancelScope(shield=True):
                while not event.is_set():
                    try:
                        await event.wait()
                    except asyncio.CancelledError as exc:
                        cancelled = cancelled or exc
        if cancelled is not None:
            raise cancelled
    finally:
        del cancelled  # its traceback holds this frame


async def run_shielded(
    work: Coroutine[Any, Any, object],
    runtime: Runtime,
    *,
    clock: Clock,
    limit: float,
    name: str,
    running: dict[Callable[[], None], str],
    is_cancelled: bool = False,
) -> BaseException | None:
    """Runs a coroutine where the cancellations of the calling task do not reach it, and waits for it.

    Args:
        work: The coroutine.
        runtime: The running event loop.
        clock: Tells when a time is over.
        limit: Seconds after a cancellation of the calling task that it still has. Then it is cancelled too, and, if
            that does not help, left behind.
        name: The task's name.
        running: Where a function is kept by which others can do the same at any time, while it runs, with its name.
        is_cancelled: Whether the calling task has been cancelled already.

    Returns:
        What it raised, ``Interrupted`` if it was cancelled, or ``None``.
    """
    done = anyio.Event()
    outcome: list[BaseException | None] = []
    timers: list[Timer] = []

    async def run(task: OwnedTask) -> None:
        outcome.append(await task.capture(work))
        done.set()

    def end_within(seconds: float) -> None:
        timers.append(clock.call_later(seconds, cancel))

    def cancel() -> None:
        task.cancel()
        timers.append(clock.call_later(LEAVING_TIME, leave))

    def leave() -> None:
        if task.hurry():
            timers.append(clock.call_later(LEAVING_TIME, leave))
        else:
            done.set()

    task = runtime.spawn(run, name)
    end = partial(end_within, 0)
    running[end] = name
    try:
        if not is_cancelled:
            try:
                await done.wait()
            except anyio.get_cancelled_exc_class():
                end_within(limit)
                await wait_shielded(done)
                raise
        else:
            end_within(limit)
            await wait_shielded(done)
    finally:
        del running[end]
        for timer in timers:
            timer.cancel()
    return outcome[0] if outcome else Interrupted()


def shielded_from_scopes() -> AbstractContextManager[object]:
    """Keeps off the cancellation of scopes of anyio's that the running task is in.

    The task's own cancellation still gets through. On trio it would not, and tasks of ours are in no such scope.
    """
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return anyio.CancelScope(shield=True)
    return nullcontext()
