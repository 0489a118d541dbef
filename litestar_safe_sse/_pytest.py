"""What the plugin of pytest does once a test uses streams."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

from litestar_safe_sse._core.state import StreamState
from litestar_safe_sse._core.stream import Stream
from litestar_safe_sse.sources._subscription import Subscription
from litestar_safe_sse.testing import open_stream, open_stream_sync, open_websocket, open_websocket_sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from litestar import Litestar

    from litestar_safe_sse.testing import OpenStream, OpenWebSocket, SyncOpenStream, SyncOpenWebSocket

__all__ = ("StreamOpener", "describe", "open_things")


AsyncT = TypeVar("AsyncT")
SyncT = TypeVar("SyncT")


class Opening(Generic[AsyncT, SyncT]):
    """A stream that is opened by ``async with``, or by ``with`` in a plain function.

    Args:
        name: What the request is called.
        open_async: Opens it for a coroutine.
        open_sync: Opens it for a plain function.
    """

    def __init__(
        self,
        name: str,
        open_async: Callable[[], AbstractAsyncContextManager[AsyncT]],
        open_sync: Callable[[], AbstractContextManager[SyncT]],
    ) -> None:
        self._name = name
        self._open_async = open_async
        self._open_sync = open_sync
        self._async = AsyncExitStack()
        self._sync = ExitStack()
        self.is_open = False

    def __str__(self) -> str:
        return self._name

    async def __aenter__(self) -> AsyncT:
        stream = await self._async.enter_async_context(self._open_async())
        self.is_open = True
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.is_open = False
        return bool(await self._async.__aexit__(kind, exc, traceback))

    def __enter__(self) -> SyncT:
        stream = self._sync.enter_context(self._open_sync())
        self.is_open = True
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.is_open = False
        return bool(self._sync.__exit__(kind, exc, traceback))


class StreamOpener:
    """The fixture ``sse``: opens the streams of one test.

    Attributes:
        cookies: The cookies of the client, kept from one stream to the next.
    """

    def __init__(self) -> None:
        self.cookies = httpx.Cookies()
        self._opened: list[Opening[Any, Any]] = []

    def __call__(self, app: Litestar, method: str, path: str, **options: Any) -> Opening[OpenStream, SyncOpenStream]:
        """Returns what opens a stream, by ``async with`` or by ``with``; see ``open_stream``."""
        options = {"cookies": self.cookies, **options}
        opening = Opening(
            f"{method} {path}",
            partial(open_stream, app, method, path, **options),
            partial(open_stream_sync, app, method, path, **options),
        )
        self._opened.append(opening)
        return opening

    def websocket(self, app: Litestar, path: str, **options: Any) -> Opening[OpenWebSocket, SyncOpenWebSocket]:
        """Returns what opens a stream over a WebSocket, likewise; see ``open_websocket``."""
        options = {"cookies": self.cookies, **options}
        opening = Opening(
            f"WebSocket {path}",
            partial(open_websocket, app, path, **options),
            partial(open_websocket_sync, app, path, **options),
        )
        self._opened.append(opening)
        return opening

    def check(self) -> None:
        """Raises ``AssertionError`` if a block has not been left."""
        left = [str(opening) for opening in self._opened if opening.is_open]
        assert not left, f"the test has not left the block of {', '.join(left)}"


def open_things() -> weakref.WeakSet[Any]:
    """Returns the streams, the tasks of streams, and the subscriptions that live and are not closed."""
    gc.collect()
    return weakref.WeakSet(thing for thing in gc.get_objects() if is_open(thing))


def is_open(thing: object) -> bool:
    """Returns whether something is of ours, and not closed."""
    kind = type(thing)  # not its __class__, which a proxy may have to make first
    if kind is Stream:
        return thing.state is not StreamState.CLOSED  # type: ignore[attr-defined]
    if issubclass(kind, asyncio.Task):
        return not thing.done() and thing.get_name().startswith("SSE ")  # type: ignore[attr-defined]
    return issubclass(kind, Subscription) and not thing._closed  # type: ignore[attr-defined]


def describe(thing: Any) -> str:
    """Names what was left open."""
    if type(thing) is Stream:
        return f"the stream {thing.id} of {thing.handler}, which is {thing.state}"
    if isinstance(thing, asyncio.Task):
        return f"the task {thing.get_name()!r}"
    topics = ", ".join(getattr(thing, "tags", ()))
    return f"the {type(thing).__name__}" + (f" of {topics}" if topics else "")
