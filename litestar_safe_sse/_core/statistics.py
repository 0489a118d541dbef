"""Figures of streams as values, and who is notified of what streams do."""

from __future__ import annotations

from collections.abc import Mapping  # a field of what users may have in a schema
from typing import Protocol

from msgspec import Struct

from litestar_safe_sse._core.state import CloseReason, StreamState

__all__ = ("ObservedStream", "Observer", "RegistryStatistics", "StreamStatistics")


class StreamStatistics(Struct, frozen=True, kw_only=True):
    """One stream at one moment.

    Attributes:
        id: The stream's identifier.
        handler: The name of the handler.
        state: What the stream is doing.
        close_reason: Why it ended or is ending; ``None`` while it is open.
        age: Seconds since it was made.
        events: Events and comments, heartbeats included, that were yielded or made.
        bytes_pending: Bytes that wait for the writer.
        heartbeats: Heartbeats among them.
        cleanups: Registered cleanups that have not run yet.
    """

    id: str
    handler: str
    state: StreamState
    close_reason: CloseReason | None
    age: float
    events: int
    bytes_pending: int
    heartbeats: int
    cleanups: int


class RegistryStatistics(Struct, frozen=True, kw_only=True):
    """The streams of one application in one process, at one moment.

    Attributes:
        open: Streams that have not cleaned up yet.
        opened: Streams ever admitted.
        refused: Streams not admitted, because of a shutdown or of ``max_streams``.
        closed: How many ended for which reason.
        draining: Whether a shutdown is under way in any event loop.
    """

    open: int
    opened: int
    refused: int
    closed: Mapping[CloseReason, int]
    draining: bool


class ObservedStream(Protocol):
    """What an observer may ask of a stream."""

    @property
    def id(self) -> str: ...

    @property
    def handler(self) -> str: ...

    @property
    def close_reason(self) -> CloseReason | None: ...

    def statistics(self) -> StreamStatistics: ...


class Observer(Protocol):
    """Is notified of what streams do, in their event loop's thread. It must neither block nor raise."""

    def stream_opened(self, stream: ObservedStream) -> None:
        """A stream has been admitted."""

    def stream_refused(self, handler: str, why: str) -> None:
        """A stream of a handler has not been admitted."""

    def stream_sent(self, stream: ObservedStream, size: int) -> None:
        """So many bytes have been handed to the server, which has taken them."""

    def stream_closed(self, stream: ObservedStream) -> None:
        """A stream has ended and cleaned up."""
