"""The writer: hands what a stream has ready to the server, by one ``send()`` at a time."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.buffer import BufferState
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._servers.flow_control import drop_connections, find_flow_control, is_shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import anyio

    from litestar_safe_sse._core.buffer import Buffer
    from litestar_safe_sse._core.state import Lifecycle
    from litestar_safe_sse._runtime.base import Runtime, Timer

    Message = Mapping[str, Any]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ("DROP_DELAY", "Writer")

DROP_DELAY = 0.02
"""Seconds from the cancellation of a ``send()`` until its connection is dropped. A server with threads of its own has
to take note of the first before the second: Granian's worker deadlocks if a ``send()`` fails after the last connection
has ended (it logs that, which takes the GIL, while the GIL is held to wait for its threads)."""


class Writer:
    """Writes one response.

    Args:
        send: The ASGI ``send``.
        scope: The ASGI scope of the request.
        start: The ``http.response.start`` message.
        preamble: Bytes to send ahead of the first event.
        buffer: The events.
        life: How the stream fares.
        runtime: The running event loop.
        limit: Bytes that the server may hold back.
    """

    __slots__ = (
        "_buffer",
        "_final_send_timer",
        "_flow",
        "_life",
        "_preamble",
        "_runtime",
        "_send",
        "_start",
        "cancel_scope",
        "request",
        "sending",
        "sent_at",
    )

    def __init__(
        self,
        send: Send,
        scope: Message,
        start: Message,
        preamble: bytes,
        *,
        buffer: Buffer,
        life: Lifecycle,
        runtime: Runtime,
        limit: int,
    ) -> None:
        self.request = send, scope
        self.sending = False
        """Whether a ``send()`` is under way."""
        self.sent_at = monotonic()
        """When the latest one began."""
        self.cancel_scope: anyio.CancelScope | None = None
        """The scope of the writing, while there is some."""
        self._send = send
        self._start: Message | None = start
        self._preamble: bytes | None = preamble
        self._buffer = buffer
        self._life = life
        self._runtime = runtime
        self._flow = find_flow_control(send, runtime, limit)
        self._final_send_timer: Timer | None = None

    @property
    def is_open(self) -> bool:
        """Whether something may still be sent."""
        return self.cancel_scope is not None

    async def write(self) -> None:
        """Writes until the stream has no more to say, or nothing can reach the client any more."""
        buffer = self._buffer
        if self._start is not None:
            start, self._start = self._start, None
            await self._hand_over(start)
            del start
        while buffer.state is not BufferState.DROPPED:
            chunk = buffer.take()
            if self._preamble is not None:  # sent even if empty: Daphne keeps the headers back until then
                chunk, self._preamble = self._preamble + chunk, None
            elif not chunk:
                if self._life.is_body_done:
                    break
                await buffer.wait_filled()
                continue
            await self._hand_over({"type": "http.response.body", "body": chunk, "more_body": True})
            del chunk  # it may be large, and the next one long in coming
            buffer.mark_written()
            if buffer.linger():
                await buffer.wait_filled()
        await self._end()

    async def _end(self) -> None:
        ends_after_error = self._flow is not None and self._flow.ends_after_error
        self._release_flow()
        if self._buffer.state is BufferState.DROPPED:  # by a hang-up
            return
        if self._life.error is None or ends_after_error:  # else the missing end tells that events are missing
            await self._hand_over({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hand_over(self, message: Message) -> None:
        self.sent_at = monotonic()
        self.sending = True
        await self._send(message)
        if self._flow is not None:
            await self._flow.drain()
        self.sending = False

    def limit(self, seconds: float) -> None:
        """Gives the client that long to take what is left."""
        self._final_send_timer = self._runtime.call_later(seconds, self.give_up)

    def give_up(self) -> None:
        """Drops a client that takes nothing: servers hold on to it, and not every ``send()`` can be cancelled."""
        # At a shutdown all that remain are dropped together (registry.py).
        if self.sending and not is_shared(self.request[1]) and self._life.reason is not CloseReason.SHUTDOWN:
            self._runtime.call_later(DROP_DELAY, lambda: drop_connections([self.request]))
        self.hang_up()

    def hang_up(self) -> None:
        """Sends nothing more."""
        self._buffer.drop()
        if self.cancel_scope is not None and self.sending:  # elsewhere the writer looks for itself
            self.cancel_scope.cancel()

    def close(self) -> None:
        """Ends the writing."""
        self.cancel_scope = None
        self.sending = False
        self._release_flow()
        if self._final_send_timer is not None:
            self._final_send_timer.cancel()
            self._final_send_timer = None
        self._buffer.drop()

    def _release_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()
            self._flow = None
