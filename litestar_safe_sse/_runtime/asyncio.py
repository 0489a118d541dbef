"""asyncio and uvloop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.cancellation import Cancellation
from litestar_safe_sse._runtime.gil import GilYielder
from litestar_safe_sse._runtime.tokens import NEXT_PAUSE, PAUSE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable

    from litestar_safe_sse._runtime.base import Event, OwnedTask, Timer, Wake, Work

__all__ = ("AsyncioRuntime",)


@types.coroutine
def _turn() -> Generator[None]:
    yield


class AsyncioRuntime:
    """asyncio and uvloop."""

    __slots__ = ("_context", "_gil", "_loop", "key")

    name = "asyncio"
    can_hold_contexts = True
    starts_in_order = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gil = GilYielder()
        self._context = contextvars.Context()
        self._loop = loop
        self.key: Hashable = loop

    def spawn(self, work: Work, name: str, context: contextvars.Context | None = None) -> OwnedTask:
        return AsyncioTask(self._loop, work, name, contextvars.copy_context() if context is None else context)

    def wake(self) -> Wake:
        return AsyncioWake(self._loop)

    def event(self) -> Event:
        return AsyncioEvent(self._loop)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_later(delay, callback, context=self._context)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon(callback)

    def call_threadsafe(self, callback: Callable[[], object], /) -> object:
        return self._loop.call_soon_threadsafe(callback)

    def is_gone(self) -> bool:
        return self._loop.is_closed()

    def turn(self) -> Awaitable[None]:
        return _turn()

    def let_threads_run(self) -> None:
        self._gil.yield_gil()

    def stray_cancellation(self) -> BaseException:
        return asyncio.CancelledError()


class AsyncioWake:
    __slots__ = ("_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wait(self) -> Awaitable[None]:
        self._waiter = self._loop.create_future()
        return self._waiter


class AsyncioEvent:
    """An event that is small while nobody waits: that of asyncio holds a deque, of 700 bytes, from the start."""

    __slots__ = ("_happened", "_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._happened = False
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        return self._happened

    def set(self) -> None:
        self._happened = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = ()

    async def wait(self) -> None:
        if self._happened:
            return
        waiter = self._loop.create_future()
        self._waiters += (waiter,)
        try:
            await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)


class AsyncioTask:
    """A task that the loop does not list.

    It stands between the loop's task and the work, as what :meth:`capture` awaits, and so sees what becomes of a
    cancellation.
    """

    __slots__ = ("_cancellation", "_cancelled", "_task", "_work", "context")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work, name: str, context: contextvars.Context) -> None:
        self._work: Any = None
        self._cancelled = False
        self._cancellation: Cancellation | None = None
        self.context = context
        # Not by the loop's task factory: an eager one would run the body before the response has begun.
        if sys.version_info >= (3, 11):
            self._task = asyncio.Task(work(self), loop=loop, name=name, context=context)
        else:  # which takes a copy of it
            self._task = context.run(asyncio.Task, work(self), loop=loop, name=name)
        # https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
        asyncio._unregister_task(self._task)

    def cancel(self, again: Callable[[], object] | None = None, body: object = None) -> None:
        if self._work is None:
            return
        earlier, waits = 0, False
        if self._cancellation is not None:
            earlier, waits = self._cancellation.requests, self._cancellation.is_lost_again
        self._dismiss_cancellation()
        pause = NEXT_PAUSE if self._cancelled else PAUSE
        self._cancelled = True
        again = self.cancel if again is None else again
        self._cancellation = Cancellation(self._task, self._work, again, body, earlier, pause, waits=waits)

    def cancel_unwatched(self) -> None:
        if self._work is not None:
            self._cancelled = True
            self._task.cancel()

    def hurry(self) -> bool:
        return self._cancellation is not None and self._cancellation.hurry()

    def let_go(self) -> None:
        """Stops watching for a cancellation that is forgotten."""
        self._dismiss_cancellation()

    def is_current(self) -> bool:
        try:
            return asyncio.current_task() is self._task
        except RuntimeError:  # in a thread, or without a loop
            return False

    def is_others_turn(self) -> bool:
        try:
            return asyncio.current_task() not in (self._task, None)
        except RuntimeError:  # another thread
            return True

    async def capture(self, work: Coroutine[Any, Any, object]) -> BaseException | None:
        self._work, self._cancelled = work, False
        try:
            await self
        except asyncio.CancelledError as exc:
            self._dismiss_cancellation()  # before the exception is freed
            return Interrupted() if self._cancelled else exc
        except GeneratorExit as exc:
            if not self.is_current():  # the loop is gone, and this is closed
                raise
            return exc
        except BaseException as exc:
            return exc
        finally:
            self._dismiss_cancellation()
            self._work = None
        return None

    def _dismiss_cancellation(self) -> None:
        if self._cancellation is not None:
            self._cancellation.dismiss()
            self._cancellation = None

    # What an await asks of what it awaits (https://docs.python.org/3/reference/datamodel.html#coroutine-objects)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]

    def __next__(self) -> object:
        if self._cancellation is None:
            return self._work.send(None)
        return self._cancellation.send(self._work)

    def throw(self, error: BaseException, *_: object) -> object:
        try:
            if self._cancellation is None:
                return self._work.throw(error)
            return self._cancellation.throw(self._work, error)
        finally:
            del error  # its traceback may hold this frame

    def close(self) -> None:
        self._work.close()
