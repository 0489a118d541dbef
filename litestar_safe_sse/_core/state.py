"""What a stream is doing, and why it ended: values and transitions, no I/O."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from litestar_safe_sse.exceptions import InvalidFieldError, SSEError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("ACTIONS", "Action", "Cause", "CloseReason", "Lifecycle", "StreamState", "check_reason")


class CloseReason(str, Enum):
    """Why a stream ended. Each stream has exactly one; the first cause wins."""

    COMPLETED = "completed"
    """The body came to its end."""
    CLIENT_DISCONNECTED = "client_disconnected"
    """The client left, by whichever sign came first: ``receive()``, a failed ``send()``, a cancellation."""
    SEND_TIMEOUT = "send_timeout"
    """The client stayed, but took no bytes for ``send_timeout`` seconds."""
    MAX_LIFETIME = "max_lifetime"
    """The stream had been open for ``max_lifetime`` seconds."""
    SHUTDOWN = "shutdown"
    """The server was told to stop."""
    REVOKED = "revoked"
    """The client's right to the stream has ended, or was withdrawn: nothing more is sent."""
    CLOSED = "closed"
    """The application closed the stream."""
    ERROR = "error"
    """The body, the handler or the connection raised an exception."""

    def __str__(self) -> str:
        return self.value

    @property
    def client_gone(self) -> bool:
        """Whether nothing more can reach the client, so that nothing more is sent."""
        return self in (CloseReason.CLIENT_DISCONNECTED, CloseReason.SEND_TIMEOUT)

    @property
    def allows_farewell(self) -> bool:
        """Whether a body that asked for it is given a grace in which the client still listens."""
        return self in (CloseReason.SHUTDOWN, CloseReason.MAX_LIFETIME)


def check_reason(reason: object) -> CloseReason:
    """Returns a reason to end a stream for; raises ``InvalidFieldError`` for what is none, such as its value."""
    if not isinstance(reason, CloseReason):
        raise InvalidFieldError("reason", f"must be a member of CloseReason, not {reason!r}")
    return reason


class StreamState(str, Enum):
    """Where a stream stands in its life."""

    NEW = "new"
    """The handler is at work; no body has been started."""
    OPEN = "open"
    """The body runs and its events are sent."""
    CLOSING = "closing"
    """A stop is under way; a body that asked may still say farewell."""
    ENDING = "ending"
    """The body has been told to end: one cancellation, or ``aclose()`` where it is parked at a ``yield``."""
    CLEANING = "cleaning"
    """The body has ended; the registered cleanups run."""
    CLOSED = "closed"
    """Everything has been given back."""

    def __str__(self) -> str:
        return self.value


class Cause(str, Enum):
    """What kind of thing asks a stream to end."""

    CLIENT_GONE = "the client has gone, or takes no bytes"
    TIME_OVER = "the server shuts down, or the lifetime is over"
    ORDER = "the application closes the stream, or something failed"
    GRACE_OVER = "the grace is over"
    BODY_ENDED = "the body has ended by itself"

    @classmethod
    def of(cls, reason: CloseReason) -> Cause:
        """Returns the kind of cause that a reason stands for."""
        if reason.client_gone:
            return cls.CLIENT_GONE
        return cls.TIME_OVER if reason.allows_farewell else cls.ORDER


class Action(str, Enum):
    """What a stream does about a cause."""

    NOTHING = "nothing"
    """Only the reason is kept, if it is the first."""
    GRACE = "grace"
    """A body that asked for it is notified, and has its grace; any other is ended."""
    END = "end"
    """The body is ended now."""


ACTIONS: Mapping[tuple[StreamState, Cause], Action] = {
    (StreamState.OPEN, Cause.CLIENT_GONE): Action.END,
    (StreamState.OPEN, Cause.TIME_OVER): Action.GRACE,
    (StreamState.OPEN, Cause.ORDER): Action.END,
    (StreamState.OPEN, Cause.BODY_ENDED): Action.END,
    # A client that leaves does not cut the grace short: the body may be in its `finally` already.
    (StreamState.CLOSING, Cause.ORDER): Action.END,
    (StreamState.CLOSING, Cause.GRACE_OVER): Action.END,
    (StreamState.CLOSING, Cause.BODY_ENDED): Action.END,
}
"""What a stream does about a cause; ``NOTHING`` where there is no entry. One that is ``NEW`` looks at its reason when
its response begins."""

_MOVES: Mapping[StreamState, frozenset[StreamState]] = {
    StreamState.NEW: frozenset({StreamState.OPEN, StreamState.ENDING}),
    StreamState.OPEN: frozenset({StreamState.CLOSING, StreamState.ENDING}),
    StreamState.CLOSING: frozenset({StreamState.ENDING}),
    StreamState.ENDING: frozenset({StreamState.CLEANING}),
    StreamState.CLEANING: frozenset({StreamState.CLOSED}),
    StreamState.CLOSED: frozenset(),
}


_BEFORE_THE_END = frozenset({StreamState.NEW, StreamState.OPEN, StreamState.CLOSING})


class Lifecycle:
    """The state of one stream and the reason it ends for."""

    __slots__ = ("error", "is_told", "reason", "state")

    def __init__(self) -> None:
        self.state = StreamState.NEW
        self.reason: CloseReason | None = None
        self.error: BaseException | None = None
        """What the handler, the body or the connection raised; let go where it has been passed on, with its frames."""
        self.is_told = False
        """Whether the client is told of it by a last event."""

    @property
    def is_cut_short(self) -> bool:
        """Whether events are missing of which the client is told by nothing but the missing end of the response."""
        return self.error is not None and not self.is_told

    @property
    def is_ending(self) -> bool:
        """Whether the body has been told to end, or has ended."""
        return self.state not in _BEFORE_THE_END

    @property
    def is_body_done(self) -> bool:
        """Whether the body has ended, so that no event can follow."""
        return self.state is StreamState.CLEANING or self.state is StreamState.CLOSED

    def move(self, to: StreamState) -> None:
        """Moves to another state.

        Raises:
            SSEError: If the move is not among those that a stream can make.
        """
        if to not in _MOVES[self.state]:
            raise SSEError(f"a stream cannot go from {self.state} to {to}")
        self.state = to

    def decide(self, reason: CloseReason) -> bool:
        """Records why the stream ends, unless that has been decided already.

        Returns:
            Whether this was the first cause.
        """
        if self.reason is not None:
            return False
        self.reason = reason
        return True
