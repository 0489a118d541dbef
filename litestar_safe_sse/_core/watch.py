"""Tells observers what one stream does; made only for a stream that somebody observes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestar_safe_sse._core.statistics import ObservedStream, Observer

__all__ = ("Watch",)


class Watch:
    """Who observes a stream, and what they need to know of it beyond what it keeps itself.

    Args:
        observers: Who is notified, in this order.
    """

    __slots__ = ("_observers", "bytes")

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self.bytes = 0
        """Bytes that the server has taken; the writer adds them, as a call for each chunk would cost more than that."""

    def opened(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_opened(stream)

    def answered(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_answered(stream)

    def owned(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_owned(stream)

    def begun(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_begun(stream)

    def ended(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_ended(stream)

    def closed(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_closed(stream)
