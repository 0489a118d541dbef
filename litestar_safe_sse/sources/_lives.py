"""What is kept of topics, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse.config import check_duration, check_integer
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse.sources.event_log import HistoryOf

__all__ = ("FORGET_KEYS_AFTER", "Lives", "check_forget_keys_after")

FORGET_KEYS_AFTER = 600.0
"""Seconds after which an idempotency key is forgotten, unless a log says otherwise."""


class Lives:
    """What is kept of topics.

    Args:
        max_events: Events.
        expire_after: Seconds.
        history: Says what is something else for a topic.
        forget_keys_after: Seconds for which idempotency keys are known.

    Raises:
        InvalidFieldError: An argument can't be used.
    """

    def __init__(
        self, max_events: int, expire_after: float, history: HistoryOf | None, forget_keys_after: float
    ) -> None:
        check_integer("max_events", max_events, minimum=1)
        check_duration("expire_after", expire_after)
        if expire_after < 1:
            raise InvalidFieldError(
                "expire_after", f"must be 1 s or more, so that it can be refreshed, not {expire_after}"
            )
        check_forget_keys_after(forget_keys_after)
        self._own = max_events, round(expire_after * 1000)
        self.keys = round(forget_keys_after * 1000)
        """Milliseconds for which idempotency keys are known."""
        self._history = history

    @property
    def identity(self) -> tuple[int, HistoryOf | None]:
        """What two logs have in common that keep topics for equally long."""
        return self._own[1], self._history

    def of(self, topic: str) -> tuple[int, int]:
        """Returns how many events are kept of a topic, and for how many milliseconds it lasts."""
        other = None if self._history is None else self._history(topic)
        if other is None:
            return self._own
        events = self._own[0] if other.max_events is None else other.max_events
        return events, self._own[1] if other.expire_after is None else round(other.expire_after * 1000)

    def lasts(self, topic: str) -> int:
        """Returns for how many milliseconds a topic lasts."""
        return self.of(topic)[1]


def check_forget_keys_after(seconds: float) -> None:
    """Raises ``InvalidFieldError`` for what is no time after which idempotency keys are forgotten."""
    check_duration("forget_keys_after", seconds)
    if seconds < 1:
        raise InvalidFieldError("forget_keys_after", f"must be 1 s or more, not {seconds}")
