"""What ``asyncio.wait_for`` waits for up to Python 3.11, where it has a task of its own.

When a task that waits so is cancelled, ``wait_for`` cancels the other one, and holds on to the cancellation until that
has ended. One that has lost its own, as a client of Redis does that connects, is waited for until all time is up. So it
is cancelled by a token, and again if that is forgotten. From Python 3.12 on there is no such task.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import weakref
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._runtime.awaits import chain_of_awaits
from litestar_safe_sse._runtime.tokens import NEXT_PAUSE, PAUSE, Token, let_go_of_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("WaitedFor", "tasks_waited_for")

_HAS_TASK = sys.version_info < (3, 12)


def tasks_waited_for(task: asyncio.Task[Any], work: object) -> list[asyncio.Task[Any]]:
    """Returns what a task waits for by ``wait_for``, what that waits for so, and so on.

    Args:
        task: The task.
        work: The coroutine of it that waits.
    """
    return list(_waited_for(task, work)) if _HAS_TASK else []


class WaitedFor:
    """Another task, cancelled until it takes notice.

    Args:
        task: The task.
    """

    __slots__ = ("_held", "_loop", "_pause", "_task", "_timer")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()
        self._pause = PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._held: weakref.ref[Token] | None = None
        self._cancel()

    def _cancel(self) -> None:
        if self._task.done():
            return
        token = Token()
        self._task.cancel(token)
        self._held = weakref.ref(token, self._on_freed)
        self._loop.call_soon(let_go_of_tokens, self._task)

    def _on_freed(self, held: weakref.ref[Any]) -> None:
        """Called where it was let go, or by a garbage collection in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._forget, held)

    def _forget(self, held: weakref.ref[Any]) -> None:
        if held is self._held and not self._task.done():
            self._timer = self._loop.call_later(self._pause, self._cancel)
            self._pause = NEXT_PAUSE

    def dismiss(self) -> None:
        """Stops watching."""
        self._held = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _waited_for(task: asyncio.Task[Any], work: object) -> Iterator[asyncio.Task[Any]]:
    *_, innermost = chain_of_awaits(work)
    if getattr(innermost, "cr_code", None) is asyncio.wait_for.__code__:
        variables: dict[str, Any] = innermost.cr_frame.f_locals  # type: ignore[attr-defined]
        waiter, inner = variables.get("waiter"), variables.get("fut")
        if isinstance(inner, asyncio.Task) and waiter is not None and waiter is getattr(task, "_fut_waiter", None):
            yield inner
            yield from _waited_for(inner, inner.get_coro())
