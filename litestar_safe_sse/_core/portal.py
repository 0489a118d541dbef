"""Contexts that a handler enters are entered by the task that will leave them.

A task group or a cancel scope must be left by the task that entered it, and many clients hold one. The body's owner
leaves a stream's contexts, so it enters them too, with the handler's context variables; the handler waits for it, and
sees those that they set.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.shielding import shielded_from_scopes
from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from litestar_safe_sse._runtime.base import OwnedTask, Runtime

    Capture = Callable[[Coroutine[Any, Any, object]], Awaitable[BaseException | None]]

__all__ = ("Portal", "apply_context_changes")

T = TypeVar("T")

_UNSET = object()

_inside: contextvars.ContextVar[object] = contextvars.ContextVar("litestar_safe_sse_inside", default=None)
"""The portal by which what is entered in this context is being entered."""

_follower: contextvars.ContextVar[object] = contextvars.ContextVar("litestar_safe_sse_follower", default=None)
"""The variables that have been brought up to date with this context."""


def apply_context_changes(before: contextvars.Context, after: contextvars.Context) -> None:
    """Sets in the current context what became different between two snapshots of another one."""
    for var, value in after.items():
        if var not in before or before[var] is not value:
            var.set(value)


class _Variables:
    """The context variables of an owner, which follow those of a handler.

    A variable can only be unset by the token of the first that set it, in the same context. So an owner that follows
    begins with none.
    """

    __slots__ = ("_given", "_seen", "_tokens")

    def __init__(self) -> None:
        self._tokens: dict[contextvars.ContextVar[Any], contextvars.Token[Any]] = {}
        self._seen = contextvars.Context()
        """Those of the handler when they were last followed."""
        self._given: dict[contextvars.ContextVar[Any], object] = {}
        """What the variables were, in the handler, that an entered context has set."""

    def follow(self, handler: contextvars.Context) -> None:
        """Sets and unsets what the handler has set and unset; called in the owner's context."""
        is_same = handler.get(_follower) is self
        for var in {*self._seen, *handler} - {_follower}:
            value = handler.get(var, _UNSET)
            # Dependencies may have contexts of their own, and what was entered for one is not seen in another.
            if value is not self._seen.get(var, _UNSET) and (is_same or value is not self._given.get(var, handler)):
                self._set(var, value)
        self._seen = handler

    def _set(self, var: contextvars.ContextVar[Any], value: object) -> None:
        if value is not _UNSET:
            token = var.set(value)
            self._tokens.setdefault(var, token)
        elif var in self._tokens:
            var.reset(self._tokens.pop(var))

    def give_back(self, before: contextvars.Context, after: contextvars.Context) -> None:
        """Sets in the handler's context, which is the current one, what entering a context has set in the owner's."""
        for var, value in after.items():
            if before.get(var, _UNSET) is not value:
                self._given[var] = contextvars.copy_context().get(var, _UNSET)
                var.set(value)
        _follower.set(self)
        self._seen = contextvars.copy_context()

    def close(self) -> None:
        """Lets go of everything: the handler has returned."""
        self._tokens.clear()
        self._given.clear()
        self._seen = contextvars.Context()


class _Visit:
    __slots__ = ("changes", "done", "failure", "handler", "value", "work")

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.work = work
        self.handler = contextvars.copy_context()
        self.done = anyio.Event()
        self.failure: BaseException | None = None
        self.value: Any = None
        self.changes: tuple[contextvars.Context, contextvars.Context] | None = None

    async def run(self, portal: Portal) -> None:
        token = _inside.set(portal)
        before = contextvars.copy_context()
        try:
            self.value = await self.work
        finally:
            _inside.reset(token)
        self.changes = before, contextvars.copy_context()

    def refuse(self, why: str) -> None:
        self.work.close()
        self.failure = StreamClosedError(why)


class Portal:
    """Where a handler hands work to the owner, until the body begins."""

    __slots__ = ("_current", "_handler", "_knock", "_open", "_owner", "_variables", "_waiting")

    def __init__(self, runtime: Runtime) -> None:
        self._knock = runtime.wake()
        self._waiting: deque[_Visit] = deque()
        self._current: _Visit | None = None
        self._owner: OwnedTask | None = None
        self._open = True
        self._variables = _Variables()
        self._handler: contextvars.Context | None = None

    async def enter(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the owner do some work; a cancellation of the handler, which calls this, reaches it once."""
        if _inside.get() is self:  # the owner is at what asks for this, and may be waiting for it
            return await work
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
            self._variables.give_back(*visit.changes)
        if visit.failure is not None:
            raise visit.failure
        value: T = visit.value
        return value

    def shut(self) -> None:
        """Lets the owner go on to the body, with the variables that the handler has by now."""
        self._open = False
        self._handler = contextvars.copy_context()
        self._knock.set()

    async def serve(self, owner: OwnedTask, capture: Capture) -> BaseException | None:
        """Does what the handler asks for, until :meth:`shut`; called by the owner.

        Returns:
            What ended the body before it began: the cancellation by a task group that was entered, a task of which has
            failed, or by a timeout. ``None`` if nothing did.
        """
        self._owner = owner
        failure: BaseException | None = None
        while self._open:
            if not self._waiting:
                ended = await capture(self._wait_for_knock(is_ended=failure is not None))
                failure = failure if ended is None or isinstance(ended, Interrupted) else ended
                continue
            visit = self._waiting.popleft()
            if failure is None:
                self._current = visit
                self._variables.follow(visit.handler)
                visit.failure = await capture(visit.run(self))
                self._current = None
                if isinstance(visit.failure, asyncio.CancelledError):  # not by the handler, which would be Interrupted
                    failure = visit.failure
            if failure is not None:
                visit.refuse("what was entered for the stream has ended it, as a task group does whose task has failed")
            visit.done.set()
        self._owner = None
        while self._waiting:
            visit = self._waiting.popleft()
            visit.refuse("the handler has returned; enter contexts before it does")
            visit.done.set()
        if self._handler is not None:
            self._variables.follow(self._handler)
        self._variables.close()
        if sys.version_info < (3, 11):  # where the task has a copy of the context that it was given
            owner.context = contextvars.copy_context()
        return failure

    async def _wait_for_knock(self, *, is_ended: bool) -> None:
        with shielded_from_scopes() if is_ended else nullcontext():  # one of AnyIO's cancels in each turn
            await self._knock.wait()
