"""One cancellation of a task of asyncio's, watched until it has been taken notice of.

asyncio delivers a cancellation once, and whoever catches it may keep it. Libraries do so by mistake: on Python 3.11 and
older ``asyncio.wait_for`` loses one that comes in the turn in which what it waits for is done, and a timeout whose time
is up in that turn takes it for its own. The task then waits on, as if nobody had asked it to end.

So the exception is referred to weakly. It lives for as long as it is being handled, or is the cause or context of
another exception that is. Once it is freed, nobody remembers the cancellation, and a task that waits on is cancelled
again. Its traceback tells how far up it came: what a body caught itself is left to the body.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._runtime.awaits import handled_by
from litestar_safe_sse._runtime.base import LATE, origins
from litestar_safe_sse._runtime.tokens import NEXT_PAUSE, Token, let_go_of_tokens
from litestar_safe_sse._runtime.wait_for import WaitedFor, tasks_waited_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import CodeType, FrameType, TracebackType

__all__ = ("Cancellation",)


class Cancellation:
    """Cancels a task once, and notices if that is forgotten.

    A body that catches the cancellation in a frame of its own may await behind its ``try``. It has forgotten the
    cancellation only once it is back at the ``await`` that was cancelled. What it calls has no such freedom, since a
    function that tidies up cannot be told from one that has lost the cancellation.

    Args:
        task: The task.
        work: The coroutine of it that is to end.
        again: Called if the cancellation is forgotten, to have another.
        body: The iterator that the task advances, if there is one.
        earlier: How many requests for a cancellation count already, of one that has not arrived.
        pause: Seconds from when it is forgotten until there is to be another.
        waits: Whether it comes where the task begins to wait. Whenever the loop gets to cancel a task, what it waits
            for may be as good as done, as with ``wait_for`` and a queue that is never empty.
    """

    __slots__ = (
        "_again",
        "_body",
        "_due",
        "_held",
        "_is_bodys",
        "_loop",
        "_pause",
        "_place",
        "_task",
        "_timer",
        "_waited_for",
        "_waits",
        "_work",
        "requests",
    )

    def __init__(
        self,
        task: asyncio.Task[Any],
        work: object,
        again: Callable[[], object],
        body: object,
        earlier: int,
        pause: float,
        *,
        waits: bool = False,
    ) -> None:
        self._task = task
        self._work = work
        self._waited_for: list[WaitedFor] = []
        self._loop = task.get_loop()
        self._again: Callable[[], object] | None = again
        self._body = body
        frame = _frame_of(body)
        self._place = None if frame is None else frame.f_lasti
        """The instruction of the body's at which it was cancelled."""
        self._pause = pause
        self.requests = earlier
        """How many count with the task until the step in which the cancellation arrives has been done: so long, that no
        timeout takes it for its own whose time is up as well, and no longer, so that one in a ``finally`` works."""
        self._held: weakref.ref[BaseException | Token] | None = None
        """The exception, or until it arrives the token that it will have: what keeps the cancellation in mind."""
        self._is_bodys = False
        """Whether it has come up to the body's own frame."""
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._waits = waits
        if waits:
            self._timer = self._loop.call_later(pause, self._cancel)  # if it does not, and waits for something else
        else:
            self._cancel()

    def _cancel(self) -> None:
        self._waits = False
        self.requests += 1
        task, token = self._task, Token()
        waiter = getattr(task, "_fut_waiter", None)
        waited_for = tasks_waited_for(task, self._work)
        task.cancel(token)
        self._waited_for = [WaitedFor(each) for each in waited_for]  # behind it, or they would be cancelled twice
        if waiter is not None and not waiter.done():  # another task, or several, which may forget it themselves
            self._held = weakref.ref(token, self._on_freed)
            self._loop.call_soon(let_go_of_tokens, waiter)

    @property
    def is_lost_again(self) -> bool:
        """Whether it has been forgotten, and was not the first."""
        return self._again is None and self._pause == NEXT_PAUSE

    def hurry(self) -> bool:
        """Has another one now, if this one, the first, has been forgotten; returns whether it has."""
        if self._timer is None or self._pause == NEXT_PAUSE or (self._is_bodys and not self._is_back()):
            return False
        self._stop_waiting()
        self._have_another()
        return True

    def dismiss(self) -> None:
        """Stops watching."""
        self._again = self._held = self._body = self._work = None
        for each in self._waited_for:
            each.dismiss()
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send(self, work: Coroutine[Any, Any, object]) -> object:
        """Lets the work go on with a result."""
        requests = self._arrive(None)
        try:
            return self._cancel_where_it_waits(work, work.send(None))
        finally:
            self._after_step(requests)

    def throw(self, work: Coroutine[Any, Any, object], error: BaseException) -> object:
        """Lets the work go on with an exception."""
        requests = self._arrive(error)
        try:
            return self._cancel_where_it_waits(work, work.throw(error))
        finally:
            del error  # its traceback may hold this frame
            self._after_step(requests)

    def _cancel_where_it_waits(self, work: Coroutine[Any, Any, object], waiter: object) -> object:
        if not self._waits:
            return waiter
        self._waits = False
        self._stop_waiting()
        error = asyncio.CancelledError(Token())
        self._watch(error)
        try:
            return work.throw(error)
        finally:
            del error

    def _arrive(self, outcome: BaseException | None) -> int:
        requests, self.requests = self.requests, 0
        if requests:
            self._stop_waiting()
            self._watch(outcome)
        return requests

    def _after_step(self, requests: int) -> None:
        if sys.version_info >= (3, 11):
            for _ in range(requests):
                self._task.uncancel()
        if not self._is_bodys and self._held is not None:
            self._is_bodys = _has_passed(self._held(), _frame_of(self._body))

    def _watch(self, outcome: BaseException | None) -> None:
        error = _cancellation_behind(outcome)
        if error is not None:
            self._held = weakref.ref(error, self._on_freed)
        else:
            # What it waited for has swallowed the cancellation; or has turned it into another exception, and nobody
            # knows for how long that is handled.
            self._held = None
            self._is_bodys = outcome is not None
            self._wait()

    def _on_freed(self, held: weakref.ref[Any]) -> None:
        """Called where it was let go, or by a garbage collection in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._forget, held)

    def _forget(self, held: weakref.ref[Any]) -> None:
        if held is not self._held:
            return
        successor = _cancellation_handled_by(self._work)
        if successor is not None:
            self._held = weakref.ref(successor, self._on_freed)
        else:
            self._wait()

    def _wait(self) -> None:
        if self._again is not None:
            self._due = self._loop.time() + self._pause
            self._timer = self._loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        if self._loop.time() > self._due + LATE:  # the loop has not answered, and nobody could do anything meanwhile
            self._wait()
        elif not self._is_bodys or self._is_back():
            self._have_another()
        elif self._place is not None:
            self._wait()

    def _is_back(self) -> bool:
        """Whether the body waits again where it was cancelled."""
        frame = _frame_of(self._body)
        if frame is None or self._place is None:
            return False
        return _position(frame.f_code, frame.f_lasti) == _position(frame.f_code, self._place)

    def _have_another(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            again()


def _cancellation_behind(error: BaseException | None) -> asyncio.CancelledError | None:
    return next((origin for origin in origins(error) if isinstance(origin, asyncio.CancelledError)), None)


def _cancellation_handled_by(work: object) -> asyncio.CancelledError | None:
    """Returns the one that took the place of another, which Python 3.10 forgets if it is that of another task."""
    if sys.version_info >= (3, 11):
        return None
    found = (_cancellation_behind(error) for error in handled_by(work))
    return next((error for error in found if error is not None), None)


def _frame_of(body: object) -> FrameType | None:
    frame: FrameType | None = getattr(body, "ag_frame", None)
    return frame


def _position(code: CodeType, instruction: int) -> object:
    """Returns where in its source an instruction stands."""
    if sys.version_info >= (3, 11):  # there may be several waits in a line
        return next(islice(code.co_positions(), instruction // 2, None), None)
    return next((line for start, end, line in code.co_lines() if start <= instruction < end), None)


def _has_passed(error: object, frame: FrameType | None) -> bool:
    """Whether an exception has come up to a frame."""
    traceback: TracebackType | None = getattr(error, "__traceback__", None)
    while traceback is not None and traceback.tb_frame is not frame:
        traceback = traceback.tb_next
    return traceback is not None
