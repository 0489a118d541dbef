"""What can be seen of a stream, and done to it, whatever the protocol: for coroutines, and for plain functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse.testing._exchange import StreamEndedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.from_thread import BlockingPortal

    from litestar_safe_sse._core.decoding import Event
    from litestar_safe_sse._core.state import CloseReason
    from litestar_safe_sse._core.statistics import StreamStatistics

__all__ = ("AsyncClient", "SyncClient", "View")


class View:
    """What can be seen of a stream without waiting."""

    def __init__(self, exchange: Any) -> None:
        self._exchange: Any = exchange

    @property
    def exception(self) -> Exception | None:
        """What the application has raised to the server."""
        return self._exchange.exception  # type: ignore[no-any-return]

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the stream ended or is ending; ``None`` while it is open, or if there is none."""
        stream = self._exchange.stream
        return None if stream is None else stream.close_reason

    @property
    def cleanups(self) -> list[tuple[str, BaseException]]:
        """The cleanups that have failed or timed out, by name."""
        stream = self._exchange.stream
        return [] if stream is None else list(stream.cleanups.failures)

    def statistics(self) -> StreamStatistics | None:
        """Returns the stream's figures at this moment; ``None`` if the request has no stream."""
        stream = self._exchange.stream
        return None if stream is None else stream.statistics()


class AsyncClient(View):
    """What a coroutine does to a stream."""

    async def next(self, timeout: float | None = None) -> Event:
        """Waits for the next event.

        Args:
            timeout: Seconds to wait; those given to the function that has opened the stream unless given.

        Raises:
            StreamEndedError: The stream has ended, properly or not.
            TimeoutError: None has come; the message tells how the stream fares.
        """
        raise NotImplementedError

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterates over the events until the stream has ended."""
        while True:
            try:
                event = await self.next()
            except StreamEndedError:
                return
            yield event

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the stream has ended and cleaned up, and the application is done with the request.

        Args:
            timeout: Seconds to wait; those given to the function that has opened the stream unless given.

        Raises:
            TimeoutError: It has not.
        """
        await self._exchange.wait_closed(timeout)

    async def disconnect(self) -> None:
        """Leaves, and waits until the stream has ended and cleaned up.

        Raises:
            TimeoutError: It has not.
        """
        await self._exchange.disconnect()

    def stall(self) -> None:
        """Stops reading: the application's ``send()`` is blocked until :meth:`resume`."""
        self._exchange.stall()

    def resume(self) -> None:
        """Reads on."""
        self._exchange.resume()

    async def shutdown(self) -> None:
        """Has the server told to stop, and waits until the application's streams have ended and cleaned up.

        Raises:
            TimeoutError: This one has not.
        """
        await self._exchange.shutdown()


class SyncClient(View):
    """The same for tests that are plain functions."""

    def __init__(self, stream: Any, portal: BlockingPortal) -> None:
        super().__init__(stream._exchange)
        self._stream = stream
        self._portal = portal

    def next(self, timeout: float | None = None) -> Event:
        """Waits for the next event.

        Args:
            timeout: Seconds to wait; those given to the function that has opened the stream unless given.

        Raises:
            StreamEndedError: The stream has ended, properly or not.
            TimeoutError: None has come; the message tells how the stream fares.
        """
        return self._portal.call(self._stream.next, timeout)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Event]:
        """Iterates over the events until the stream has ended."""
        while True:
            try:
                event = self.next()
            except StreamEndedError:
                return
            yield event

    def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the stream has ended and cleaned up, and the application is done with the request.

        Args:
            timeout: Seconds to wait; those given to the function that has opened the stream unless given.

        Raises:
            TimeoutError: It has not.
        """
        self._portal.call(self._stream.wait_closed, timeout)

    def disconnect(self) -> None:
        """Leaves, and waits until the stream has ended and cleaned up.

        Raises:
            TimeoutError: It has not.
        """
        self._portal.call(self._stream.disconnect)

    def stall(self) -> None:
        """Stops reading: the application's ``send()`` is blocked until :meth:`resume`."""
        self._portal.call(self._stream.stall)

    def resume(self) -> None:
        """Reads on."""
        self._portal.call(self._stream.resume)

    def shutdown(self) -> None:
        """Has the server told to stop, and waits until the application's streams have ended and cleaned up.

        Raises:
            TimeoutError: This one has not.
        """
        self._portal.call(self._stream.shutdown)
