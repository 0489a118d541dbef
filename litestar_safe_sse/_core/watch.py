"""Tells observers what one stream does; made only for a stream that somebody observes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar_safe_sse._core.statistics import ObservedStream, Observer

__all__ = ("Watch",)


class Watch:
    """Who observes a stream, and what they need to know of it beyond what it keeps itself.

    Args:
        observers: Who is notified, in this order.
    """

    __slots__ = ("_observers", "bytes", "on_begun")

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self.bytes = 0
        """Bytes that the server has taken; the writer adds them, as a call for each chunk would cost more than that."""
        self.on_begun: Callable[[], None] | None = None
        """What the writer calls, once, when the server has taken the first event."""

    def opened(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_opened(stream)

    def answered(self, stream: ObservedStream) -> None:
        self.on_begun = partial(self._begun, stream)
        for observer in self._observers:
            observer.stream_answered(stream)

    def owned(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_owned(stream)

    def _begun(self, stream: ObservedStream) -> None:
        self.on_begun = None
        for observer in self._observers:
            observer.stream_begun(stream)

    def ended(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_ended(stream)

    def closed(self, stream: ObservedStream) -> None:
        self.on_begun = None  # there was none
        for observer in self._observers:
            observer.stream_closed(stream)
