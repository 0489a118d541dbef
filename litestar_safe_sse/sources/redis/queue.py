"""Queues in Redis: each item goes to one client.

``RedisQueue`` is a plain list, as any producer can push to. A client that leaves loses no item; a process that is
killed loses those it had popped. ``RedisGroupQueue`` is a consumer group, in which every item stays in Redis until it
has been acknowledged: nothing is lost, and an item may come twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import anyio
import msgspec

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_duration, check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._handover import HandOver
from litestar_safe_sse.sources.redis.connection import Backoff, RedisPlugin, code_of, spawn

if TYPE_CHECKING:
    from collections.abc import Coroutine, Hashable, Sequence

    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources.redis.connection import Command, RedisSource

__all__ = ("QueueItem", "RedisGroupQueue", "RedisQueue")

T = TypeVar("T")

_logger = logging.getLogger("litestar_safe_sse")

_AT_ONCE = 64
"""Items that are fetched by one command, where so many are waited for."""

_OVERDUE = 10
"""Claims come so many times before an item of a living process would look abandoned."""


class RedisQueue:
    """A list in Redis, each item of which goes to one client (``BLPOP``).

    An item whose client leaves before it has been handed to the server, or is found to be gone within ``settle``
    seconds after, goes back to the head of the list. So no item is lost to clients that leave, and one that was
    delivered right before its client left may be delivered again. Lost are the items that a process holds when it is
    killed, or that Redis has popped when its connection breaks: at most one for each stream, and those of the last
    ``settle`` seconds that had not reached their client. Where that is too much, take :class:`RedisGroupQueue`.

    One connection per process waits for the items of all streams, which take turns; it asks for one only while
    somebody waits for it. While Redis is away, streams stay open and go on when it is back.

    Args:
        redis: A :class:`RedisPlugin`, or what one can be made of.
        name: The queue's name; its key is the plugin's prefix and this.
        key: The list's key, instead of a name, where others push to it.
        settle: Seconds after an item was handed to the server in which its client's leaving takes it back: the server
            may have written it to a connection that was dead already, and learns of that later. Where clients leave
            right after they have got what they came for, 0, or they are given it again.
        slice: Seconds for which Redis is asked to wait at a time.
        expire: Seconds after the last push in which the list expires; ``None`` for never.

    Raises:
        MissingExtraError: redis-py is not installed.
        InvalidFieldError: An argument won't do.
    """

    def __init__(
        self,
        redis: RedisPlugin | RedisSource,
        name: str | None = None,
        *,
        key: str | None = None,
        settle: float = 0.5,
        slice: float = 1.0,
        expire: float | None = None,
    ) -> None:
        self._redis = RedisPlugin.of(redis)
        self.key = _key(self._redis, "queue", name, key)
        check_duration("settle", settle, zero=True)
        check_duration("slice", slice)
        check_duration("expire", expire, optional=True)
        self._settle = settle
        self._slice = slice
        self._expire = expire

    async def push(self, *items: object) -> int:
        """Appends items to the queue's tail, together.

        Args:
            *items: Text and bytes as they are, anything else as JSON.

        Returns:
            How many items the queue has.

        Raises:
            SourceUnavailableError: Redis can't be reached; the items may have been appended all the same.
            SourceRefusedError: The key holds something else, or the permission is missing.
        """
        if not items:
            return int(await self._redis.execute("LLEN", self.key))
        command = ("RPUSH", self.key, *map(_encode, items))
        return int(await _write(self._redis, command, self.key, self._expire))

    def items(self, stream: StreamContext | None = None) -> HandOver[bytes]:
        """The items as they come, for one stream: the content of a response, or for a body to iterate over.

        Args:
            stream: The stream that sends them. Without one, an item counts as handed over when it is returned.

        Returns:
            An async iterator. Asking it for the next item says that the last one has been yielded.

        Raises:
            SourceRefusedError: While iterating: the key holds something else, or the permission is missing.
        """
        return HandOver(self._popper, stream, self._settle)

    async def length(self) -> int:
        """How many items wait in the list."""
        return int(await self._redis.execute("LLEN", self.key))

    def _popper(self) -> _Popper:
        key = (_Popper, self.key)
        return self._redis.hub(key, lambda: _Popper(self._redis, self.key, self._slice, key))


class QueueItem(SSEMessage, frozen=True, kw_only=True):
    """An item of a :class:`RedisGroupQueue`; yielded to a stream, it is an event of its data.

    Args:
        entry: The ID of its entry in Redis.
        deliveries: How often it has been delivered, this time included; more than 1 says that it may come twice.
    """

    entry: str = ""
    deliveries: int = 1


class RedisGroupQueue:
    """An acknowledged queue, each item of which goes to one client at least once (a consumer group on a stream).

    An item stays in Redis until it has been handed to the server and ``settle`` seconds have passed. Then it is
    acknowledged and deleted (``XACK``, ``XDEL``). If its client leaves before, it is released at once; if its process
    is killed, or cut off from Redis, another one claims it after ``claim_after`` seconds.

    One connection per process waits for the items of all streams, which take turns.

    Args:
        redis: A :class:`RedisPlugin`, or what one can be made of.
        name: The queue's name; its key is the plugin's prefix and this.
        key: The stream's key, instead of a name, where others add to it (their entry's field is ``data``).
        group: The consumer group's name. The queue is one queue: entries are deleted when one group is done with them.
        settle: Seconds after an item was handed to the server until it is acknowledged; see :class:`RedisQueue`.
        slice: Seconds for which Redis is asked to wait at a time, and after which abandoned items are looked for.
        claim_after: Seconds without a sign of life of its process after which an item counts as abandoned.
        max_deliveries: Deliveries after which an item is moved to the dead letters, the stream ``<key>:dead``, instead
            of being delivered once more; ``None`` for no limit.
        max_dead: How many dead letters are kept, approximately.
        expire: Seconds after the last push in which the stream expires; ``None`` for never.

    Raises:
        MissingExtraError: redis-py is not installed.
        InvalidFieldError: An argument won't do.
    """

    def __init__(
        self,
        redis: RedisPlugin | RedisSource,
        name: str | None = None,
        *,
        key: str | None = None,
        group: str = "sse",
        settle: float = 0.5,
        slice: float = 1.0,
        claim_after: float = 30.0,
        max_deliveries: int | None = None,
        max_dead: int = 10_000,
        expire: float | None = None,
    ) -> None:
        self._redis = RedisPlugin.of(redis)
        self.key = _key(self._redis, "group", name, key)
        self.dead_key = f"{self.key}:dead"
        self.group = check_text("group", group)
        if not group:
            raise InvalidFieldError("group", "it is empty; give a name")
        check_duration("settle", settle, zero=True)
        check_duration("slice", slice)
        check_duration("claim_after", claim_after)
        check_duration("expire", expire, optional=True)
        check_integer("max_deliveries", max_deliveries, minimum=1, optional=True)
        check_integer("max_dead", max_dead, minimum=1)
        self._settle = settle
        self._expire = expire
        self._options = _GroupOptions(self.key, self.group, self.dead_key, slice, claim_after, max_deliveries, max_dead)

    async def push(self, *items: object) -> None:
        """Appends items to the queue's tail, together.

        Args:
            *items: Text and bytes as they are, anything else as JSON.

        Raises:
            SourceUnavailableError: Redis can't be reached; the items may have been appended all the same.
            SourceRefusedError: The key holds something else, or the permission is missing.
        """
        if not items:
            return
        commands: list[Command]
        commands = [("XADD", self.key, "*", "data", _encode(item)) for item in items]
        if self._expire is not None:
            commands.append(("PEXPIRE", self.key, math.ceil(self._expire * 1000)))
        await self._redis.transact(*commands)

    def items(self, stream: StreamContext) -> HandOver[QueueItem]:
        """The items as they come, for one stream: the content of a response, or for a body to iterate over.

        Args:
            stream: The stream that sends them.

        Returns:
            An async iterator. Asking it for the next item says that the last one has been yielded.

        Raises:
            SourceRefusedError: While iterating: the key holds something else, or the permission is missing.
        """
        return HandOver(self._reader, stream, self._settle)

    async def length(self) -> int:
        """How many items wait or are not acknowledged yet."""
        return int(await self._redis.execute("XLEN", self.key))

    def _reader(self) -> _GroupReader:
        key = (_GroupReader, self._options)
        return self._redis.hub(key, lambda: _GroupReader(self._redis, self._options, key))


class _Dispenser(ABC, Generic[T]):
    """Those who wait for an item, in the order they came, and the task that fetches items while somebody waits."""

    _UNSETTLED: ClassVar[str]
    """What becomes of items that could not be settled."""

    def __init__(self, redis: RedisPlugin, key: str, slice: float, hub_key: Hashable) -> None:
        self._redis = redis
        self._key = key
        self._slice = slice
        self._hub_key = hub_key
        self._link = redis.link()
        self._waiters: deque[asyncio.Future[T]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._backoff = Backoff()

    async def take(self) -> T:
        """Waits for an item; if it is cancelled, an item that had come already is given back."""
        if self._closing.is_set():
            raise SourceUnavailableError("the connection to Redis has been closed")
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._start()
        try:
            return await waiter
        except BaseException:
            if not waiter.done() or waiter.cancelled():
                waiter.cancel()
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                self.give_back([waiter.result()])
            raise

    def give_back(self, items: Sequence[T]) -> asyncio.Task[None]:
        """Begins to give items back, in this order."""
        return self._do(self._give_back(items))

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
    async def _fetch(self) -> None:
        """Fetches items once, waiting for up to a slice, and hands them out by ``_hand_out``."""

    async def _end(self) -> None:
        """Nobody waits any more."""

    def _is_busy(self) -> bool:
        return bool(self._wanted())

    def _wanted(self) -> int:
        """How many items are waited for."""
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()
        return 0 if self._closing.is_set() else len(self._waiters)

    def _hand_out(self, items: Sequence[T]) -> None:
        for number, item in enumerate(items):
            if not self._wanted():
                self.give_back(items[number:])
                return
            self._waiters.popleft().set_result(item)

    def _do(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = spawn(chore, "SSE queue in Redis")
        self._chores.add(task)
        task.add_done_callback(self._chore_done)
        return task

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("items of %r %s: %s", self._key, self._UNSETTLED, error)

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
            self._redis.forget(self._hub_key, self)
            self._refuse(SourceUnavailableError("the connection to Redis has been closed"))
            await self._link.aclose()
            self._task = None

    async def _try_to_fetch(self) -> None:
        try:
            await self._fetch()
        except SourceUnavailableError:
            await self._backoff.wait(self._closing)
        except SourceRefusedError as error:
            self._refuse(error)
        else:
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
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                failure = type(error)(*error.args)
                failure.__cause__ = error.__cause__
                waiter.set_exception(failure)


class _Popper(_Dispenser[bytes]):
    """Pops the items of one list."""

    _UNSETTLED = "may be lost"

    def confirm(self, item: bytes) -> None:
        """There is nobody to tell."""

    async def _fetch(self) -> None:
        popped = await self._link.submit("BLPOP", self._key, self._slice, wait=self._slice)
        if popped is None:
            return
        self._hand_out([popped[1]])
        if wanted := min(self._wanted(), _AT_ONCE):
            self._hand_out(await self._link.submit("LPOP", self._key, wanted) or [])

    async def _give_back(self, items: Sequence[bytes]) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._redis.execute("LPUSH", self._key, *reversed(items))
                return
            except SourceUnavailableError:
                if self._closing.is_set():
                    raise
                await backoff.wait(self._closing)


class _GroupOptions(msgspec.Struct, frozen=True):
    key: str
    group: str
    dead_key: str
    slice: float
    claim_after: float
    max_deliveries: int | None
    max_dead: int


_PRUNE = """
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
"""
"""Removes consumers that hold nothing, in one step: one that reads meanwhile would lose what it was given."""


class _GroupReader(_Dispenser[QueueItem]):
    """Reads the items of one consumer group, as one consumer."""

    _UNSETTLED = "could not be acknowledged or released, so they come again"

    def __init__(self, redis: RedisPlugin, options: _GroupOptions, hub_key: Hashable) -> None:
        super().__init__(redis, options.key, options.slice, hub_key)
        self._options = options
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: dict[str, QueueItem] = {}
        self._done: deque[str] = deque()
        self._acknowledging = False
        self._has_group = False
        self._next_look = 0.0
        self._next_sign = 0.0
        self._next_prune = 0.0

    def confirm(self, item: QueueItem) -> None:
        """Begins to acknowledge and delete the item."""
        self._done.append(item.entry)
        if not self._acknowledging:
            self._acknowledging = True
            self._do(self._acknowledge())

    def _is_busy(self) -> bool:
        return bool(self._wanted() or (self._held and not self._closing.is_set()))

    async def _acknowledge(self) -> None:
        key, group = self._options.key, self._options.group
        backoff = Backoff()
        try:
            while self._done:
                entries = list(self._done)[:_AT_ONCE]
                try:
                    await self._redis.transact(("XACK", key, group, *entries), ("XDEL", key, *entries))
                except SourceUnavailableError:
                    if self._closing.is_set():
                        raise
                    await backoff.wait(self._closing)
                    continue
                for entry in entries:
                    self._done.popleft()
                    self._held.pop(entry, None)
        finally:
            self._acknowledging = False
            self._wake.set()

    async def _give_back(self, items: Sequence[QueueItem]) -> None:
        """Makes the items look abandoned, for whoever wants one to claim."""
        long_ago = math.ceil(self._options.claim_after * _OVERDUE * 1000)
        entries = [item.entry for item in items]
        backoff = Backoff()
        for entry in entries:
            self._held.pop(entry, None)
        while True:
            self._next_look = 0.0  # commands are sent in order: whoever looks from now on finds them
            try:
                await self._claim(entries, "IDLE", long_ago)
                break
            except SourceUnavailableError:
                if self._closing.is_set():
                    return  # another process will claim them, only later
                await backoff.wait(self._closing)
        if self._wanted():
            await self._link.interrupt()

    async def _fetch(self) -> None:
        if not self._has_group:
            await self._create_group()
        try:
            await self._look_after_group()
            if wanted := min(self._wanted(), _AT_ONCE):
                await self._read(wanted)
            elif self._held:
                await self._pause()
        except SourceRefusedError as error:
            if code_of(error) not in ("NOGROUP", "UNBLOCKED"):
                raise
            self._has_group = False  # Redis came back empty, or somebody deleted the key
            self._held.clear()

    async def _pause(self) -> None:
        self._wake.clear()
        with anyio.move_on_after(self._slice):
            await self._wake.wait()

    async def _read(self, wanted: int) -> None:
        options = self._options
        block = max(1, math.ceil(options.slice * 1000))
        command = ("XREADGROUP", "GROUP", options.group, self._consumer, "COUNT", wanted, "BLOCK", block)
        reply = await self._link.submit(*command, "STREAMS", options.key, ">", wait=options.slice)
        for _, entries in reply or ():
            self._receive([_item(entry, fields, 1) for entry, fields in entries])

    def _receive(self, items: Sequence[QueueItem]) -> None:
        self._held.update((item.entry, item) for item in items)
        self._hand_out(items)

    async def _look_after_group(self) -> None:
        """Does what is due: a sign of life for what is held, a look for what was abandoned, the removal of the dead."""
        now, options = monotonic(), self._options
        if self._held and now >= self._next_sign:
            await self._claim(list(self._held), "IDLE", 0)
            self._next_sign = now + options.claim_after / 3
        if now >= self._next_look and self._wanted():
            self._next_look = now + options.slice
            await self._claim_abandoned()
        if now >= self._next_prune:
            self._next_prune = now + options.claim_after
            await self._prune("")

    async def _claim(self, entries: Sequence[str], *options: str | float) -> None:
        key, group = self._options.key, self._options.group
        await self._redis.execute("XCLAIM", key, group, self._consumer, 0, *entries, *options, "JUSTID")

    async def _claim_abandoned(self) -> None:
        options = self._options
        idle = max(1, math.ceil(options.claim_after * 1000))
        count = min(self._wanted(), _AT_ONCE)
        pending = await self._redis.execute("XPENDING", options.key, options.group, "IDLE", idle, "-", "+", count)
        claims = [
            (deliveries + 1, self._redis.submit("XCLAIM", options.key, options.group, self._consumer, idle, entry))
            for entry, _, _, deliveries in pending
            if entry.decode() not in self._held
        ]
        if claims:
            self._next_look = 0.0  # what was abandoned is older than what is new, so it comes first
        for deliveries, claim in claims:
            for claimed in await claim:
                if claimed is not None:  # Redis 6.2 tells so of what was deleted meanwhile
                    entry, fields = claimed
                    await self._deliver_again(_item(entry, fields, deliveries))

    async def _deliver_again(self, item: QueueItem) -> None:
        options = self._options
        if options.max_deliveries is None or item.deliveries <= options.max_deliveries:
            self._receive([item])
            return
        letter = ("entry", item.entry, "deliveries", item.deliveries - 1, "data", item.data)
        await self._redis.transact(
            ("XADD", options.dead_key, "MAXLEN", "~", options.max_dead, "*", *letter),
            ("XACK", options.key, options.group, item.entry),
            ("XDEL", options.key, item.entry),
        )

    async def _create_group(self) -> None:
        try:
            await self._redis.execute("XGROUP", "CREATE", self._options.key, self._options.group, "0", "MKSTREAM")
        except SourceRefusedError as error:
            if code_of(error) != "BUSYGROUP":  # it is there already
                raise
        self._has_group = True

    async def _prune(self, consumer: str) -> None:
        options = self._options
        idle = math.ceil(options.claim_after * 1000)
        try:
            await self._redis.execute("EVAL", _PRUNE, 1, options.key, options.group, consumer, idle)
        except SourceRefusedError:  # no permission for scripts: then the dead stay listed
            return

    async def _end(self) -> None:
        while self._chores:
            await asyncio.wait(self._chores)
        try:
            if self._held and self._closing.is_set():
                await self._claim(list(self._held), "IDLE", math.ceil(self._options.claim_after * _OVERDUE * 1000))
            if self._has_group:
                await self._prune(self._consumer)
        except (SourceUnavailableError, SourceRefusedError):
            return  # another process removes it


def _item(entry: bytes, fields: Sequence[bytes], deliveries: int) -> QueueItem:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return QueueItem(data=values.get(b"data", b""), entry=entry.decode(), deliveries=deliveries)


def _key(redis: RedisPlugin, kind: str, name: str | None, key: str | None) -> str:
    if (name is None) == (key is None):
        raise InvalidFieldError("name", "give either a name or a key")
    text = check_text("name", name) if key is None else check_text("key", key)
    if not text:
        raise InvalidFieldError("name", "it is empty; give a name")
    return redis.key(kind, text) if key is None else text


def _encode(item: object) -> bytes | str:
    return item if isinstance(item, (bytes, str)) else msgspec.json.encode(item)


async def _write(redis: RedisPlugin, command: Command, key: str, expire: float | None) -> Any:
    if expire is None:
        return await redis.execute(*command)
    return (await redis.transact(command, ("PEXPIRE", key, math.ceil(expire * 1000))))[0]
