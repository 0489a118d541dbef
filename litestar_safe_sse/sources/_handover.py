"""Items that one client gets, or nobody: in doubt until they have been handed to the server, and given back if not."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse.exceptions import InvalidFieldError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from litestar_safe_sse.context import StreamContext

__all__ = ("Dispenser", "HandOver")

T = TypeVar("T")


class Dispenser(Protocol[T]):
    """Gives each item to one of those who ask."""

    async def take(self) -> T:
        """Waits for an item. If it is cancelled, there is none: one that had come already goes to somebody else."""
        ...

    def confirm(self, item: T) -> None:
        """Notes that an item has been handed over."""

    def give_back(self, items: Sequence[T], *, failed: bool = False) -> Awaitable[None]:
        """Begins to put items that have not been handed over back to where they were, in this order.

        Awaited, it has been done.

        Args:
            items: The items.
            failed: Whether the stream failed while it had them in hand, so that one of them may be the cause.
        """
        ...


class HandOver(Generic[T]):
    """The items of a queue that one stream sends, one after the other; an async iterator.

    Asking for the next item says that the last one has been yielded to the stream: it is flushed first. Whatever has
    not been handed to the server when the stream ends is given back by a cleanup of the stream, and so is what was
    handed over less than ``settle`` seconds before the client was found to be gone.

    Without a stream, an item counts as handed over when it is returned.

    Args:
        find: Returns the dispenser of the running event loop, each time an item is asked for.
        stream: The stream that sends the items; ``None`` if an item is done with when it is returned.
        settle: Seconds.

    Raises:
        InvalidFieldError: What is given is neither a stream nor ``None``.
    """

    def __init__(self, find: Callable[[], Dispenser[T]], stream: StreamContext | None, settle: float) -> None:
        self._find_dispenser = find
        self._dispenser: Dispenser[T] | None = None
        self._stream = stream
        self._settle = settle
        self._in_hand: list[T] = []
        self._yielded = False
        self._settling: deque[tuple[T, asyncio.TimerHandle]] = deque()
        self._asking = False
        self._closed = False
        if stream is not None:
            if not hasattr(stream, "push_async_callback"):
                raise InvalidFieldError("stream", f"must be a StreamContext, not {type(stream).__name__}")
            stream.push_async_callback(self._stream_ended)

    def __aiter__(self) -> HandOver[T]:
        return self

    async def __anext__(self) -> T:
        if self._asking:
            raise RuntimeError("an item is being waited for already; let each stream iterate on its own")
        self._asking = True
        self._yielded = True
        try:
            await self._flush()
            if self._closed:
                raise StopAsyncIteration
            self._dispenser = self._find_dispenser()  # each time: one that nobody asks ends
            item = await self._dispenser.take()
        finally:
            self._asking = False
        if self._stream is None:
            self._dispenser.confirm(item)
        else:
            self._in_hand.append(item)
            self._yielded = False
        return item

    async def aclose(self) -> None:
        """Ends the iteration. What is in doubt is decided on now if the stream goes on, or else when it ends."""
        self._closed = True
        if self._stream is not None and self._stream.close_reason is None:
            self._yielded = True
            await self._flush()

    async def __aenter__(self) -> HandOver[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            await self.aclose()
        else:
            self._closed = True  # what is in hand may not have been yielded: that is decided on when the stream ends

    async def _flush(self) -> None:
        """Waits until the item in hand, which the body has yielded, has been handed to the server."""
        if not self._in_hand or self._stream is None:
            return
        try:
            await self._stream.flush()
        except StreamClosedError:
            self._closed = True  # it goes back when the stream has ended
            return
        loop = asyncio.get_running_loop()
        while self._in_hand:
            item = self._in_hand.pop(0)
            if self._settle:
                self._settling.append((item, loop.call_later(self._settle, self._settled)))
            else:
                self._confirm(item)

    def _settled(self) -> None:
        reason = self._stream.close_reason if self._stream is not None else None
        if reason is None or not reason.client_gone:  # else the cleanup that is about to run gives it back
            item, _ = self._settling.popleft()
            self._confirm(item)

    def _confirm(self, item: T) -> None:
        assert self._dispenser is not None
        self._dispenser.confirm(item)

    async def _stream_ended(self) -> None:
        """Decides on every item that is still in doubt; called as a cleanup."""
        assert self._stream is not None
        self._closed = True
        reason = self._stream.close_reason
        gone = reason is not None and reason.client_gone
        if not gone and self._yielded:
            await self._flush()  # what a body has yielded is still sent when the server shuts down
        doubtful: list[T] = []
        while self._settling:
            item, timer = self._settling.popleft()
            timer.cancel()
            if gone:
                doubtful.append(item)
            else:
                self._confirm(item)
        doubtful += self._in_hand
        self._in_hand = []
        if doubtful:
            assert self._dispenser is not None
            # Shielded: what takes longer than a cleanup may goes on without it.
            failed = reason is CloseReason.ERROR
            await asyncio.shield(self._dispenser.give_back(doubtful, failed=failed))
