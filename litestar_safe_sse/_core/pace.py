"""How long a body may go on without giving its event loop a turn, in which what it has yielded is sent."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("AT_ONCE", "TURN", "Pace")

TURN = 0.005
"""Seconds a body may go on without giving the other streams of its loop a turn."""

AT_ONCE = 0.0
"""The time until which a body may go on that has to pause at its next event."""

WATCHED = 64
"""Events for which a body that has blocked the loop is held to one at a time: it may block again at any of them."""

TURNS = 4
"""Turns for which a body pauses that has blocked the loop: the loop looks what is due by now, then it wakes the tasks
that wait for it, and a server may have to be woken once more for what they have sent."""


class Pace:
    """Tells a body that yields as fast as it can from one that blocks the loop between its events.

    The first is let run, so that its events travel together. What the second has yielded would wait for what it does
    next, so it pauses after each event. Nothing is known of a body that begins; and one that waits by ``await`` needs
    no pauses, since the loop has its turns anyway.
    """

    __slots__ = ("_watched", "_went_on_at", "turns")

    def __init__(self) -> None:
        self.turns = 1
        """Turns of the loop that a pause has to be long."""
        self._watched = 1
        self._went_on_at = math.inf
        """Since when the loop has had no turn, if that is known."""

    def begin_step(self, runtime: Runtime) -> None:
        """Takes note that the body goes on."""
        self._went_on_at = monotonic()
        runtime.call_soon(self._note_turn)

    def _note_turn(self) -> None:
        self._went_on_at = math.inf

    def decide(self, now: float, until: float) -> float:
        """Decides how long the body may go on after an event.

        Args:
            now: The time of the monotonic clock.
            until: What was decided at an event of the same chunk, or ``AT_ONCE``.

        Returns:
            The time until which it may, or ``AT_ONCE`` if it has to pause after each.
        """
        if now > (until or self._went_on_at) + TURN:  # one step of it took as long
            self._watched, self.turns = WATCHED, TURNS
        if self._watched:
            self._watched -= 1
            return AT_ONCE
        self.turns = 1
        return until or now + TURN
