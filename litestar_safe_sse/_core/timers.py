"""One timer for all the streams of an event loop.

Most streams wait for the same things, a heartbeat or the end of a time limit, and hardly any cares about milliseconds.
So their times are rounded into slots, and the loop has one timer, for the earliest slot. (The idea, not the structure,
is that of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", 1987.)
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from litestar_safe_sse._runtime.base import Runtime, Timer

__all__ = ("EARLY", "LATENESS", "Alarm", "TimerWheel")

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


class Timed(Protocol):
    """What is called when its time has come."""

    def on_time(self) -> None: ...


class TimerWheel:
    """Tells alarms when their time has come, those of one slot together.

    Args:
        runtime: The running event loop.
    """

    __slots__ = ("_due", "_runtime", "_slots", "_timer", "_wound_to")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._slots: dict[int, dict[Timed, None]] = {}
        self._due: list[int] = []
        """The slots, as a heap. One that has been emptied stays until it comes first, so that it is in it only once."""
        self._timer: Timer | None = None
        self._wound_to: float = math.inf

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
        self._timer = self._runtime.call_later(max(0.0, slot * TICK - now), self._turn)

    def _turn(self) -> None:
        self._timer, self._wound_to = None, -math.inf  # wound again once, at the end
        now = monotonic()
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

    __slots__ = ("_at", "_slot", "_timed", "_wheel")

    def __init__(self, wheel: TimerWheel, timed: Timed) -> None:
        self._wheel = wheel
        self._timed = timed
        self._at = math.inf
        self._slot = 0

    def set(self, at: float) -> None:
        """Sets it to a time of the monotonic clock, unless it is set to an earlier one."""
        if at < self._at:
            self.clear()
            self._at = at
            self._slot = self._wheel.set(self, at)

    def clear(self) -> None:
        """Takes it back."""
        if self._at < math.inf:
            self._at = math.inf
            self._wheel.clear(self, self._slot)

    def on_time(self) -> None:
        """Calls back; called by the wheel."""
        self._at = math.inf
        self._timed.on_time()
