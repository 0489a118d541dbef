"""What asyncio and trio do differently: a task of our own, a wake-up, a timer.

A stream's body must not be reachable by the cancellations of others: servers cancel the request task (twice, if need
be), and ``asyncio.run`` ends by cancelling every task that ``asyncio.all_tasks()`` knows. So a task that owns a body
stands outside the request's cancel scopes and outside that list; the request task waits for it instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
import types
from typing import TYPE_CHECKING, Any, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable

    Work = Callable[["OwnedTask"], Coroutine[Any, Any, None]]
    """What a task does, which is given itself."""

__all__ = (
    "Breather",
    "Event",
    "Interrupted",
    "OwnedTask",
    "Runtime",
    "Timer",
    "Wake",
    "carry",
    "current_key",
    "current_runtime",
    "persist",
    "run_apart",
)


class Interrupted(BaseException):
    """Tells that an attempt ended because its task was cancelled by its owner."""


class Wake(Protocol):
    """A wake-up for one waiter. What it waits for is checked by the waiter, before and after."""

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

    @property
    def context(self) -> contextvars.Context:
        """Its context."""
        ...

    def cancel(self) -> None:
        """Delivers one cancellation (on trio: cancels the attempt under way, for good)."""

    def is_current(self) -> bool:
        """Whether the caller runs in this task."""
        ...

    async def attempt(self, work: Coroutine[Any, Any, object]) -> BaseException | None:
        """Runs a coroutine in this task.

        Returns:
            ``None`` if it finished, ``Interrupted`` if it ended by :meth:`cancel`, or else what it raised.
        """


class Runtime(Protocol):
    """One running event loop."""

    @property
    def name(self) -> str:
        """What the library calls itself: ``asyncio`` or ``trio``."""
        ...

    @property
    def key(self) -> Hashable: ...

    @property
    def can_hold_contexts(self) -> bool:
        """Whether a context entered in one attempt of a task may be left in another."""
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
        """Calls back in a context of nobody's, which holds on to no request."""
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
        """What a context manager is left with whose block was cancelled."""
        ...


def current_key() -> Hashable:
    """What tells the event loop that is running from others: the ``key`` of its runtime."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_runtime().key


def current_runtime() -> Runtime:
    """The runtime of the event loop that is running."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from litestar_safe_sse._tasks_trio import TrioRuntime

        return TrioRuntime()
    return AsyncioRuntime(loop)


async def persist(event: Event) -> None:
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


async def run_apart(
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
        outcome.append(await task.attempt(work))
        done.set()

    task = runtime.spawn(run, name)
    timers = [runtime.call_later(limit, task.cancel), runtime.call_later(limit + 0.1, done.set)]
    try:
        await persist(done)
    finally:
        for timer in timers:
            timer.cancel()
    return outcome[0] if outcome else Interrupted()


def carry(before: contextvars.Context, after: contextvars.Context) -> None:
    """Sets in the current context what became different between two snapshots of another one."""
    for var, value in after.items():
        if var not in before or before[var] is not value:
            var.set(value)


class Breather:
    """Lets the threads of a server, or of sync bodies, have the GIL while bodies keep their event loop busy.

    A busy loop lets go of the GIL at each turn, but only for the length of a poll without a timeout. That wakes a
    thread which waits for it too late to take it, and starts its claim (``sys.getswitchinterval()``) anew, so that it
    may wait for ever: on Granian, whose threads are Rust's, requests were then not answered at all.
    """

    __slots__ = ("_next",)

    INTERVAL = 0.005
    LENGTH = 0.00005

    def __init__(self) -> None:
        self._next = 0.0

    def breathe(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            time.sleep(self.LENGTH)
            self._next = now + self.INTERVAL


@types.coroutine
def _turn() -> Generator[None]:
    yield


class AsyncioRuntime:
    """asyncio and uvloop."""

    __slots__ = ("_breather", "_context", "_loop", "key")

    name = "asyncio"
    can_hold_contexts = True
    starts_in_order = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._breather = Breather()
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
        self._breather.breathe()

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
    __slots__ = ("_cancelled", "_loop", "_task", "context")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work, name: str, context: contextvars.Context) -> None:
        self._loop = loop
        self._cancelled = False
        self.context = context
        # Not by the loop's task factory: an eager one would run the body before the response has begun.
        if sys.version_info >= (3, 11):
            self._task = asyncio.Task(work(self), loop=loop, name=name, context=context)
        else:  # which takes a copy of it
            self._task = context.run(asyncio.Task, work(self), loop=loop, name=name)
        # https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
        asyncio._unregister_task(self._task)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task.cancel() and sys.version_info >= (3, 11):
            # Once delivered, the request is spent: a timeout inside a `finally` must not take it for its own.
            self._loop.call_soon(self._task.uncancel)

    def is_current(self) -> bool:
        return asyncio.current_task() is self._task

    async def attempt(self, work: Coroutine[Any, Any, object]) -> BaseException | None:
        self._cancelled = False
        try:
            await work
        except asyncio.CancelledError as exc:
            return Interrupted() if self._cancelled else exc
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as exc:
            return exc
        return None
