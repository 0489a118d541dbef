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
        heartbeats: Heartbeats among the events.
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
        refused: Streams not admitted, because of a shutdown, of ``max_streams`` or of a ``PerKey``.
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

    @property
    def bytes_sent(self) -> int:
        """Bytes that the server has taken."""
        ...

    @property
    def events_sent(self) -> int:
        """Events and comments that the server has taken, without heartbeats."""
        ...

    @property
    def heartbeats_sent(self) -> int:
        """Heartbeats that the server has taken."""
        ...

    @property
    def failures(self) -> int:
        """How much of what it had to end or to clean up has failed."""
        ...

    @property
    def blocked_for(self) -> float:
        """Seconds since a ``send()`` began that is still under way; 0 if there is none."""
        ...

    def statistics(self) -> StreamStatistics: ...


class Observer:
    """Is notified of what streams do, in their event loop's thread. It must neither block nor raise.

    A method that is not overridden does nothing. None is called for what a stream sends, which would cost more than all
    else that is done for it: how much that is, an :class:`ObservedStream` tells at any time.
    """

    def stream_opened(self, stream: ObservedStream) -> None:
        """A stream has been admitted; called in the request's task, or in that of a dependency."""

    def stream_refused(self, handler: str, why: str) -> None:
        """A stream of a handler has not been admitted."""

    def stream_answered(self, stream: ObservedStream) -> None:
        """The headers have been sent; called in the request's task, which sends all the rest."""

    def stream_owned(self, stream: ObservedStream) -> None:
        """The body and the cleanups are to run now, in the task and the context in which this is called."""

    def stream_begun(self, stream: ObservedStream) -> None:
        """The server has taken the first event or comment, heartbeats aside; called in the request's task."""

    def stream_ended(self, stream: ObservedStream) -> None:
        """The body has ended, and the cleanups are to run."""

    def stream_closed(self, stream: ObservedStream) -> None:
        """A stream has ended and cleaned up, and nothing more is sent; if it was answered, in the request's task."""

    def streams_drained(self) -> None:
        """An application is shutting down: its streams in this event loop have ended, and none is admitted any more."""
