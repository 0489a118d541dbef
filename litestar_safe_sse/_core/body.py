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

from litestar_safe_sse._core.buffer import BufferState
from litestar_safe_sse._core.iteration import ThreadedIterator, aclose, aiterate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litestar_safe_sse._core.buffer import Buffer
    from litestar_safe_sse._core.cleanup import CleanupRegistry
    from litestar_safe_sse._core.state import Lifecycle
    from litestar_safe_sse._runtime.base import OwnedTask, Runtime, Wake

__all__ = ("Body", "Position", "Source")


_LAST_YIELDS = 64
"""How often a body may yield on its way out before it is given up."""


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
        "_abandoned",
        "_buffer",
        "_cleanups",
        "_closers",
        "_closers_done",
        "_content",
        "_life",
        "_runtime",
        "_sources",
        "position",
    )

    def __init__(self, buffer: Buffer, life: Lifecycle, cleanups: CleanupRegistry, runtime: Runtime) -> None:
        self.position = Position.UNSTARTED
        self._buffer = buffer
        self._life = life
        self._cleanups = cleanups
        self._runtime = runtime
        self._content: object = None
        self._sources: dict[Source, Callable[[], None]] = {}
        self._abandoned: list[AsyncGenerator[Any, Any]] = []
        """Async generators that it left half-way while it ended."""
        self._closers: dict[OwnedTask, None] = {}
        """Tasks that close those it left half-way before that."""
        self._closers_done: Wake | None = None

    @property
    def content(self) -> object:
        """What is iterated over."""
        return self._content

    def accept(self, content: object) -> object:
        """Takes over what is to be iterated over, which is closed from now on even if it is never started.

        Returns:
            What it replaces, or ``None``.
        """
        replaced, self._content = self._content, content
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
            try:
                item = await cast("AsyncGenerator[object, None]", iterator).athrow(cancelled)
            except StopAsyncIteration:
                return False
            if not self._buffer.put(item):
                return True
        self.position = Position.OVER
        if isinstance(iterator, AsyncGenerator):  # on trio, its scopes and nurseries are those of this task's work
            self._content = None
            await self._close(iterator)
        return False

    async def _close(self, iterator: object) -> None:
        """Closes an iterator where it is parked.

        A generator may yield on its way out. ``aclose()`` would leave it there, and nothing behind would run; so it is
        closed at that ``yield`` again, until it has ended. What it yields is sent, as when it was waiting.
        """
        if isasyncgen(iterator) and iterator.ag_frame is not None:
            for _ in range(_LAST_YIELDS):
                try:
                    item = await iterator.athrow(GeneratorExit())
                except (GeneratorExit, StopAsyncIteration):
                    return
                self._put_last(item)
                await self._runtime.turn()
            raise RuntimeError(f"the body yielded {_LAST_YIELDS} times when it was closed, and was left behind")
        await aclose(iterator)

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

    async def aclose(self) -> None:
        """Closes it, its sources, and the generators that it left half-way."""
        self.position = Position.OVER
        content, self._content = self._content, None
        try:
            await self._close(content)
        finally:
            del content  # so that the generators it holds are let go, and adopted
            for source in tuple(self._sources):
                await source.aclose()
            while self._abandoned:
                await self._abandoned.pop().aclose()
            while self._closers:
                self._closers_done = self._runtime.wake()
                await self._closers_done.wait()

    def attach(self, source: Source, notify: Callable[[], None]) -> None:
        """Has a source closed with the body, and notified when the stream begins to close."""
        self._sources[source] = notify

    def detach(self, source: Source) -> None:
        """Forgets a source that has been closed."""
        self._sources.pop(source, None)

    def notify_sources(self) -> None:
        """Notifies the sources that the stream has begun to close."""
        for notify in self._sources.values():
            notify()

    def adopt(self, generator: AsyncGenerator[Any, Any], name: str) -> None:
        """Closes an async generator that the body left half-way: with the body, or at once if the body goes on.

        Args:
            generator: The generator.
            name: The name of the task that closes it.
        """
        if self._life.is_ending:
            self._abandoned.append(generator)
            return

        async def close(task: OwnedTask) -> None:
            failure = await task.capture(generator.aclose())
            if failure is not None:
                self._cleanups.fail("a generator of the body", failure)
            del self._closers[task]
            if self._closers_done is not None:
                self._closers_done.set()

        self._closers[self._runtime.spawn(close, name)] = None
