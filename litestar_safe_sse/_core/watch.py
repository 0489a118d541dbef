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

    __slots__ = ("_heartbeats", "_observers", "bytes")

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self._heartbeats = 0
        self.bytes = 0
        """Bytes that the server has taken."""

    def opened(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_opened(stream)

    def answered(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_answered(stream)

    def owned(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_owned(stream)

    def sent(self, stream: ObservedStream, size: int, blocks: int, heartbeats: int) -> None:
        """Tells of a chunk that the server has taken.

        Args:
            stream: The stream.
            size: Its bytes.
            blocks: The events and heartbeats in it.
            heartbeats: Heartbeats since the stream began. None is made while a chunk is being sent.
        """
        self.bytes += size
        ours, self._heartbeats = heartbeats - self._heartbeats, heartbeats
        for observer in self._observers:
            observer.stream_sent(stream, size, blocks - ours, ours)

    def ended(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_ended(stream)

    def closed(self, stream: ObservedStream) -> None:
        for observer in self._observers:
            observer.stream_closed(stream)
