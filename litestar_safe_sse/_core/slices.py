"""The timeout-sliced iterator: a source is waited for in slices, and only the end of the stream cancels it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

import anyio

from litestar_safe_sse._core.iteration import aclose, aiterate, check_content
from litestar_safe_sse._runtime.base import Interrupted

if TYPE_CHECKING:
    from types import TracebackType

    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._runtime.base import OwnedTask

__all__ = ("SlicedIterator",)

T = TypeVar("T")


class SlicedIterator(Generic[T]):
    """Iterates over a source that a task of its own advances, one item at a time and only when one is asked for.

    A slice that runs out leaves the source alone: cancelling its step would finish an async generator and lose the
    item that a queue has just given it. It only makes the one who waits look at the stream again. When the stream is
    closing, the source gets its one cancellation (or is closed, where it is parked) and the iteration is over.
    """

    def __init__(self, source: object, stream: Stream, slice_timeout: float) -> None:
        check_content(source)
        self._source = source
        self._stream = stream
        self._slice_timeout = slice_timeout
        self._task: OwnedTask | None = None
        self._ready = stream.runtime.wake()
        self._want = stream.runtime.wake()
        self._wanted = False
        self._waits_in_source = False
        self._item: tuple[T] | None = None
        self._failure: BaseException | None = None
        self._ending = False
        self._ended = anyio.Event()

    def __aiter__(self) -> SlicedIterator[T]:
        return self

    async def __anext__(self) -> T:
        self._start()
        self._wanted = True
        self._want.set()
        while self._item is None and not self._ended.is_set():
            if self._stream.closing:
                await self.aclose()
                break
            try:
                with anyio.move_on_after(self._slice_timeout):
                    await self._ready.wait()
            except BaseException:
                self._stop()
                raise
        if self._item is not None:
            (item,), self._item = self._item, None
            return item
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the source, and waits until it has."""
        self._start()
        self._stop()
        await self._ended.wait()

    async def __aenter__(self) -> SlicedIterator[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _start(self) -> None:
        if self._task is None:
            self._stream.attach(self, self._ready.set)
            self._task = self._stream.runtime.spawn(self._own, f"SSE source of {self._stream.handler}")

    def _stop(self) -> None:
        if self._ending or self._ended.is_set():
            return
        self._ending = True
        if self._waits_in_source and self._task is not None:
            self._task.cancel()
        else:
            self._want.set()

    async def _own(self, task: OwnedTask) -> None:
        failure = await task.capture(self._advance())
        closing = await task.capture(aclose(self._source))
        self._source = None
        failure = failure if failure is not None and not isinstance(failure, Interrupted) else closing
        if not self._ending:
            self._failure = failure
        elif failure is not None:
            self._stream.cleanups.fail("the source", failure)
        self._stream.detach(self)
        self._ended.set()
        self._ready.set()

    async def _advance(self) -> None:
        if self._ending:
            return
        self._source = source = await aiterate(self._source, self._stream.runtime, self._stream.handler)
        while True:
            while not self._wanted and not self._ending:
                await self._want.wait()
            if self._ending:
                return
            self._wanted = False
            self._waits_in_source = True
            try:
                item = await source.__anext__()
            except StopAsyncIteration:
                return
            finally:
                self._waits_in_source = False
            self._item = (cast("T", item),)
            self._ready.set()
