"""When a stream has to have done what it is at: one deadline at a time, within the bounds that a shutdown sets."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING

from litestar_safe_sse._core.timers import Alarm
from litestar_safe_sse._core.timing import SECOND_CANCELLATION

if TYPE_CHECKING:
    from litestar_safe_sse._core.timers import Timed, TimerWheel

__all__ = ("Deadline",)


class Deadline(Alarm):
    """The deadline of what a stream is at, and the alarm that tells of it; no other alarm of a stream is needed.

    What its own part has to do goes by the loop's time, which stands still while the loop does not answer. Its lifetime
    goes by the clock.

    Args:
        wheel: The timer of its event loop.
        timed: What is called when it is over, or earlier, if the alarm has been set to an earlier time.
    """

    __slots__ = ("_goes_by_the_clock", "_grace_until", "_latest", "_until")

    def __init__(self, wheel: TimerWheel, timed: Timed) -> None:
        super().__init__(wheel, timed)
        self._until = math.inf
        self._goes_by_the_clock = False
        self._grace_until = math.inf
        self._latest = math.inf
        """When everything has to be over, by the loop's time."""

    @property
    def at(self) -> float:
        """When it is over, by the monotonic clock."""
        return self._until if self._goes_by_the_clock else self._until + self.wheel.lost

    @property
    def is_bounded(self) -> bool:
        """Whether a shutdown bounds the stream."""
        return self._latest < math.inf

    def within(self, seconds: float) -> float:
        """Returns so many seconds, or as many of them as a shutdown has left, and a moment at least."""
        return max(min(seconds, self._latest - self.wheel.time()), SECOND_CANCELLATION)

    def begin_lifetime(self, seconds: float) -> None:
        """Gives the stream so many seconds by the clock, and leaves the alarm to :meth:`look_again`."""
        self._until, self._goes_by_the_clock = monotonic() + seconds, True

    def begin_grace(self, seconds: float) -> None:
        """Gives a body so many seconds to say farewell, or as many of them as a shutdown has left for that."""
        self._begin(min(self.wheel.time() + seconds, self._grace_until))

    def begin(self, seconds: float) -> None:
        """Gives what is to end so many seconds, within what a shutdown has left."""
        self._begin(self.wheel.time() + self.within(seconds))

    def _begin(self, until: float) -> None:
        self._until, self._goes_by_the_clock = until, False
        self.set(self.at)

    def lift(self) -> None:
        """Forgets it; there is none until the next one begins."""
        self._until = math.inf

    def bound(self, grace_until: float, latest: float) -> None:
        """Bounds all that is still to come, by the loop's time; of several bounds the earliest counts.

        Args:
            grace_until: Until when a body may say farewell.
            latest: When everything has to be over.
        """
        self._latest = min(self._latest, latest)
        self._grace_until = min(self._grace_until, grace_until)

    def apply_bound(self, *, is_ending: bool) -> None:
        """Brings what has begun within the bounds, be it the end or the grace before it."""
        bound = self._latest if is_ending else self._grace_until
        if self._until > bound:
            self._begin(bound)

    def look_again(self, at: float) -> None:
        """Has the alarm told at a time of the monotonic clock, or when the deadline is over, if that is earlier."""
        self.set(min(at, self.at))
