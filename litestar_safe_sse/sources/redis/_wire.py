"""A connection to Redis whose replies are handed over as they arrive, by no task that would have to be woken first."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.sources.redis import _redis_py
from litestar_safe_sse.sources.redis._errors import translate
from litestar_safe_sse.sources.redis._replies import Replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from litestar_safe_sse.sources.redis._errors import Failure

__all__ = ("Wire",)


class Wire(asyncio.Protocol):
    """A connection that has been opened, and on which no reply is still to come.

    Args:
        writer: Whose transport it takes over.
        idle_limit: Seconds without a command or a reply after which it is to be checked.
        on_reply: Called with each reply, undecoded; an error of Redis is one of redis-py's exceptions.
        on_lost: Called with the reason when it is lost, unless :meth:`abort` was called before.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        idle_limit: float,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[Failure], None],
    ) -> None:
        self._writer = writer  # to be kept: it would close the transport if it went
        self._transport = writer.transport
        self._idle_limit = idle_limit
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._replies = Replies()
        self._used = monotonic()
        self._is_over = False
        self._transport.set_protocol(self)

    @property
    def is_fresh(self) -> bool:
        """Whether it was used so lately that nothing between here and Redis has forgotten it."""
        return monotonic() - self._used < self._idle_limit and not self._transport.is_closing()

    def write(self, packed: Iterable[bytes]) -> None:
        """Sends commands at once.

        Args:
            packed: What :func:`pack` returned for them.
        """
        self._used = monotonic()
        self._transport.write(b"".join(packed))

    def abort(self) -> None:
        """Ends it at once, without a word."""
        self._is_over = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hands over what has arrived; called by the event loop."""
        self._used = monotonic()
        try:
            for reply in self._replies.feed(data):
                self._on_reply(reply)
                if self._is_over:
                    return
        except _redis_py.errors.InvalidResponse as error:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells of the end; called by the event loop."""
        self._lose(exc or _redis_py.errors.ConnectionError("Connection closed by server."))

    def _lose(self, error: Exception) -> None:
        if not self._is_over:
            self.abort()
            self._on_lost(translate(error))
