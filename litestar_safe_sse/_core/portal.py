"""Contexts that a handler enters are entered by the task that will leave them.

A task group or a cancel scope must be left by the task that entered it, and many clients hold one. The body's owner
leaves a stream's contexts, so it enters them too; the handler waits for it, and sees the context variables they set.
"""

from __future__ import annotations

import contextvars
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from litestar_safe_sse._runtime.base import OwnedTask, Runtime

    Capture = Callable[[Coroutine[Any, Any, object]], Awaitable[BaseException | None]]

__all__ = ("Portal",)

T = TypeVar("T")


def apply_context_changes(before: contextvars.Context, after: contextvars.Context) -> None:
    """Sets in the current context what became different between two snapshots of another one."""
    for var, value in after.items():
        if var not in before or before[var] is not value:
            var.set(value)


class _Visit:
    __slots__ = ("changes", "done", "failure", "value", "work")

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.work = work
        self.done = anyio.Event()
        self.failure: BaseException | None = None
        self.value: Any = None
        self.changes: tuple[contextvars.Context, contextvars.Context] | None = None

    async def run(self) -> None:
        before = contextvars.copy_context()
        self.value = await self.work
        self.changes = before, contextvars.copy_context()


class Portal:
    """Where a handler hands work to the owner, until the body begins."""

    __slots__ = ("_begun", "_current", "_handler", "_knock", "_open", "_owner", "_waiting")

    def __init__(self, runtime: Runtime) -> None:
        self._knock = runtime.wake()
        self._waiting: deque[_Visit] = deque()
        self._current: _Visit | None = None
        self._owner: OwnedTask | None = None
        self._open = True
        self._begun = contextvars.copy_context()
        self._handler: contextvars.Context | None = None

    async def enter(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the owner do the work. Called by the handler; a cancellation reaches the work, once."""
        visit = _Visit(work)
        self._waiting.append(visit)
        self._knock.set()
        try:
            await visit.done.wait()
        except BaseException:
            if self._current is visit and self._owner is not None:
                self._owner.cancel()
            elif visit in self._waiting:
                self._waiting.remove(visit)
                work.close()
            raise
        if visit.changes is not None:
            apply_context_changes(*visit.changes)
        if visit.failure is not None:
            raise visit.failure
        value: T = visit.value
        return value

    def shut(self) -> None:
        """Lets the owner go on to the body, in the context that the handler has by now."""
        self._open = False
        self._handler = contextvars.copy_context()
        self._knock.set()

    async def serve(self, owner: OwnedTask, capture: Capture) -> None:
        """Does what the handler asks for, until :meth:`shut`. Called by the owner."""
        self._owner = owner
        while self._open:
            if not self._waiting:
                await self._knock.wait()
                continue
            visit = self._current = self._waiting.popleft()
            visit.failure = await capture(visit.run())
            self._current = None
            visit.done.set()
        self._owner = None
        while self._waiting:
            visit = self._waiting.popleft()
            visit.work.close()
            visit.failure = StreamClosedError("the handler has returned; enter contexts before it does")
            visit.done.set()
        if self._handler is not None:
            apply_context_changes(self._begun, self._handler)
