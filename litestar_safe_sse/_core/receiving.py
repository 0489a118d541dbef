"""One loop of ``receive()`` for all who wait in it: the application, and the listener of its stream.

Not every server tells twice that the client has left, or tells all who wait, so what one reader learns is shared. The
parts of the request's body belong to the application alone: the listener, which reads on to learn that the client has
left, keeps them until they are asked for. It keeps so many bytes, and then waits for somebody to read on, as the client
does. Where nobody does in time, what was kept is let go, and it is an error to read the body after that.

https://asgi.readthedocs.io/en/latest/specs/www.html#request-receive-event
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from litestar_safe_sse.exceptions import SSEError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Receive = Callable[[], Awaitable[Any]]

__all__ = ("Receiver",)

_REPEATED_ENDS = 16
"""How often a server may say that the request body has ended before it is no longer believed."""

PATIENCE = 30.0
"""Seconds in which somebody has to read on; meanwhile nobody can learn that the client has left."""


class Receiver:
    """The ``receive()`` of one request, for any number of readers.

    Args:
        receive: The server's.
        limit: Bytes of the request's body to keep while nobody reads it.
    """

    __slots__ = ("_end", "_ends", "_kept", "_left", "_limit", "_lost", "_news", "_reading", "_receive", "_size")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept: deque[Any] | None = None  # most requests have nothing to keep but the end
        self._end: Any = None
        """The message by which the request's body has ended, until somebody has taken it."""
        self._size = 0
        self._ends = 0
        self._left = False
        self._lost = False
        self._reading = False
        self._news: anyio.Event | None = None

    @classmethod
    def of(cls, receive: Receive, limit: int) -> Receiver:
        """Returns the receiver that a ``receive`` belongs to, or a new one for it.

        Args:
            receive: An ASGI ``receive``.
            limit: As for a new one.
        """
        owner = getattr(receive, "__self__", None)
        return owner if isinstance(owner, cls) else cls(receive, limit)

    async def receive(self) -> Any:
        """The ASGI ``receive`` of the application.

        Returns:
            Each part of the request's body once, and then ``http.disconnect``, as often as it is asked for.

        Raises:
            SSEError: If the body was let go.
        """
        if not self._has_part() and not self._left:
            if self._lost:
                raise SSEError(
                    f"the request's body must be read before the stream, or early in it and without long pauses: more "
                    f"than {self._limit} bytes of it have been waiting for {PATIENCE} s, and were let go"
                )
            await self._read(for_part=True)
            if self._left:
                await _let_others_act()
        if self._kept:
            message = self._kept.popleft()
            self._size -= _size_of(message)
            self._notify()
            return message
        if self._end is not None:
            message, self._end = self._end, None
            return message
        return {"type": "http.disconnect"}

    def _has_part(self) -> bool:
        return bool(self._kept) or self._end is not None

    def wait_left(self) -> Coroutine[Any, Any, None]:
        """Waits until the client has left."""
        return self._read(for_part=False)

    async def _read(self, *, for_part: bool) -> None:
        """Reads on until the client has left, or there is a part of the request's body to be had."""
        reads = 0
        while not self._left and not (for_part and self._has_part()):
            if self._reading:
                await self._wait_for_news()
                continue
            if self._ends == 0 and self._size >= self._limit:
                await self._wait_for_reader()
                continue
            self._reading = True
            try:
                self._take(await self._receive())
            finally:
                self._reading = False
                self._notify()  # one who was cancelled leaves it to another to go on
            reads += 1
            if reads > 1 and not self._left:  # there may be any number of messages, without a wait in between
                await checkpoint()

    async def _wait_for_reader(self) -> None:
        with anyio.move_on_after(PATIENCE):
            await self._wait_for_news()
            return
        self._kept = None
        self._size = 0
        self._lost = True

    async def _wait_for_news(self) -> None:
        self._news = self._news or anyio.Event()
        await self._news.wait()

    def _take(self, message: Any) -> None:
        if message["type"] == "http.disconnect":
            self._left = True
            return
        is_end = not message.get("more_body", False)
        if self._ends == 0 and not self._lost:
            self._keep(message, is_end)
        self._ends += is_end
        if self._ends > _REPEATED_ENDS:
            raise SSEError("receive() keeps repeating that the request's body has ended")

    def _keep(self, message: Any, is_end: bool) -> None:
        if is_end and not message.get("body"):  # as of every GET
            self._end = message
            return
        self._kept = self._kept or deque()
        self._kept.append(message)
        self._size += _size_of(message)

    def _notify(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None


async def _let_others_act() -> None:
    """Has the stream end because the client has left, and not by what the reader makes of that."""
    for _ in range(2):  # trio wakes tasks in any order
        await checkpoint()


def _size_of(message: Any) -> int:
    return len(message.get("body", b"")) or 1  # there may be any number of parts that hold nothing
