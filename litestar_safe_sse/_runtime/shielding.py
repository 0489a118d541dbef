"""To wait for something, or to have it done, whatever cancellations reach the calling task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from litestar_safe_sse._runtime.base import Interrupted

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from litestar_safe_sse._runtime.base import Event, OwnedTask, Runtime

__all__ = ("run_shielded", "wait_shielded")


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
    work: Coroutine[Any, Any, object], runtime: Runtime, *, limit: float, name: str
) -> BaseException | None:
    """Runs a coroutine where the cancellations of the calling task do not reach it, and waits for it.

    Args:
        work: The coroutine.
        runtime: The running event loop.
        limit: Seconds after which it is cancelled, and, if that does not help, left behind.
        name: The task's name.

    Returns:
        What it raised, ``Interrupted`` if it was cancelled, or ``None``.
    """
    done = anyio.Event()
    outcome: list[BaseException | None] = []

    async def run(task: OwnedTask) -> None:
        outcome.append(await task.capture(work))
        done.set()

    task = runtime.spawn(run, name)
    timers = [runtime.call_later(limit, task.cancel), runtime.call_later(limit + 0.1, done.set)]
    try:
        await wait_shielded(done)
    finally:
        for timer in timers:
            timer.cancel()
    return outcome[0] if outcome else Interrupted()
