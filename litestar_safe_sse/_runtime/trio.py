"""trio, whose cancellations are level-triggered; imported only where it runs."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import trio

from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.gil import GilYielder
from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable

    from litestar_safe_sse._runtime.base import Event, OwnedTask, Timer, Wake, Work

__all__ = ("TrioRuntime",)


class TrioRuntime:
    """trio."""

    __slots__ = ("_gil", "_token", "key")

    name = "trio"
    # A scope or nursery has to be left inside the scope of the attempt that entered it.
    can_hold_contexts = False
    starts_in_order = False

    def __init__(self) -> None:
        self._gil = GilYielder()
        self._token = trio.lowlevel.current_trio_token()
        self.key: Hashable = self._token

    def spawn(self, work: Work, name: str, context: contextvars.Context | None = None) -> OwnedTask:
        return TrioTask(work, name, contextvars.copy_context() if context is None else context)

    def wake(self) -> Wake:
        return TrioWake()

    def event(self) -> Event:
        return trio.Event()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return TrioTimer(delay, callback)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)

    def call_threadsafe(self, callback: Callable[[], object], /) -> None:
        self._token.run_sync_soon(callback)

    def is_gone(self) -> bool:
        try:
            self._token.run_sync_soon(_nothing)
        except trio.RunFinishedError:
            return True
        return False

    async def turn(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    def let_threads_run(self) -> None:
        self._gil.yield_gil()

    def stray_cancellation(self) -> BaseException:
        return StreamClosedError("the stream was stopped")  # a trio.Cancelled cannot be made


class TrioWake:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: trio.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()

    def wait(self) -> Awaitable[None]:
        self._event = trio.Event()
        return self._event.wait()


class TrioTask:
    __slots__ = ("_scope", "_task", "context")

    def __init__(self, work: Work, name: str, context: contextvars.Context) -> None:
        self._scope: trio.CancelScope | None = None
        self.context = context
        self._task = trio.lowlevel.spawn_system_task(work, self, name=name, context=context)

    def cancel(self, again: Callable[[], object] | None = None, body: object = None) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def cancel_unwatched(self) -> None:
        self.cancel()

    def hurry(self) -> bool:
        return False

    def let_go(self) -> None:
        """Does nothing: a cancellation here is that of a scope, and stays."""

    def is_current(self) -> bool:
        try:
            return trio.lowlevel.current_task() is self._task
        except RuntimeError:  # in a thread, or without a loop
            return False

    def is_others_turn(self) -> bool:
        try:
            return trio.lowlevel.current_task() is not self._task
        except RuntimeError:  # between two tasks
            return False

    async def capture(self, work: Coroutine[Any, Any, object]) -> BaseException | None:
        try:
            # The end of trio.run() cancels system tasks; what is owned here still gets its time.
            with trio.CancelScope(shield=True) as self._scope:
                await work
        except GeneratorExit as exc:
            if not self.is_current():  # the loop is gone, and this is closed
                raise
            return exc
        except BaseException as exc:
            return exc
        finally:
            scope, self._scope = self._scope, None
        return Interrupted() if scope is not None and scope.cancelled_caught else None


class TrioTimer:
    __slots__ = ("_scope",)

    def __init__(self, delay: float, callback: Callable[[], object]) -> None:
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run, delay, callback, name="SSE timer")

    def cancel(self) -> None:
        self._scope.cancel()

    async def _run(self, delay: float, callback: Callable[[], object]) -> None:
        with self._scope:
            await trio.sleep(delay)
            callback()


def _nothing() -> None: ...
