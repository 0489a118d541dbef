"""What is known of the live streams, and of the last that ended."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence  # of what is decoded again
from contextvars import ContextVar
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from litestar import Request, WebSocket
from litestar.enums import ScopeType
from msgspec import Struct

from litestar_safe_sse._core.state import CloseReason, StreamState
from litestar_safe_sse._core.statistics import Observer, RegistryStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.types import ASGIApp, Receive, Scope, Send

    from litestar_safe_sse._core.registry import StreamRegistry
    from litestar_safe_sse._core.statistics import ObservedStream

__all__ = ("RecordedStream", "Records", "RememberRequest", "Snapshot")

SHOWN = 1000
"""Live streams that are told of, the oldest."""

KEPT = 100
"""Streams that have ended and are told of, the last."""


class Caller(NamedTuple):
    """Whose a stream is."""

    path: str
    who: str


NOBODY = Caller("", "unknown")


class RecordedKey(Struct, frozen=True):
    """What the streams of one owner have in common.

    Attributes:
        by: Which ``PerKey`` of the configuration it is of, from 0.
        key: The key, as text.
    """

    by: int
    key: str


class RecordedStream(Struct, frozen=True, kw_only=True):
    """One stream.

    Attributes:
        id: Its identifier.
        handler: The name of the handler.
        path: What was asked for, without the query.
        who: Whom it belongs to.
        keys: Its keys, if the configuration has some.
        state: What it is doing.
        reason: Why it ended or is ending.
        age: Seconds since it was made; of one that has ended, until then.
        events: Events and comments, heartbeats included.
        heartbeats: Heartbeats among them.
        pending: Bytes that wait for the writer.
        ended: When it ended, in seconds since 1970; ``None`` while it lives.
    """

    id: str
    handler: str
    path: str
    who: str
    keys: Sequence[RecordedKey]
    state: StreamState
    reason: CloseReason | None
    age: float
    events: int
    heartbeats: int
    pending: int
    ended: float | None = None


class Snapshot(Struct, frozen=True, kw_only=True):
    """The streams of one process at one moment.

    Attributes:
        process: Its number; each process knows its own streams only.
        counts: The figures of the registry.
        streams: The live streams.
        ended: The last that ended, the latest first.
    """

    process: int
    counts: RegistryStatistics
    streams: Sequence[RecordedStream]
    ended: Sequence[RecordedStream]


class Records(Observer):
    """Remembers whose the live streams are, and how the last ended.

    Args:
        registry: The streams.
        who: Tells of a request whose it is.
    """

    def __init__(self, registry: StreamRegistry, who: Callable[[Request[Any, Any, Any]], str]) -> None:
        self.registry = registry
        self.scope: ContextVar[Scope | None] = ContextVar("scope", default=None)
        """That of the request in whose task a stream is made."""
        self._who = who
        self._callers: dict[str, Caller] = {}
        self._keys: dict[str, tuple[RecordedKey, ...]] = {}
        """Those of the streams that have some, which are needed when these have given back their places."""
        self._ended: deque[RecordedStream] = deque(maxlen=KEPT)

    def stream_opened(self, stream: ObservedStream) -> None:
        """Remembers whose it is."""
        scope = self.scope.get()
        if scope is not None:
            self._callers[stream.id] = Caller(shown(scope["path"]), self._tell(scope))
        keys = self.registry.keys_of(stream)  # type: ignore[arg-type]
        if keys:
            self._keys[stream.id] = tuple(RecordedKey(by, shown(key)) for by, key in keys)

    def stream_closed(self, stream: ObservedStream) -> None:
        """Remembers how it ended."""
        self._ended.appendleft(self._record(stream, time.time()))
        self._callers.pop(stream.id, None)
        self._keys.pop(stream.id, None)

    def snapshot(self) -> Snapshot:
        """Returns what is known at this moment."""
        return Snapshot(
            process=os.getpid(),
            counts=self.registry.statistics(),
            streams=[self._record(stream) for stream in islice(self.registry, SHOWN)],
            ended=list(self._ended),
        )

    def keys_of(self, id: str) -> Sequence[RecordedKey]:
        """Returns the keys of a live stream."""
        return self._keys.get(id, ())

    def _tell(self, scope: Scope) -> str:
        connection: Any = Request(scope) if scope["type"] == ScopeType.HTTP else WebSocket(scope)
        try:
            return shown(self._who(connection))
        except Exception as error:  # an observer must not raise: the stream would not be opened
            return shown(f"unknown: {error!r}")

    def _record(self, stream: ObservedStream, ended: float | None = None) -> RecordedStream:
        found = stream.statistics()
        caller = self._callers.get(stream.id, NOBODY)
        return RecordedStream(
            id=stream.id,
            handler=stream.handler,
            path=caller.path,
            who=caller.who,
            keys=self.keys_of(stream.id),
            state=found.state,
            reason=found.close_reason,
            age=found.age,
            events=found.events,
            heartbeats=found.heartbeats,
            pending=found.bytes_pending,
            ended=ended,
        )


def shown(value: object) -> str:
    """Returns a value as text that JSON can hold, whatever a client has sent: a lone surrogate as it is escaped."""
    return str(value).encode(errors="backslashreplace").decode()


class RememberRequest:
    """Middleware by which it is known in whose request a stream is made."""

    def __init__(self, app: ASGIApp, records: Records) -> None:
        self.app = app
        self.records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        self.records.scope.set(scope)
        await self.app(scope, receive, send)
