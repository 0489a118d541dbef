"""What is logged of streams: one line for each, as a text and as fields, and warnings that do not repeat themselves."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.statistics import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from litestar_safe_sse._core.statistics import ObservedStream
    from litestar_safe_sse.exceptions import CleanupError

__all__ = ("StreamLog",)

WINDOW = 60.0
"""Seconds in which warnings that are alike are counted together."""

LINES = 10
"""Warnings of one kind that are logged one by one in that time."""

KINDS = 256
"""Kinds of warnings that are told apart at a time."""


class StreamLog(Observer):
    """Logs for the streams of one event loop.

    Args:
        logger: The application's logger: the standard library's, structlog's, or what has its methods.
        call_later: Calls back in the event loop, after seconds.
    """

    def __init__(self, logger: Any, call_later: Callable[[float, Callable[[], object]], object]) -> None:
        self._logger = logger
        self._call_later = call_later
        self._alike: dict[Hashable, _Alike] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether the logger takes the line of a stream, which is of the level DEBUG."""
        ask = getattr(self._logger, "isEnabledFor", None) or getattr(self._logger, "is_enabled_for", None)
        try:
            return ask is None or bool(ask(logging.DEBUG))
        except Exception:  # a wrapper of structlog's around a logger that can't tell
            return True

    def stream_closed(self, stream: ObservedStream) -> None:
        """Logs the line of a stream."""
        figures = stream.statistics()
        fields = {
            "stream": stream.id,
            "handler": stream.handler,
            "reason": str(stream.close_reason),
            "duration": round(figures.age, 3),
            "events": figures.events,
            "bytes": stream.bytes_sent,
        }
        text = (
            f"{_name(stream)} closed: {stream.close_reason}, {figures.events} events, {stream.bytes_sent} bytes, "
            f"{figures.age:.3f} s"
        )
        self._log("debug", text, fields)

    def warn(self, stream: ObservedStream, report: CleanupError) -> None:
        """Warns of what failed when a stream ended, unless many others have failed alike, which are counted instead."""
        with contextlib.suppress(Exception):  # of what failed, which may not tell what it is
            self._warn(stream, report)

    def fail(self, stream: ObservedStream, failure: Exception) -> None:
        """Logs what a stream has failed with, of which nobody else tells; many that fail alike are counted instead."""
        with contextlib.suppress(Exception):
            kind: Hashable = (stream.handler, type(failure))
            self._log_some(kind, stream, "error", f"ended by {failure!r}", failure)

    def _warn(self, stream: ObservedStream, report: CleanupError) -> None:
        kind: Hashable = (stream.handler, *((name, type(error)) for name, error in report.failures))
        self._log_some(kind, stream, "warning", str(report))

    def _log_some(
        self, kind: Hashable, stream: ObservedStream, level: str, what: str, failure: Exception | None = None
    ) -> None:
        now = monotonic()
        alike = self._alike.get(kind)
        if alike is None or now >= alike.until:
            alike = self._begin(kind, now)
        alike.count += 1
        if alike.count <= LINES:
            fields = {"stream": stream.id, "handler": stream.handler}
            self._log(level, f"{_name(stream)}: {what}", fields, failure)
        elif alike.count == LINES + 1:
            self._call_later(max(alike.until - now, 0), partial(self._tell, alike, stream.handler, what))

    def _begin(self, kind: Hashable, now: float) -> _Alike:
        if len(self._alike) >= KINDS:
            self._alike = {kind: alike for kind, alike in self._alike.items() if now < alike.until}
        if len(self._alike) >= KINDS:
            kind = None  # all that are too many are of one kind
            if kind in self._alike:
                return self._alike[kind]
        alike = self._alike[kind] = _Alike(now + WINDOW)
        return alike

    def tell_all(self) -> None:
        """Tells of what has been counted only; called when the application has shut down."""
        for kind, alike in tuple(self._alike.items()):
            self._tell(alike, "several handlers" if kind is None else str(kind[0]), "")  # type: ignore[index]
        self._alike.clear()

    def _tell(self, alike: _Alike, handler: str, example: str) -> None:
        more, alike.count = alike.count - LINES, 0
        alike.until = 0.0  # the next begins anew
        if more > 0:
            text = f"SSE streams of {handler}: {more} more have failed alike within {WINDOW:g} s"
            self._log("warning", f"{text}: {example}" if example else text, {"handler": handler, "more": more})

    def _log(self, level: str, text: str, fields: dict[str, Any], failure: Exception | None = None) -> None:
        """Logs; a logger that fails must not hold up those who wait for the end of a stream."""
        with contextlib.suppress(Exception):
            log = getattr(self._logger, level)
            if isinstance(self._logger, (logging.Logger, logging.LoggerAdapter)):
                log(text, extra=fields, exc_info=failure)
            elif hasattr(self._logger, "bind"):  # structlog
                log(text, **fields, **({"exc_info": failure} if failure else {}))
            else:
                log(text)


class _Alike:
    """Warnings of one kind, until a time of the monotonic clock."""

    __slots__ = ("count", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = 0


def _name(stream: ObservedStream) -> str:
    return f"SSE stream {stream.id} of {stream.handler}"
