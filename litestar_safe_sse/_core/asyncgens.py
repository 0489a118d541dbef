"""Async generators that a body leaves behind half-way are closed by the task that owns the body.

``async for item in inner(): yield item`` does not close ``inner`` when the outer generator is closed. Python then
hands it to the event loop's finalizer (PEP 525), which closes it later, in a task that nobody waits for and that the
end of the loop cancels. So while streams are open, those that die in an owner's task are kept for the owner to close.
"""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    Finalizer = Callable[[AsyncGenerator[Any, Any]], None]

__all__ = ("Adopter", "adopt_in_this_context", "install", "uninstall")


class Adopter(Protocol):
    def adopt(self, generator: AsyncGenerator[Any, Any]) -> bool:
        """Takes a generator to be closed; false if the event loop should see to it."""
        ...


_adopter: contextvars.ContextVar[Adopter | None] = contextvars.ContextVar("litestar_safe_sse_adopter", default=None)


class _Adoption:
    """The finalizer of one thread, in front of its event loop's own."""

    def __init__(self, previous: Finalizer | None) -> None:
        self.previous = previous

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        adopter = _adopter.get()
        if (adopter is None or not adopter.adopt(generator)) and self.previous is not None:
            self.previous(generator)


def adopt_in_this_context(adopter: Adopter) -> None:
    """Makes the generators that die in this context the adopter's to take."""
    _adopter.set(adopter)


def install() -> None:
    """Puts the adoption in front of the running loop's finalizer, in this thread."""
    hooks = sys.get_asyncgen_hooks()
    if not isinstance(hooks.finalizer, _Adoption):
        sys.set_asyncgen_hooks(finalizer=_Adoption(hooks.finalizer))


def uninstall() -> None:
    """Gives the thread its event loop's own finalizer back."""
    hooks = sys.get_asyncgen_hooks()
    if isinstance(hooks.finalizer, _Adoption):
        sys.set_asyncgen_hooks(finalizer=hooks.finalizer.previous)
