"""The cleanup registry of one stream: what was opened for it, given back last in first out.

It keeps the ledger and the report. The shield and the deadlines are its caller's: each cleanup is run through
``capture``, in a task that nobody else can cancel (``stream.py``).
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from litestar_safe_sse._core.portal import apply_context_changes
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.shielding import shielded_from_scopes
from litestar_safe_sse.exceptions import CleanupError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from litestar_safe_sse._core.portal import Capture

    Exit = Callable[[BaseException | None], Awaitable[object]]

__all__ = ("CleanupRegistry",)

T = TypeVar("T")


class Cleanup(NamedTuple):
    name: str
    run: Exit


class CleanupRegistry:
    """What a stream has to give back.

    A context manager is left with the exception that ended the body, so that a transaction rolls back; after a stop
    it is left as a cancelled ``async with`` block would be.
    """

    __slots__ = ("_closed", "_failures", "_in_threads", "_stack", "_thread", "running")

    def __init__(self) -> None:
        self._stack: list[Cleanup] = []
        self._failures: tuple[tuple[str, BaseException], ...] = ()
        self._closed = False
        self._thread = threading.get_ident()
        self._in_threads: tuple[tuple[contextvars.Context, contextvars.Context], ...] = ()
        """The variables before and after each context that was entered in another thread."""
        self.running: str | None = None
        """The name of the cleanup under way."""

    def __len__(self) -> int:
        return len(self._stack)

    @property
    def failures(self) -> tuple[tuple[str, BaseException], ...]:
        """The cleanups that have failed so far, by name."""
        return self._failures

    async def enter_async_context(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters an async context manager; it is left when the stream has ended."""
        self._check_open()
        value = await manager.__aenter__()

        async def leave(error: BaseException | None) -> object:
            return await manager.__aexit__(*_exc_info(error))

        if not self._push(_name(manager), leave):
            await leave(None)
            raise _too_late()
        return value

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enters a context manager; it is left when the stream has ended."""
        self._check_open()
        value = manager.__enter__()

        async def leave(error: BaseException | None) -> object:
            return manager.__exit__(*_exc_info(error))

        if not self._push(_name(manager), leave):
            manager.__exit__(None, None, None)
            raise _too_late()
        return value

    def enter_context_apart(self, manager: AbstractContextManager[T]) -> T:
        """Enters a context manager elsewhere than in the task that leaves it.

        It is entered and left in one copy of the current context, since a context variable can be reset only where it
        was set. What it sets is set in the current context too, and what it sets back in that of the cleanups.
        """
        self._check_open()
        context = contextvars.copy_context()
        before = context.copy()
        value = context.run(manager.__enter__)
        apply_context_changes(before, context)
        if threading.get_ident() != self._thread:
            self._in_threads += ((before, context.copy()),)

        async def leave(error: BaseException | None) -> object:
            before = context.copy()
            try:
                return context.run(manager.__exit__, *_exc_info(error))
            finally:
                apply_context_changes(before, context)

        if not self._push(_name(manager), leave):
            context.run(manager.__exit__, None, None, None)
            raise _too_late()
        return value

    def follow_threads(self) -> None:
        """Sets in the current context what entering contexts in threads has set, whose variables nobody else sees."""
        in_threads, self._in_threads = self._in_threads, ()
        for before, after in in_threads:
            current = contextvars.copy_context()
            for var, value in after.items():
                was = before.get(var, self)
                if value is not was and current.get(var, self) is was:
                    var.set(value)

    def push_async_callback(self, callback: Callable[..., Awaitable[object]], *args: Any, **kwargs: Any) -> None:
        """Registers a coroutine function to be called when the stream has ended."""
        self._check_open()

        async def call(_: BaseException | None) -> None:
            with shielded_from_scopes():  # of a task group that was entered for the stream
                await callback(*args, **kwargs)

        if not self._push(_name(callback), call):
            raise _too_late()

    def callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Registers a function to be called when the stream has ended."""
        self._check_open()

        async def call(_: BaseException | None) -> None:
            result = callback(*args, **kwargs)
            if inspect.isawaitable(result):  # a coroutine function here would else never run
                with shielded_from_scopes():
                    await result

        if not self._push(_name(callback), call):
            raise _too_late()

    async def unwind(self, error: BaseException | None, capture: Capture) -> None:
        """Runs what is left, last in first out; a failure doesn't stop the rest.

        A cleanup is taken off before it runs, so none can run twice, and a second call goes on where one that got
        stuck was left behind.
        """
        while (cleanup := self._pop()) is not None:
            self.running, run = cleanup
            outcome = await capture(_leave(run, error))
            if isinstance(outcome, _Suppressed):
                error = None
            elif outcome is not None and outcome is not error:
                self.fail(cleanup.name, outcome)
        self.running = None

    def fail(self, name: str, failure: BaseException) -> None:
        """Adds a failure to the report."""
        if isinstance(failure, Interrupted):
            failure = TimeoutError("was not done in time and was cancelled")
        self._failures += ((name, failure),)

    def close(self) -> bool:
        """Ends the registry, if there is nothing left in it; returns whether it has."""
        self._closed = True
        self._closed = not self._stack  # another thread may have registered something in the meantime
        return self._closed

    def report(self) -> CleanupError | None:
        """Returns all failures together, or ``None``."""
        return CleanupError(self._failures) if self._failures else None

    def _push(self, name: str, run: Exit) -> bool:
        """Registers a cleanup; returns whether it will run, which it won't if the registry was closed meanwhile."""
        cleanup = Cleanup(name, run)
        self._stack.append(cleanup)
        if self._closed:
            with contextlib.suppress(ValueError):  # or else it is run after all
                self._stack.remove(cleanup)
                return False
        return True

    def _pop(self) -> Cleanup | None:
        try:
            return self._stack.pop()
        except IndexError:  # there is none; asked first, another thread might take it back in between
            return None

    def _check_open(self) -> None:
        if self._closed:
            raise _too_late()


def _too_late() -> StreamClosedError:
    return StreamClosedError("the stream has ended and cleaned up; register cleanups while it is open")


class _Suppressed(BaseException):
    """An ``__exit__`` returned true: managers further out see no exception, as in ``contextlib.ExitStack``."""


async def _leave(run: Exit, error: BaseException | None) -> None:
    suppressed = await run(error)
    if error is not None and suppressed:
        raise _Suppressed


def _exc_info(
    error: BaseException | None,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _name(cleanup: object) -> str:
    named = cleanup if hasattr(cleanup, "__qualname__") else getattr(cleanup, "func", type(cleanup))
    return str(getattr(named, "__qualname__", named))
