"""What the bodies of the doctor's streams have seen, remembered for when it asks."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.contract import VisitReport

if TYPE_CHECKING:
    from litestar_safe_sse.context import StreamContext

__all__ = ("Visit", "Visits")

KEPT = 256
"""Visits that are remembered, the latest."""


class Visit:
    """One stream of the doctor's."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.size = 0
        self._ended: float | None = None
        self._reason: str | None = None

    def elapsed(self) -> float:
        """Returns the seconds since it began."""
        return monotonic() - self.began

    def end(self, stream: StreamContext) -> None:
        """Notes that the stream has ended, and why."""
        self._ended = monotonic()
        self._reason = None if stream.close_reason is None else stream.close_reason.name

    def report(self) -> VisitReport:
        """Returns what is known of it."""
        ended = None if self._ended is None else monotonic() - self._ended
        return VisitReport(known=True, ended=ended, reason=self._reason, size=self.size)


class Visits:
    """The latest visits of one process."""

    def __init__(self) -> None:
        self._visits: dict[str, Visit] = {}

    def begin(self, key: str) -> Visit:
        """Makes a visit, and forgets the oldest if there are too many."""
        while len(self._visits) >= KEPT:
            del self._visits[next(iter(self._visits))]
        visit = self._visits[key] = Visit()
        return visit

    def report(self, key: str) -> VisitReport:
        """Returns what is known of a visit, if anything is."""
        visit = self._visits.get(key)
        return VisitReport() if visit is None else visit.report()
