"""The writer: hands what a stream has ready to the server, by one ``send()`` at a time, in the request's task."""

from __future__ import annotations

import asyncio
import contextlib
import math
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from litestar_safe_sse._core.buffer import BufferState
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.timers import LATENESS

if TYPE_CHECKING:
    from litestar_safe_sse._core.buffer import Buffer
    from litestar_safe_sse._core.state import Lifecycle
    from litestar_safe_sse._core.timers import TimerWheel
    from litestar_safe_sse._core.transport import Transport
    from litestar_safe_sse._core.watch import Watch
    from litestar_safe_sse._servers.connections import Connections
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("Writer",)

LOOK_EVERY = 5.0
"""Seconds after which it is looked at again, at the latest after a heartbeat, whether the connection is still there."""

SENDS = 8
"""Every how many sends the writer looks whether it has been cancelled, which costs as much as a wait."""


class Writer:
    """Writes one response.

    Args:
        transport: The way to the client.
        buffer: The events.
        life: How the stream fares.
        connections: Where a client that takes nothing is given up.
        wheel: The timer of its event loop.
        watch: Where the bytes that the server has taken are added up, if somebody observes the stream.
    """

    __slots__ = (
        "_buffer",
        "_connections",
        "_final_patience",
        "_final_until",
        "_has_begun",
        "_life",
        "_lost_before",
        "_sending",
        "_sent_at",
        "_transport",
        "_watch",
        "_wheel",
        "cancel_scope",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        buffer: Buffer,
        life: Lifecycle,
        connections: Connections,
        wheel: TimerWheel,
        watch: Watch | None = None,
    ) -> None:
        self._transport = transport
        self._buffer = buffer
        self._life = life
        self._connections = connections
        self._wheel = wheel
        self._watch = watch
        self._has_begun = False
        """Whether the body of the response has begun."""
        self._sending = False
        self._sent_at = monotonic()
        """When the latest ``send()`` began."""
        self._lost_before = 0.0
        """How long the loop had not answered until then."""
        self._final_until = math.inf
        """Until when the client has to take what is left, by the loop's time."""
        self._final_patience = 0.0
        self.cancel_scope: anyio.CancelScope | None = None
        """The scope of the writing, while there is some."""

    @property
    def is_open(self) -> bool:
        """Whether something may still be sent."""
        return self.cancel_scope is not None

    @property
    def blocked_for(self) -> float:
        """Seconds since a ``send()`` began that is still under way; 0 if there is none."""
        return monotonic() - self._sent_at if self._sending else 0.0

    async def start(self) -> None:
        """Sends the headers."""
        self._sent_at, self._lost_before, self._sending = monotonic(), self._wheel.lost, True
        await self._transport.start()
        self._sending = False

    async def write(self) -> None:
        """Writes until the stream has no more to say, or nothing can reach the client any more."""
        buffer, transport = self._buffer, self._transport
        wheel, watch, sends = self._wheel, self._watch, 0
        while buffer.state is not BufferState.DROPPED:
            chunk = buffer.take()
            if not chunk:
                if self._life.is_body_done:
                    break
                if self._has_begun:
                    await buffer.wait_filled()
                    continue
                chunk = buffer.opening
            self._has_begun = True
            self._sent_at, self._lost_before, self._sending = monotonic(), wheel.lost, True
            await transport.send(chunk)
            self._sending = False
            buffer.mark_written()
            if watch is not None:
                watch.bytes += len(chunk)
                if watch.on_begun is not None and buffer.written > buffer.heartbeats_written:
                    watch.on_begun()
            del chunk  # it may be large, and the next one long in coming
            sends += 1
            if not sends % SENDS:  # no scope of anyio's cancels a task that is about to go on, as this may always be
                await checkpoint_if_cancelled()
            if buffer.linger():
                await buffer.wait_filled()
        if buffer.state is not BufferState.DROPPED or self._life.reason is CloseReason.REVOKED:
            self._has_begun = True
            self._sent_at, self._lost_before, self._sending = monotonic(), wheel.lost, True
            await transport.end(failed=self._life.is_cut_short, reason=self._life.reason)
            self._sending = False

    async def write_on(self) -> None:
        """Goes on writing though the server, shutting down, has cancelled the request: the client still listens."""
        with anyio.CancelScope(shield=True) as self.cancel_scope:
            # After a send() that was cut off nobody knows what the client has.
            while not self._sending and not self.cancel_scope.cancel_called:
                with contextlib.suppress(asyncio.CancelledError):
                    await self.write()
                    return

    def has_lost_client(self, now: float, config: SafeSSEConfig) -> bool:
        """Looks now and then whether the connection is gone, of which a server may tell nobody.

        Uvicorn's httptools tells the latest request of a connection, which is another one if the client has sent the
        next; and asyncio takes what is written to a connection that has been closed.

        Args:
            now: The time of the monotonic clock.
            config: The settings in force for this stream, by whose interval this is called.
        """
        is_due = now % LOOK_EVERY < (config.ping_interval or math.inf)
        return is_due and self.is_open and not self._transport.connection.is_open

    def look(self, now: float, config: SafeSSEConfig) -> float | None:
        """Puts the heartbeat in that is due, and gives up a client that has not taken in time what was left at the end.

        Args:
            now: The time of the monotonic clock.
            config: The settings in force for this stream.

        Returns:
            When to look again, or ``None`` if a ``send()`` has been blocked for too long.
        """
        if not self.is_open:
            return math.inf
        if self._life.is_body_done:
            return self._look_at_the_rest(now)
        send_timeout = config.send_timeout or math.inf
        interval = (config.ping_interval or math.inf) * (1 - LATENESS)  # so that none is late
        if self._sending:
            blocked_until = self._sent_at + send_timeout + self._wheel.lost - self._lost_before
            # By the earlier of the two it may have ended, and a heartbeat be due.
            return min(blocked_until, now + interval) if now < blocked_until else None
        if now >= self._sent_at + interval:
            self._sent_at = now
            self._buffer.put_heartbeat()
        return min(self._sent_at + interval, now + send_timeout)

    def set_final_timeout(self, seconds: float) -> None:
        """Gives the client that long to take what is left; :meth:`look` is to be called then."""
        self._final_until, self._final_patience = self._wheel.time() + seconds, seconds

    def _look_at_the_rest(self, now: float) -> float:
        until = self._final_until + self._wheel.lost
        if now < until:
            return until
        self.give_up(self._final_patience)
        return math.inf

    def give_up(self, patience: float) -> None:
        """Drops a client that takes nothing: servers hold on to it, and not every ``send()`` can be cancelled.

        Args:
            patience: Seconds in which it has taken nothing.
        """
        # At a shutdown all that remain are dropped together (registry.py).
        if self._sending and self._life.reason is not CloseReason.SHUTDOWN:
            self._connections.give_up(self._transport.connection, patience)
        self.hang_up()
        self._cut()

    def silence(self, patience: float) -> None:
        """Sends nothing more but the end; a ``send()`` under way is taken back with its connection.

        Args:
            patience: Seconds in which a client takes nothing that is to be dropped.
        """
        if self._sending and self._has_begun:
            self.give_up(patience)
        else:
            self._buffer.drop()

    def hang_up(self) -> None:
        """Sends nothing more. What hooks and middleware do while the headers are sent has its time to end."""
        self._buffer.drop()
        if self._has_begun:
            self._cut()

    def _cut(self) -> None:
        if self.cancel_scope is not None and self._sending:  # elsewhere the writer looks for itself
            self.cancel_scope.cancel()

    def close(self) -> None:
        """Ends the writing."""
        self.cancel_scope = None
        self._sending = False
        self._transport.release()
        self._buffer.drop()
