"""The bounded bytes between a body, which runs ahead, and the writer, which hands them to the server."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from litestar_safe_sse._tasks import Runtime

__all__ = ("Buffer",)

TURN = 0.005
"""Seconds a body may go on without giving the other streams of its loop a turn."""


class Buffer:
    """Events wait here, whole, until the writer takes all that is ready as one chunk.

    There is one producer (the body's task) and one consumer (the writer). Neither needs a lock, since nothing here
    awaits between looking and acting.
    """

    __slots__ = (
        "_dropped",
        "_ended",
        "_filled",
        "_has_room",
        "_parts",
        "_progress",
        "_runtime",
        "_since",
        "_size",
        "_taken",
        "_written",
        "limit",
    )

    def __init__(self, runtime: Runtime, limit: int) -> None:
        self._runtime = runtime
        self.limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._since = 0.0
        self._filled = runtime.wake()
        self._has_room = runtime.wake()
        self._progress: anyio.Event | None = None
        self._taken = 0
        self._written = 0
        self._ended = False
        self._dropped = False

    @property
    def pending(self) -> int:
        """Bytes that the writer has not taken yet."""
        return self._size

    @property
    def events(self) -> int:
        """Events and comments that have been put in."""
        return self._taken + len(self._parts)

    def put(self, event: bytes) -> bool:
        """Appends one whole event.

        Returns:
            Whether the body has to :meth:`pause`: the buffer is full, or the loop has had no turn for a while.
        """
        parts = self._parts
        parts.append(event)
        if len(parts) == 1:
            self._since = monotonic()
            self._size = len(event)
            self._filled.set()
            return self._size >= self.limit
        self._size += len(event)
        return self._size >= self.limit or monotonic() - self._since > TURN

    async def pause(self) -> None:
        """Gives the loop a turn, and waits until there is room or :meth:`release` is called."""
        self._runtime.let_threads_run()
        await self._runtime.turn()
        while self._size >= self.limit and not self._ended:
            await self._has_room.wait()

    def release(self) -> None:
        """Lets a body that waits for room go on, to its end."""
        self._ended = True
        self._has_room.set()

    def finish(self) -> None:
        """Tells the writer that nothing more will come."""
        self._ended = True
        self._filled.set()

    async def wait(self) -> None:
        """Waits until there may be something to take, or the end."""
        await self._filled.wait()

    def take(self) -> bytes:
        """Takes everything that is ready as one chunk; empty if there is nothing."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        self._taken += len(parts)
        self._size = 0
        self._has_room.set()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def mark_written(self) -> None:
        """Tells those who wait in :meth:`flush` that all that was taken has been handed over."""
        self._written = self._taken
        self._tell()

    def drop(self) -> None:
        """Forgets what was not written; nothing more will be."""
        self._dropped = True
        self._taken += len(self._parts)
        self._parts = []
        self._size = 0
        self.release()
        self._tell()

    async def flush(self) -> None:
        """Waits until all that has been put so far has been handed to the server.

        Raises:
            StreamClosedError: If it no longer can be.
        """
        goal = self._taken + len(self._parts)
        while self._written < goal:
            if self._dropped:
                raise StreamClosedError("the client is gone, or the stream has ended; what was left was not sent")
            if self._progress is None:
                self._progress = anyio.Event()
            await self._progress.wait()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
