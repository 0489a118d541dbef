"""What is kept of topics, and for how long."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from litestar_safe_sse.config import check_duration, check_function, check_integer
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources.event_log import History

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar_safe_sse.sources.event_log import HistoryOf

__all__ = ("FORGET_KEYS_AFTER", "Lives", "ask", "check_forget_keys_after")

FORGET_KEYS_AFTER = 600.0
"""Seconds after which an idempotency key is forgotten, unless a log says otherwise."""

_KNOWN = 65_536
"""Topics of which it is known what is kept; others are asked about again."""


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
        check_function("history", history)
        self._own = max_events, round(expire_after * 1000)
        self.keys = round(forget_keys_after * 1000)
        """Milliseconds for which idempotency keys are known."""
        self._history = history
        self._known = lru_cache(_KNOWN)(self._ask)

    @property
    def identity(self) -> tuple[int, HistoryOf | None]:
        """What two logs have in common that keep topics for equally long."""
        return self._own[1], self._history

    def of(self, topic: str) -> tuple[int, int]:
        """Returns how many events are kept of a topic, and for how many milliseconds it lasts."""
        return self._own if self._history is None else self._known(topic)

    def learn(self, topics: Iterable[str]) -> None:
        """Has it known what is kept of topics: tasks that ask later have nobody to tell what the application raises."""
        for topic in topics:
            self.of(topic)

    def _ask(self, topic: str) -> tuple[int, int]:
        other = ask(self._history, topic)
        if other is None:
            return self._own
        events = self._own[0] if other.max_events is None else other.max_events
        return events, self._own[1] if other.expire_after is None else round(other.expire_after * 1000)

    def lasts(self, topic: str) -> int:
        """Returns for how many milliseconds a topic lasts."""
        return self.of(topic)[1]


def ask(history: HistoryOf | None, topic: str) -> History | None:
    """Returns what a function given as ``history`` says of a topic.

    Raises:
        InvalidFieldError: It says nothing of the kind.
    """
    kept = None if history is None else history(topic)
    if kept is None or isinstance(kept, History):
        return kept
    raise InvalidFieldError("history", f"must return a History, or None for the log's own, not {type(kept).__name__}")


def check_forget_keys_after(seconds: float) -> None:
    """Raises ``InvalidFieldError`` for what is no time after which idempotency keys are forgotten."""
    check_duration("forget_keys_after", seconds)
    if seconds < 1:
        raise InvalidFieldError("forget_keys_after", f"must be 1 s or more, not {seconds}")
