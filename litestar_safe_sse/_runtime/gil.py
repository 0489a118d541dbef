"""Lets the threads of a process run beside an event loop that is never idle."""

from __future__ import annotations

import time

__all__ = ("GilYielder",)


class GilYielder:
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

    def yield_gil(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            time.sleep(self.LENGTH)
            self._next = now + self.INTERVAL
