"""What a handler and its body see of their stream: a thin face."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from litestar_safe_sse._core.slices import SlicedIterator
from litestar_safe_sse._core.state import CloseReason, StreamState
from litestar_safe_sse._core.statistics import StreamStatistics
from litestar_safe_sse._core.stream import Stream
from litestar_safe_sse.config import check_duration
from litestar_safe_sse.exceptions import MissingPluginError, OutsideRequestError

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

__all__ = ("StreamContext",)

T = TypeVar("T")

_ANNOTATED = type(Annotated[int, ""])


class Injected:
    """What a ``StreamContext`` is to whoever checks what is injected."""

    __slots__ = ()

    @staticmethod
    def _decoder(kind: object, value: object) -> NoReturn:
        """Is asked by Litestar to make a context of what is none, as where nobody provides one."""
        missing = MissingPluginError(
            "a StreamContext needs its plugin, and its name: the plugin must be registered, by Litestar(..., "
            "plugins=[SafeSSEPlugin()]), and the parameter must be called `stream`"
        )
        logging.getLogger("litestar_safe_sse").error(str(missing))  # Litestar's answer is a 500, and not logged
        raise missing


if TYPE_CHECKING:
    _AsAnnotated = type
else:

    class _AsAnnotated(type):
        """Has a class read, where it is an annotation, as the ``Annotated`` that its attributes describe.

        From 2.23 Litestar warns of parameters that are to be injected and are not ``Annotated``, and 3 will have no
        others. ``typing`` knows an ``Annotated`` by its class, and that is what this pretends. In all else the class is
        a class.
        """

        @property
        def __class__(cls) -> type:
            return _ANNOTATED


class StreamContext(Injected, metaclass=_AsAnnotated):
    """The stream of one request; injected into a handler, or into a dependency of it, that asks for it.

    What is entered or registered here lives as long as the stream, which is longer than the handler: it is given back
    after the body has ended, last in first out, exactly once, however the stream ends.
    """

    __slots__ = ("_last_event_id", "_request", "_stream")

    if not TYPE_CHECKING:
        # "Not required": Litestar would answer a request without one by a 400, as if it were missing in the query.
        __origin__ = NotRequired[Injected]
        __args__ = (__origin__,)
        __metadata__ = ("provided by SafeSSEPlugin",)
        __parameters__ = ()

    def __init__(self, stream: Stream | None = None, request: Any = None, last_event_id: str | None = None) -> None:
        if stream is None:
            raise OutsideRequestError(
                "a StreamContext belongs to a request; ask for it by a handler's parameter, `stream: StreamContext`"
            )
        self._stream = stream
        self._request = request
        self._last_event_id = last_event_id

    def __repr__(self) -> str:
        return f"<StreamContext {self.id} of {self._stream.handler}: {self.state}>"

    @property
    def id(self) -> str:
        """An identifier of the stream, unique and not to be guessed."""
        return self._stream.id

    @property
    def request(self) -> Any:
        """The request, as Litestar's ``Request``. Its body may be read by the handler or by the body of the stream."""
        return self._request

    @property
    def last_event_id(self) -> str | None:
        """The ``Last-Event-ID`` that a reconnecting client sent, or ``None`` (WHATWG HTML, section 9.2.4)."""
        return self._last_event_id

    @property
    def state(self) -> StreamState:
        """Where the stream stands in its life."""
        return self._stream.state

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the stream ends or has ended; ``None`` while nothing asks it to."""
        return self._stream.close_reason

    def statistics(self) -> StreamStatistics:
        """The stream's figures at this moment."""
        return self._stream.statistics()

    async def enter_async_context(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters an async context manager for the life of the stream.

        It is left as a cancelled ``async with`` block would be if the stream was stopped, with the exception if the
        body failed, and with none if the body completed. Where a handler calls this, on asyncio, the manager is
        entered by the task that will run the body and leave it, so that it may hold a task group or a cancel scope.

        Args:
            manager: The context manager.

        Returns:
            What it returns on entering.

        Raises:
            StreamClosedError: If the stream has ended already.
        """
        return await self._stream.enter_async_context(manager)

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enters a context manager for the life of the stream; see :meth:`enter_async_context`.

        It is entered at once, in the calling thread, and left in the event loop's, with the context variables that it
        was entered with: it may reset one that it has set.

        Args:
            manager: The context manager.

        Returns:
            What it returns on entering.

        Raises:
            StreamClosedError: If the stream has ended already.
        """
        return self._stream.enter_context(manager)

    def push_async_callback(self, callback: Callable[..., Awaitable[object]], *args: Any, **kwargs: Any) -> None:
        """Registers a coroutine function to be called once, when the stream has ended.

        Args:
            callback: The coroutine function. It may await for up to ``cleanup_timeout`` seconds.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            StreamClosedError: If the stream has ended already.
        """
        self._stream.cleanups.push_async_callback(callback, *args, **kwargs)

    def callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Registers a function to be called once, when the stream has ended.

        Args:
            callback: The function. It is called in the event loop's thread, so it should not block.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            StreamClosedError: If the stream has ended already.
        """
        self._stream.cleanups.callback(callback, *args, **kwargs)

    def iterate(
        self,
        source: AsyncIterable[T] | Iterable[T] | Callable[[], AsyncIterable[T] | Iterable[T]],
        *,
        slice_timeout: float | None = None,
    ) -> SlicedIterator[T]:
        """Iterates over a source until it ends or the stream is closing, whichever comes first.

        The source is advanced and closed by a task of its own, a sync one by a thread, and only while an item is
        asked for. It is waited for in slices; a slice that runs out never cancels the item under way. Once the stream
        is closing, the source is ended and the loop is left as if it had come to its end, so that a farewell can
        follow it.

        Args:
            source: An async or sync iterable or iterator, or a callable that returns one.
            slice_timeout: The length of a slice, in seconds. Defaults to the one in the configuration.

        Raises:
            InvalidFieldError: If the source cannot be iterated over, or the duration is not positive and finite.
        """
        check_duration("slice_timeout", slice_timeout, optional=True)
        if slice_timeout is None:
            slice_timeout = self._stream.config.slice_timeout
        return SlicedIterator(source, self._stream, slice_timeout)

    @property
    def closing(self) -> bool:
        """Whether the stream is to end.

        A body that looks at this, or awaits :meth:`wait_closing`, has asked to be told: at a shutdown, or when
        ``max_lifetime`` is over, it may go on for up to ``shutdown_grace`` seconds to say farewell.
        """
        return self._stream.closing

    async def wait_closing(self) -> None:
        """Waits until the stream is to end; see :attr:`closing`."""
        await self._stream.wait_closing()

    async def send(self, message: object) -> None:
        """Sends what the body might have yielded: for sources that call back.

        It may be called by the body, by tasks of its own and by any other task of the event loop, and waits for room in
        the buffer that the body's events wait in. Events go out in the order in which they were sent or yielded.

        Args:
            message: Any item that a body may yield.

        Raises:
            StreamClosedError: If it no longer can be sent, since the client is gone or the stream has ended. What the
                body itself sends while it ends is then dropped, as what it yields.
            InvalidFieldError: If it cannot be sent at all.
            SSEError: If the body has not begun.
        """
        await self._stream.send(message)

    async def flush(self) -> None:
        """Waits until all that the body has yielded so far has been handed to the server.

        Raises:
            StreamClosedError: If it no longer can be, since the client is gone or the stream has ended.
        """
        await self._stream.flush()

    async def aclose(self, reason: CloseReason = CloseReason.CLOSED) -> None:
        """Ends the stream, and waits until it has cleaned up.

        Called by the body or a cleanup itself, or by the handler before its response, it does not wait: the stream
        ends as soon as they let it.

        Args:
            reason: Why; ``CLOSED`` unless told. The first reason that a stream is given stays.

        Raises:
            InvalidFieldError: If the reason is not a ``CloseReason``.
        """
        await self._stream.aclose(reason)
