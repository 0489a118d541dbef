"""What a stream asks of an event loop: a task of its own, a wake-up, a timer.

A stream's body must not be reachable by the cancellations of others: servers cancel the request task (twice, if need
be), and ``asyncio.run`` ends by cancelling every task that ``asyncio.all_tasks()`` knows. So a task that owns a body
stands outside the request's cancel scopes and outside that list; the request task waits for it instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import contextvars

__all__ = ("LATE", "Event", "Interrupted", "OwnedTask", "Runtime", "Timer", "Wake", "Work", "origins")

LATE = 0.01
"""Seconds by which a timer may be late though the loop answers: as long as a turn of a busy one."""


class Interrupted(BaseException):
    """The outcome of work that ended because its task was cancelled by whoever owns it.

    It is returned by :meth:`OwnedTask.capture` in the place of the ``CancelledError``, and never raised.
    """


def origins(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and what it came of, each once: ``raise error from error`` makes it its own cause."""
    seen: set[int] = set()
    left = [error]
    while left:
        found = left.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            left += (found.__context__, found.__cause__)


class Wake(Protocol):
    """Wakes one waiter, which looks before and after whether what it waits for has come."""

    def set(self) -> None: ...

    def wait(self) -> Awaitable[None]: ...


class Event(Protocol):
    """Happens once; any number may wait for it."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...

    async def wait(self) -> None: ...


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None: ...


class OwnedTask(Protocol):
    """A task that only its creator cancels."""

    context: contextvars.Context
    """Its context, or one like it."""

    def cancel(self, again: Callable[[], object] | None = None, body: object = None) -> None:
        """Cancels the work under way, if there is any: once, and again if that is forgotten (on trio: for good).

        Args:
            again: Called in place of the next cancellation, to decide whether there is to be one.
            body: The iterator that the task advances. What its own frame catches is left to it.
        """

    def cancel_unwatched(self) -> None:
        """Cancels the work under way, if there is any, for who does not depend on it: at little cost, and once."""

    def hurry(self) -> bool:
        """Cancels the work under way at once, if its cancellation was forgotten and is still to come again.

        Returns:
            Whether it was. To what has forgotten a second one it makes no difference.
        """
        ...

    def let_go(self) -> None:
        """Leaves the work under way to itself: it is cancelled no more."""

    def is_current(self) -> bool:
        """Whether the caller runs in this task."""
        ...

    def is_others_turn(self) -> bool:
        """Whether the caller runs in another task: not in this one, nor where the loop lets go of what one has left."""
        ...

    async def capture(self, work: Coroutine[Any, Any, object]) -> BaseException | None:
        """Runs some work in this task, and captures its outcome: nothing that it raises gets through.

        Args:
            work: The work. :meth:`cancel` reaches it, and nothing that is done before or after.

        Returns:
            ``None`` if it finished, :class:`Interrupted` if it ended by :meth:`cancel`, or else what it raised.

        Raises:
            GeneratorExit: If the loop is gone, so that nothing can be awaited any more.
        """


class Runtime(Protocol):
    """One running event loop."""

    @property
    def name(self) -> str:
        """The name of the library: ``asyncio`` or ``trio``."""
        ...

    @property
    def key(self) -> Hashable: ...

    @property
    def can_hold_contexts(self) -> bool:
        """Whether a context that was entered in one captured work of a task may be left in another."""
        ...

    @property
    def starts_in_order(self) -> bool:
        """Whether tasks begin in the order in which they were spawned, before a :meth:`turn` ends."""
        ...

    def spawn(self, work: Work, name: str, context: contextvars.Context | None = None) -> OwnedTask:
        """Begins a task, in a copy of the current context unless one is given."""
        ...

    def wake(self) -> Wake: ...

    def event(self) -> Event: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Calls back later, in an empty context, which holds on to no request.

        Args:
            delay: Seconds until then.
            callback: What is called.
        """
        ...

    def call_soon(self, callback: Callable[[], object]) -> None: ...

    def call_threadsafe(self, callback: Callable[[], object], /) -> object:
        """Calls back in the loop's thread.

        Raises:
            RuntimeError: If the loop is gone.
        """

    def is_gone(self) -> bool:
        """Whether the loop has ended."""
        ...

    def turn(self) -> Awaitable[None]:
        """Lets everything else that is ready run once."""
        ...

    def let_threads_run(self) -> None:
        """Lets go of the GIL for long enough that a thread which waits for it gets it."""

    def stray_cancellation(self) -> BaseException:
        """Returns the exception with which a context manager is left whose block was cancelled."""
        ...


Work = Callable[[OwnedTask], Coroutine[Any, Any, None]]
"""What a task does; it is given the task."""
