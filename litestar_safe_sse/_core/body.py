"""The body: advanced and closed by the stream's owner, in one task and one context.

It stands in one of four positions, which decide how it is ended: one that waits is cancelled, one that is parked at its
``yield`` is closed there, one that was never started is closed without running, and one that is over is left alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import Enum
from inspect import isasyncgen
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio

from litestar_safe_sse._core.asyncgens import LeftGenerators
from litestar_safe_sse._core.buffer import BufferState
from litestar_safe_sse._core.iteration import ThreadedIterator, aclose_iterator, aiterate
from litestar_safe_sse._runtime.margins import TimerWithMargin
from litestar_safe_sse._runtime.shielding import LEAVING_TIME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import AsyncGeneratorType

    from litestar_safe_sse._core.buffer import Buffer
    from litestar_safe_sse._core.cleanup import CleanupRegistry
    from litestar_safe_sse._core.state import Lifecycle
    from litestar_safe_sse._runtime.base import OwnedTask, Runtime, Wake

__all__ = ("Body", "Position", "Source")


class Source(Protocol):
    """What a body draws from, in a task of its own."""

    async def aclose(self) -> None: ...


class Position(Enum):
    """Where a body stands."""

    UNSTARTED = "nothing of it has run"
    WAITING = "it runs, and waits in an await of its own"
    PARKED = "it is held at its yield"
    OVER = "it has ended or is being closed, and may await as it likes"


class Body:
    """What a handler has returned to be streamed, with all that it draws from and leaves behind.

    Args:
        buffer: Where its events go.
        life: How the stream fares.
        cleanups: Where failures are reported.
        runtime: The running event loop.
    """

    __slots__ = (
        "_buffer",
        "_cleanups",
        "_closers",
        "_closers_done",
        "_closing_time",
        "_content",
        "_left",
        "_life",
        "_runtime",
        "_sources",
        "position",
        "task",
    )

    def __init__(self, buffer: Buffer, life: Lifecycle, cleanups: CleanupRegistry, runtime: Runtime) -> None:
        self.position = Position.UNSTARTED
        self._buffer = buffer
        self._life = life
        self._cleanups = cleanups
        self._runtime = runtime
        self._content: object = None
        # Most bodies have none of these, and there may be thousands of bodies.
        self._sources: dict[Source, Callable[[], None]] | None = None
        self.task: OwnedTask | None = None
        """The stream's owner, which advances it."""
        self._left: LeftGenerators | None = None
        self._closers: dict[OwnedTask, None] | None = None
        """Tasks that close generators which it left half-way and went on."""
        self._closers_done: Wake | None = None
        self._closing_time = 0.0

    @property
    def content(self) -> object:
        """What is iterated over."""
        return self._content

    def accept(self, content: object, closing_time: float) -> object:
        """Takes over what is to be iterated over, which is closed from now on even if it is never started.

        Args:
            content: What is to be iterated over.
            closing_time: Seconds that a generator has to close which it leaves half-way.

        Returns:
            What it replaces, or ``None``.
        """
        replaced, self._content, self._closing_time = self._content, content, closing_time
        return replaced

    async def run(self, name: str) -> None:
        """Advances it until it comes to its end, or the stream ends while it is parked.

        Args:
            name: What it is called in a thread's name.
        """
        self.position = Position.WAITING
        try:
            put = self._buffer.put
            self._content = iterator = await aiterate(self._content, self._runtime, name)
            if self._buffer.state is BufferState.HELD and isinstance(iterator, ThreadedIterator):
                iterator.hold()
            self._buffer.note_step()
            async for item in iterator:
                if put(item) and not await self._hold(iterator):
                    return
                del item  # it may be large, and the next one long in coming
        finally:
            self.position = Position.OVER

    async def _hold(self, iterator: AsyncIterator[object]) -> bool:
        """Holds the body at its ``yield`` for as long as it has to be.

        Returns:
            Whether it goes on. If not, it has ended: by itself, or because the stream ends.
        """
        while not self._life.is_ending:
            cancelled = await self._park()
            if cancelled is None:
                if self._life.is_ending:
                    break
                return True
            if not hasattr(iterator, "athrow"):  # it can be told by nothing but its end
                raise cancelled
            try:
                item = await cast("AsyncGenerator[object, None]", iterator).athrow(cancelled)
            except StopAsyncIteration:
                return False
            if not self._buffer.put(item):
                return True
        self.position = Position.OVER
        if hasattr(iterator, "athrow"):  # on trio, its scopes and nurseries are those of this task's work
            self._content = None
            await self._close(iterator)
        return False

    def _close(self, iterator: object) -> Coroutine[Any, Any, None]:
        """Closes an iterator where it is parked; what it yields on its way out is sent, as when it was waiting."""
        return aclose_iterator(iterator, self._runtime, self._put_last)

    def _put_last(self, item: object) -> None:
        try:
            self._buffer.put(item)
        except Exception as error:
            self._cleanups.fail("the body", error)

    async def _park(self) -> BaseException | None:
        """Waits until the body may go on.

        Returns:
            A cancellation that is for the body to see there: that of a timeout, scope or task group around its yield.
        """
        self.position = Position.PARKED
        try:
            await self._buffer.pause()
        except anyio.get_cancelled_exc_class() as cancelled:
            return cancelled
        finally:
            self.position = Position.WAITING
        return None

    def take_closing(self) -> Coroutine[Any, Any, None] | None:
        """Takes the next thing that is to be closed: the body, its sources, and the generators that it left half-way.

        What is taken is not taken again, so that one that hangs keeps none of the others from being closed.

        Returns:
            What closes it, or ``None`` if there is nothing left.
        """
        self.position = Position.OVER
        content, self._content = self._content, None
        if content is not None and not (isasyncgen(content) and content.ag_frame is None):
            return self._close(content)
        del content  # so that the generators it holds are let go, and kept
        if self._sources:
            return self._sources.popitem()[0].aclose()
        if self._left is not None and (generator := self._left.take()) is not None:
            return aclose_iterator(generator, self._runtime)
        return self._wait_for_closers() if self._closers else None

    async def _wait_for_closers(self) -> None:
        try:
            await self._until_closed()
        except anyio.get_cancelled_exc_class():  # their time is up
            for closer in self._closers or ():
                closer.cancel()
            with anyio.move_on_after(LEAVING_TIME / 2, shield=True):  # ahead of what cancels this task again
                await self._until_closed()
            if self._closers:
                self._closers = None
                raise

    async def _until_closed(self) -> None:
        while self._closers:
            self._closers_done = self._runtime.wake()
            await self._closers_done.wait()

    def leave_behind(self) -> None:
        """Gives it up: it is still being advanced, or closed, and can be neither any more."""
        self.position = Position.OVER
        self._content = None
        self._closers = None

    def attach(self, source: Source, notify: Callable[[], None]) -> None:
        """Has a source closed with the body, and notified when the stream begins to close."""
        self._sources = self._sources or {}
        self._sources[source] = notify

    def detach(self, source: Source) -> None:
        """Forgets a source that has been closed."""
        if self._sources:
            self._sources.pop(source, None)

    def notify_sources(self) -> None:
        """Notifies the sources that the stream has begun to close."""
        for notify in (self._sources or {}).values():
            notify()

    def begin(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        """A generator takes its first step: if it is of this body, it is closed with it at the latest."""
        if self.position is Position.WAITING and generator is not self._content and self._is_ours():
            self._left = self._left or LeftGenerators()
            self._left.begin(generator)

    def keep(self, generator: AsyncGeneratorType[Any, Any]) -> bool:
        """Has a generator closed that was left half-way: with the body, or at once if the body goes on."""
        if not self._is_ours():
            return False
        if self.position is Position.OVER or self._life.is_ending:
            self._left = self._left or LeftGenerators()
            self._left.add(generator)
        else:
            self._close_beside(generator)
        return True

    def _is_ours(self) -> bool:
        return self.task is not None and not self.task.is_others_turn()

    def _close_beside(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        async def close(task: OwnedTask) -> None:
            overdue = TimerWithMargin(self._runtime, self._closing_time, LEAVING_TIME, task.cancel)
            failure = await task.capture(aclose_iterator(generator, self._runtime))
            overdue.cancel()
            self.report("a generator of the body", failure)
            if self._closers:
                self._closers.pop(task, None)
            if self._closers_done is not None:
                self._closers_done.set()

        self._closers = self._closers or {}
        self._closers[self._runtime.spawn(close, "SSE generator")] = None

    def report(self, name: str, failure: BaseException | None) -> None:
        """Reports that something could not be closed, unless that is only how it took its ``GeneratorExit``."""
        if failure is not None and not _is_closed(failure):
            self._cleanups.fail(name, failure)


def _is_closed(failure: BaseException) -> bool:
    """Whether a failure is just the ``GeneratorExit`` of a closed body, as a task group around its yield wraps it."""
    inner = getattr(failure, "exceptions", None)
    return isinstance(failure, GeneratorExit) or (
        isinstance(inner, tuple) and bool(inner) and all(map(_is_closed, inner))
    )
