"""The timeout-sliced iterator: a source is waited for in slices, and only the end of the stream cancels it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from litestar_safe_sse._core import asyncgens
from litestar_safe_sse._core.asyncgens import LeftGenerators
from litestar_safe_sse._core.iteration import aclose_iterator, aiterate, check_source
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.margins import TimerWithMargin
from litestar_safe_sse._runtime.shielding import LEAVING_TIME

if TYPE_CHECKING:
    from types import AsyncGeneratorType, TracebackType

    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._runtime.base import OwnedTask

__all__ = ("SlicedIterator",)

T = TypeVar("T")


class SlicedIterator(Generic[T]):
    """Iterates over a source that a task of its own advances, one item at a time and only when one is asked for.

    A slice that runs out leaves the source alone: cancelling its step would finish an async generator and lose the
    item that a queue has just given it. It only makes the one who waits look at the stream again. When the stream is
    closing, the source gets its one cancellation (or is closed, where it is parked) and the iteration is over. A loop
    that is left by ``break`` or ``return`` lets go of this, upon which the source is closed too.
    """

    __slots__ = ("_source",)

    def __init__(self, source: object, stream: Stream, slice_timeout: float) -> None:
        check_source(source)
        self._source: SlicedSource = SlicedSource(source, stream, slice_timeout)

    def __aiter__(self) -> SlicedIterator[T]:
        return self

    async def __anext__(self) -> T:
        return cast("T", await self._source.next())

    async def aclose(self) -> None:
        """Ends the source, and waits until it has."""
        await self._source.end()

    async def __aenter__(self) -> SlicedIterator[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)  # there is none if the arguments were refused
        if source is not None:
            source.let_go()


class SlicedSource:
    """The source of one :class:`SlicedIterator`, and the task that advances and closes it.

    The stream knows this and not the iterator, so that an iterator can be let go.
    """

    __slots__ = (
        "_ended",
        "_ending",
        "_failure",
        "_item",
        "_left",
        "_overdue",
        "_ready",
        "_slice_timeout",
        "_source",
        "_stream",
        "_task",
        "_waits_in_source",
        "_want",
        "_wanted",
    )

    def __init__(self, source: object, stream: Stream, slice_timeout: float) -> None:
        self._source = source
        self._stream = stream
        self._slice_timeout = slice_timeout
        self._task: OwnedTask | None = None
        self._left = LeftGenerators()
        self._ready = stream.runtime.wake()
        self._want = stream.runtime.wake()
        self._wanted = False
        self._waits_in_source = False
        self._item: tuple[object] | None = None
        self._failure: BaseException | None = None
        self._ending = False
        self._ended = anyio.Event()
        self._overdue: TimerWithMargin | None = None
        """Cancels it again, where it was let go and the stream goes on."""

    async def next(self) -> object:
        """Waits for the next item.

        Raises:
            StopAsyncIteration: The source has ended, or the stream is closing.
        """
        self._start()
        self._wanted = True
        self._want.set()
        while self._item is None and not self._ended.is_set():
            if self._stream.closing:
                await self.end()
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

    async def end(self) -> None:
        """Ends the source, and waits until it has."""
        self._start()
        self._stop()
        await self._ended.wait()

    async def aclose(self) -> None:
        """Ends the source with the stream; a cancellation, which comes when its time is up, is for it."""
        try:
            await self.end()
        except anyio.get_cancelled_exc_class():
            self._cancel_again()
            with anyio.move_on_after(LEAVING_TIME / 2, shield=True):  # ahead of what cancels this task again
                await self._ended.wait()
            if not self._ended.is_set():
                raise

    def let_go(self) -> None:
        """Ends the source soon, if there is something to end; may be called from any thread."""
        if self._task is not None and not self._ended.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is gone
                self._stream.runtime.call_threadsafe(self._stop_in_time)

    def _stop_in_time(self) -> None:
        if not self._ending:
            stream = self._stream
            seconds = stream.config.cleanup_timeout
            self._overdue = TimerWithMargin(stream.runtime, seconds, LEAVING_TIME, self._cancel_again)
            self._stop()

    def _cancel_again(self) -> None:
        if self._task is not None:
            self._task.cancel()

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
        asyncgens.keep_in_this_context(self)
        runtime = self._stream.runtime
        failure = await task.capture(self._advance())
        await runtime.turn()  # until then the loop may hold what ended it, and so all that it has left
        source, self._source = self._source, None
        closing = await task.capture(aclose_iterator(source, runtime))
        del source  # so that the generators it holds are let go, and kept
        while (generator := self._left.take()) is not None:
            closing = await task.capture(aclose_iterator(generator, runtime)) or closing
        failure = failure if failure is not None and not isinstance(failure, Interrupted) else closing
        if not self._ending:
            self._failure = failure
        else:
            self._stream.report("the source", failure)
        if self._overdue is not None:
            self._overdue.cancel()
        self._stream.detach(self)
        self._ended.set()
        self._ready.set()

    async def _advance(self) -> None:
        if self._ending:
            return
        runtime, name = self._stream.runtime, self._stream.handler
        self._source = source = await aiterate(self._source, runtime, name, ahead=0)
        while True:
            while not self._wanted and not self._ending:
                await self._want.wait()
            if self._ending:
                if getattr(source, "ag_frame", None) is not None:  # on trio, the scopes it holds are those of this work
                    await aclose_iterator(getattr(source, "iterator", source), runtime)
                return  # what else there is to close must not be in it, which may have been cancelled for good
            self._wanted = False
            self._waits_in_source = True
            try:
                item = await source.__anext__()
            except StopAsyncIteration:
                return
            finally:
                self._waits_in_source = False
            self._item = (item,)
            self._ready.set()

    def begin(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        """A generator takes its first step: if it is of this source, it is closed with it at the latest."""
        if self._waits_in_source and generator is not self._source and self._is_ours():
            self._left.begin(generator)

    def keep(self, generator: AsyncGeneratorType[Any, Any]) -> bool:
        """Has a generator closed with the source that was left half-way."""
        if not self._is_ours():
            return False
        self._left.add(generator)
        return True

    def _is_ours(self) -> bool:
        return self._task is not None and not self._task.is_others_turn()
