"""The right of a client to its stream: until when it lasts, and whether it still does."""

from __future__ import annotations

import contextvars
import math
import time
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.admission import ask
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.timers import EARLY, Alarm
from litestar_safe_sse._core.timing import REAUTHORIZE_JITTER, draw_shorter
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse.config import MAX_DURATION, check_moment

if TYPE_CHECKING:
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._core.timers import TimerWheel
    from litestar_safe_sse._runtime.base import Event, OwnedTask
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("Access", "seconds_left")


class Access:
    """Revokes a stream when the right to it has ended.

    A task is made for each question, and none for the time between them.

    Args:
        stream: The stream, with the settings in force for it.
        connection: What is asked about.
        wheel: The timer of its event loop.
        logger: The application's logger.
    """

    __slots__ = (
        "_alarm",
        "_answer_until",
        "_asks_at",
        "_connection",
        "_context",
        "_done",
        "_ends",
        "_has_ended",
        "_is_refused",
        "_logger",
        "_lost_before",
        "_stream",
        "_task",
    )

    def __init__(self, stream: Stream, connection: object, wheel: TimerWheel, logger: Any) -> None:
        self._stream = stream
        self._connection = connection
        self._logger = logger
        self._alarm = Alarm(wheel, self)
        self._context = contextvars.copy_context()
        self._ends = math.inf
        self._asks_at = math.inf
        """When to ask again."""
        self._answer_until = math.inf
        """When there has to be an answer, by the time in which the loop answers."""
        self._lost_before = 0.0
        """How long the loop had not answered when it was asked."""
        self._task: OwnedTask | None = None
        """What asks."""
        self._done: Event
        """Set when the last question has been answered, or given up."""
        self._is_refused = False
        self._has_ended = False

    def begin(self, seconds: float) -> None:
        """Watches until the stream has ended.

        Args:
            seconds: Those for which the right lasts.
        """
        self._stream.cleanups.push_async_callback(self.end)
        self._ends = monotonic() + seconds
        self._wait()

    async def end(self) -> None:
        """Watches no longer; returns when nobody is asked any more."""
        self._has_ended = True
        self._alarm.clear()
        if self._task is not None:
            self._task.cancel()
            await self._done.wait()

    def _wait(self) -> None:
        if self._stream.config.reauthorize is not None:
            self._asks_at = monotonic() + draw_shorter(self._stream.config.reauthorize_interval, REAUTHORIZE_JITTER)
        self._set_alarm()

    def _set_alarm(self) -> None:
        at = min(self._ends, self._asks_at if self._task is None else self._answer_until + self._lost)
        if at < math.inf:
            self._alarm.set(at)

    def on_time(self) -> None:
        """Revokes, or asks again; called when one of the two is due."""
        now = monotonic() + EARLY
        if now >= self._ends:
            self._revoke(None)
        elif self._task is not None and now >= self._answer_until + self._lost:
            self._revoke(TimeoutError(f"no answer within {self._stream.config.reauthorize_interval} s"))
        else:
            if self._task is None and now >= self._asks_at:
                self._ask()
            self._set_alarm()

    @property
    def _lost(self) -> float:
        """The seconds in which whoever was asked could not answer, since the loop did not."""
        return self._alarm.wheel.lost - self._lost_before

    def _ask(self) -> None:
        self._done = self._stream.runtime.event()
        self._lost_before = self._alarm.wheel.lost
        self._answer_until = monotonic() + self._stream.config.reauthorize_interval
        name = f"SSE reauthorization of {self._stream.handler}"
        self._task = self._stream.runtime.spawn(self._run, name, self._context.copy())

    async def _run(self, task: OwnedTask) -> None:
        failure = await task.capture(self._reauthorize())
        self._task = None
        self._done.set()
        if self._has_ended:
            return
        if failure is not None or self._is_refused:
            self._revoke(failure)
        else:
            self._wait()

    async def _reauthorize(self) -> None:
        reauthorize = self._stream.config.reauthorize
        if reauthorize is not None:
            self._is_refused = await reauthorize(self._connection) is False

    def _revoke(self, failure: BaseException | None) -> None:
        if failure is not None and not _is_answer(failure):
            name = f"SSE stream {self._stream.id} of {self._stream.handler}"
            self._logger.warning(f"{name} is revoked, since reauthorize failed: {failure!r}")
        self._has_ended = True
        self._alarm.clear()
        self._stream.close(CloseReason.REVOKED)


def seconds_left(config: SafeSSEConfig, connection: object) -> float:
    """Returns the seconds for which a connection has a right to a stream; 0 or less if it has ended.

    Args:
        config: The settings in force for the stream.
        connection: The connection.

    Raises:
        InvalidFieldError: If the function that tells it has failed, or tells what is no moment.
    """
    moment: object = config.expires_at
    if callable(moment):
        moment = ask("expires_at", moment, connection)
        check_moment("expires_at", moment)
    if moment is None:
        return math.inf
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)  # type: ignore[arg-type]
    return min(seconds - time.time(), MAX_DURATION)


def _is_answer(failure: BaseException) -> bool:
    """Returns whether an exception says no, as those do that have a client's status: 401, 403, 404."""
    if isinstance(failure, Interrupted):
        return True
    status = getattr(failure, "status_code", None)
    return isinstance(status, int) and status < 500
