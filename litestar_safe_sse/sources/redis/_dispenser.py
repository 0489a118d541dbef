"""Who waits for an item of a queue in Redis, and the task that fetches items while somebody waits."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence

    from litestar_safe_sse.sources.redis.plugin import RedisPlugin
    from litestar_safe_sse.sources.statistics import QueueStatistics

__all__ = ("AT_ONCE", "RedisDispenser")

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 64
"""Items that are fetched by one command, where so many are waited for."""

_logger = logging.getLogger("litestar_safe_sse")


class RedisDispenser(ABC, Generic[T]):
    """Those who wait for an item, in the order they came, and the task that fetches items while somebody waits."""

    _NOT_DONE: ClassVar[str]
    """What becomes of items that could not be confirmed or given back."""

    def __init__(self, redis: RedisPlugin, key: str, slice: float, share_key: Hashable) -> None:
        self._redis = redis
        self._key = key
        self._slice = slice
        self._share_key = share_key
        self._link = redis.link()
        self._waiters: OrderedDict[asyncio.Future[T], None] = OrderedDict()
        """In the order they came; thousands may leave at once, whom a list would have to be searched for."""
        self._task: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._backoff = Backoff()
        self._tally = redis.tally(share_key)
        self._outage = Outage(f"the queue {key!r}", self._tally)

    async def take(self) -> T:
        """Waits for an item; if it is cancelled, an item that had come already is given back."""
        if self._closing.is_set():
            raise SourceUnavailableError("the connection to Redis has been closed")
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        self._start()
        try:
            return await waiter
        except BaseException:
            if not waiter.done() or waiter.cancelled():
                waiter.cancel()
                self._waiters.pop(waiter, None)
            elif waiter.exception() is None:
                self.give_back([waiter.result()])
            raise

    def statistics(self) -> QueueStatistics:
        """Returns the queue's figures in this event loop."""
        return self._tally.of_queue(self._wanted())

    def confirm(self, item: T) -> None:
        """See :meth:`Dispenser.confirm`."""
        self._tally.in_hand -= 1
        self._tally.delivered += 1

    def give_back(self, items: Sequence[T], *, failed: bool = False) -> asyncio.Task[None]:
        """See :meth:`Dispenser.give_back`."""
        self._tally.in_hand -= len(items)
        self._tally.returned += len(items)
        return self._do(self._give_back_failed(items) if failed else self._give_back(items))

    async def aclose(self) -> None:
        """Lets the fetch under way come to its end, and gives back what it has brought."""
        self._closing.set()
        self._wake.set()
        try:
            if self._task is not None:
                await self._link.interrupt()
            while tasks := self._tasks():
                await asyncio.wait(tasks)
        except asyncio.CancelledError:  # Redis hangs, and the application has waited long enough
            for task in self._tasks():
                task.cancel()
            raise

    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._chores if self._task is None else {*self._chores, self._task}

    # For the subclasses

    @abstractmethod
    async def _give_back(self, items: Sequence[T]) -> None:
        """Puts items back where they came from, in this order."""

    @abstractmethod
    async def _give_back_failed(self, items: Sequence[T]) -> None:
        """Puts items back behind others, or among the dead letters: a stream has failed that had them in hand."""

    @abstractmethod
    async def _fetch(self) -> None:
        """Fetches items once, waiting for up to a slice, and hands them out by ``_hand_out``."""

    async def _end(self) -> None:
        """Nobody waits any more."""

    async def _insist(self, send: Callable[[], Awaitable[R]]) -> R:
        """Sends something until Redis takes it, or the application is about to end."""
        backoff = Backoff()
        while True:
            try:
                return await send()
            except SourceUnavailableError:
                if self._closing.is_set():
                    raise
                await backoff.wait(self._closing)

    async def _send(self, *command: str | bytes | float) -> Any:
        """Sends a command until Redis takes it, or the application is about to end."""
        return await self._insist(partial(self._redis.execute, *command))

    def _is_busy(self) -> bool:
        return bool(self._wanted())

    def _wanted(self) -> int:
        """How many items are waited for."""
        while self._waiters and next(iter(self._waiters)).done():
            self._waiters.popitem(last=False)
        return 0 if self._closing.is_set() else len(self._waiters)

    def _hand_out(self, items: Sequence[T]) -> None:
        for number, item in enumerate(items):
            if not self._wanted():
                self._do(self._give_back(items[number:]))
                return
            self._waiters.popitem(last=False)[0].set_result(item)
            self._tally.in_hand += 1

    def _do(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = spawn(chore, "SSE queue in Redis")
        self._chores.add(task)
        task.add_done_callback(self._chore_done)
        return task

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("items of %r %s: %s", self._key, self._NOT_DONE, error)

    def _start(self) -> None:
        self._wake.set()
        if self._task is None:
            self._task = spawn(self._work(), "SSE queue in Redis")

    async def _work(self) -> None:
        try:
            while await self._is_needed():
                await self._try_to_fetch()
        except asyncio.CancelledError:
            self._link.abort()
            raise
        finally:  # whoever asks from now on is given another dispenser
            self._redis.forget(self._share_key, self)
            self._refuse(SourceUnavailableError("the connection to Redis has been closed"))
            await self._link.aclose()
            self._task = None

    async def _try_to_fetch(self) -> None:
        try:
            await self._fetch()
        except SourceUnavailableError as error:
            if not self._closing.is_set():
                self._outage.begin(error)
            await self._backoff.wait(self._closing)
        except SourceRefusedError as error:
            self._refuse(error)
        else:
            self._outage.end()
            self._backoff.reset()

    async def _is_needed(self) -> bool:
        """Whether somebody waits, or comes to wait within a slice; until then the connection is kept."""
        while not self._is_busy():
            self._wake.clear()
            with anyio.move_on_after(self._slice) as idle:
                if not self._closing.is_set():
                    await self._wake.wait()
            if idle.cancelled_caught or self._closing.is_set():
                await self._end()
                if not self._is_busy():
                    return False
        return True

    def _refuse(self, error: SourceRefusedError | SourceUnavailableError) -> None:
        waiters, self._waiters = self._waiters, OrderedDict()
        for waiter in waiters:
            if not waiter.done():
                failure = type(error)(*error.args)
                failure.__cause__ = error.__cause__
                waiter.set_exception(failure)
