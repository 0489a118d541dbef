"""One timer for all the streams of an event loop.

Most streams wait for the same things, a heartbeat or the end of a time limit, and hardly any cares about milliseconds.
So their times are rounded into slots, and the loop has one timer, for the earliest slot. (The idea, not the structure,
is that of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987.)

The wheel also knows how long the loop has not answered: by how much its timer was late. What waits for others to do
something counts by :meth:`TimerWheel.time`, which stands still meanwhile, since nobody could do anything in it.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import anyio

from litestar_safe_sse._runtime.base import LATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from litestar_safe_sse._runtime.base import Runtime, Timer

__all__ = ("EARLY", "LATENESS", "Alarm", "TimeLimit", "TimerWheel")

TICK = 1 / 256
"""Seconds of the shortest slot."""

PRECISION = 9
"""Bits of a delay that count."""

LATENESS = 1 / 256
"""The part of a delay by which an alarm may be late, if that is more than a tick: what lies beyond those bits."""

BUDGET = 0.001
"""Seconds after which the loop has a turn, and what was told a chance to act, before more alarms are told."""

EARLY = 0.001
"""Seconds by which a loop's timer may be early: uvloop counts in milliseconds."""

SAMPLE = 0.05
"""Seconds from one look at whether the loop answers to the next, while somebody counts by its time in a hurry."""

LONGEST = 1.0
"""The same at other times, while there is any alarm."""


class Timed(Protocol):
    """What is called when its time has come."""

    def on_time(self) -> None: ...


class TimerWheel:
    """Tells alarms when their time has come, those of one slot together.

    Args:
        runtime: The running event loop.
    """

    __slots__ = ("_due", "_expected", "_is_looking", "_runtime", "_slots", "_timer", "_watchers", "_wound_to", "lost")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._slots: dict[int, dict[Timed, None]] = {}
        self._due: list[int] = []
        """The slots, as a heap. One that has been emptied stays until it comes first, so that it is in it only once."""
        self._timer: Timer | None = None
        self._wound_to: float = math.inf
        self._expected = 0.0
        """When the loop's timer is due."""
        self.lost = 0.0
        """Seconds in which the loop did not answer, as far as it was looked after."""
        self._watchers = 0
        self._is_looking = False

    def time(self) -> float:
        """Returns the seconds that the loop has answered for, since some moment."""
        return monotonic() - self.lost

    def watch(self) -> None:
        """Has the loop looked after more closely, until :meth:`unwatch` is called as often."""
        self._watchers += 1
        if not self._is_looking:
            self._is_looking = True
            self.set(self, monotonic() + SAMPLE)

    def unwatch(self) -> None:
        """Ends what :meth:`watch` began."""
        self._watchers -= 1

    def on_time(self) -> None:
        """Looks again, if somebody still wants to know; called by itself."""
        self._is_looking = self._watchers > 0
        if self._is_looking:
            self.set(self, monotonic() + SAMPLE)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimeLimit:
        """Calls back once the loop has answered for so many seconds.

        Args:
            seconds: Those that somebody has to do something.
            callback: What is called when they are over.
        """
        return TimeLimit(self, seconds, callback)

    @contextmanager
    def move_on_after(self, seconds: float, *, shield: bool = False) -> Iterator[anyio.CancelScope]:
        """Cancels a block once the loop has answered for so many seconds."""
        with anyio.CancelScope(shield=shield) as scope:
            limit = TimeLimit(self, seconds, scope.cancel)
            try:
                yield scope
            finally:
                limit.cancel()

    def set(self, alarm: Timed, at: float) -> int:
        """Has an alarm told once, not before its time, and late by little.

        Args:
            alarm: The alarm, which must not be set already.
            at: The time, in seconds of the monotonic clock.

        Returns:
            Its slot, to :meth:`clear` it by.
        """
        now = monotonic()
        ticks = max(math.ceil(at / TICK), int(now / TICK) + 1)
        step = 1 << max(0, int(max(0.0, at - now) / TICK).bit_length() - PRECISION)
        slot = -(-ticks // step) * step
        alarms = self._slots.get(slot)
        if alarms is None:
            alarms = self._slots[slot] = {}
            heappush(self._due, slot)
            if slot < self._wound_to:
                self._wind(slot, now)
        alarms[alarm] = None
        return slot

    def clear(self, alarm: Timed, slot: int) -> None:
        """Forgets an alarm that was set and has not been told."""
        del self._slots[slot][alarm]

    def _wind(self, slot: int, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wound_to = slot
        delay = min(max(0.0, slot * TICK - now), LONGEST)
        self._expected = now + delay
        self._timer = self._runtime.call_later(delay, self._turn)

    def _turn(self) -> None:
        self._timer, self._wound_to = None, -math.inf  # wound again once, at the end
        now = monotonic()
        self.lost += max(0.0, now - self._expected - LATE)
        latest, until = (now + EARLY) / TICK, now + BUDGET
        try:
            while self._due and self._due[0] <= latest and now < until:
                now = self._notify(heappop(self._due), until)
        finally:
            while self._due and not self._slots[self._due[0]]:
                del self._slots[heappop(self._due)]
            self._wound_to = math.inf
            if self._due:
                self._wind(self._due[0], monotonic())

    def _notify(self, slot: int, until: float) -> float:
        alarms = self._slots[slot]
        now = 0.0
        try:
            while alarms and now < until:
                alarm, _ = alarms.popitem()
                alarm.on_time()
                now = monotonic()
        finally:
            if alarms:  # the time is up, or one has failed, and the others are still to be told
                heappush(self._due, slot)
            else:
                del self._slots[slot]
        return now


class Alarm:
    """One call that is to come; of several times the earliest counts.

    Args:
        wheel: The timer of its event loop.
        timed: What is called. It may set the alarm again.
    """

    __slots__ = ("_at", "_slot", "_timed", "wheel")

    def __init__(self, wheel: TimerWheel, timed: Timed) -> None:
        self.wheel = wheel
        self._timed = timed
        self._at = math.inf
        self._slot = 0

    def set(self, at: float) -> None:
        """Sets it to a time of the monotonic clock, unless it is set to an earlier one."""
        if at < self._at:
            self.clear()
            self._at = at
            self._slot = self.wheel.set(self, at)

    def clear(self) -> None:
        """Takes it back."""
        if self._at < math.inf:
            self._at = math.inf
            self.wheel.clear(self, self._slot)

    def on_time(self) -> None:
        """Calls back; called by the wheel."""
        self._at = math.inf
        self._timed.on_time()


class TimeLimit:
    """A call that is to come once the loop has answered for some time.

    Args:
        wheel: The timer of its event loop.
        seconds: That time.
        callback: What is called.
    """

    __slots__ = ("_callback", "_slot", "_until", "_wheel")

    def __init__(self, wheel: TimerWheel, seconds: float, callback: Callable[[], object]) -> None:
        self._wheel = wheel
        self._callback: Callable[[], object] | None = callback
        self._until = wheel.time() + seconds
        wheel.watch()
        self._set()

    def _set(self) -> None:
        self._slot = self._wheel.set(self, self._until + self._wheel.lost)

    def on_time(self) -> None:
        """Calls back, if the time is over by the loop's clock too; called by the wheel."""
        if self._wheel.time() + EARLY < self._until:
            self._set()
        elif self._callback is not None:
            callback, self._callback = self._callback, None
            self._wheel.unwatch()
            callback()

    def cancel(self) -> None:
        """Takes it back."""
        if self._callback is not None:
            self._callback = None
            self._wheel.unwatch()
            self._wheel.clear(self, self._slot)
