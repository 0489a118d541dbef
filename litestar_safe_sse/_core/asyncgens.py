"""Async generators that a task leaves half-way are closed by that task.

``async for item in inner(): yield item`` does not close ``inner`` when the outer generator is closed. Python then
hands it to the event loop's finalizer (PEP 525), which closes it later, in a task that nobody waits for and that the
end of the loop cancels; one in a cycle of references only when the garbage collector comes. So while streams are open,
those that are left in a task of a stream's are kept for it to close: as they die, and what only a cycle keeps when the
task looks for it.
"""

from __future__ import annotations

import contextvars
import sys
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from litestar_safe_sse._core.garbage import is_garbage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import AsyncGeneratorType

    Generator = AsyncGeneratorType[Any, Any]
    Hook = Callable[[Generator], None] | None

__all__ = ("Keeper", "LeftGenerators", "install", "keep_in_this_context", "uninstall")


class Keeper(Protocol):
    """Who closes what a task leaves half-way."""

    def begin(self, generator: Generator) -> None:
        """A generator takes its first step."""

    def keep(self, generator: Generator) -> bool:
        """Takes a generator to be closed; false if the event loop should see to it."""
        ...


_FEW = 8
"""Generators that are remembered before those that are gone are forgotten."""

_keeper: contextvars.ContextVar[Keeper | None] = contextvars.ContextVar("litestar_safe_sse_keeper", default=None)


class _Hooks:
    """The hooks of one thread, in front of its event loop's own: https://peps.python.org/pep-0525/#finalization"""

    def __init__(self, first_step: Hook, finalizer: Hook) -> None:
        self.previous = first_step, finalizer
        self.users: set[object] = set()
        """Who has installed them: several applications may run in one loop."""

    def begin(self, generator: Generator) -> None:
        if self.previous[0] is not None:
            self.previous[0](generator)
        keeper = _keeper.get()
        if keeper is not None:
            keeper.begin(generator)

    def finalize(self, generator: Generator) -> None:
        keeper = _keeper.get()
        if (keeper is None or not keeper.keep(generator)) and self.previous[1] is not None:
            self.previous[1](generator)


def keep_in_this_context(keeper: Keeper) -> None:
    """Has the generators that are begun or die in this context kept."""
    _keeper.set(keeper)


def install(user: object) -> None:
    """Puts the hooks in front of the running loop's, in this thread, until each user has uninstalled them."""
    current = sys.get_asyncgen_hooks()
    hooks = _hooks_of(current.finalizer)
    if hooks is None:
        hooks = _Hooks(current.firstiter, current.finalizer)
        sys.set_asyncgen_hooks(hooks.begin, hooks.finalize)  # type: ignore[arg-type]
    hooks.users.add(user)


def uninstall(user: object) -> None:
    """Gives the thread its event loop's own hooks back, unless another user needs ours."""
    hooks = _hooks_of(sys.get_asyncgen_hooks().finalizer)
    if hooks is not None:
        hooks.users.discard(user)
        if not hooks.users:
            sys.set_asyncgen_hooks(*hooks.previous)  # type: ignore[arg-type]


def _hooks_of(finalizer: Hook) -> _Hooks | None:
    hooks = getattr(finalizer, "__self__", None)
    return hooks if isinstance(hooks, _Hooks) else None


class LeftGenerators:
    """Those that one task has left half-way and not closed yet."""

    __slots__ = ("_begun", "_left", "_prune_at")

    def __init__(self) -> None:
        self._begun: list[weakref.ref[Any]] = []
        self._prune_at = _FEW
        self._left: list[Generator] = []

    def begin(self, generator: Generator) -> None:
        """A generator takes its first step in the task."""
        if len(self._begun) == self._prune_at:
            self._begun = [reference for reference in self._begun if reference() is not None]
            self._prune_at = 2 * len(self._begun) + _FEW
        self._begun.append(weakref.ref(generator))

    def add(self, generator: Generator) -> None:
        """A generator has died in the task before its end."""
        self._left.append(generator)

    def take(self) -> Generator | None:
        """Takes one to be closed, if there is one."""
        if not self._left and self._begun:
            begun, self._begun = self._begun, []
            garbage = [reference for reference in begun if _is_suspended(reference) and is_garbage(reference)]
            self._left += [generator for generator in (reference() for reference in garbage) if generator is not None]
        return self._left.pop() if self._left else None


def _is_suspended(reference: weakref.ref[Any]) -> bool:
    generator = reference()
    return generator is not None and generator.ag_frame is not None and not generator.ag_running
