"""A queue that is a consumer group in Redis, whose items stay there until they are acknowledged.

So nothing is lost, and an item may come twice.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import msgspec

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_duration, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._handover import HandOver
from litestar_safe_sse.sources.redis._dead_letters import DeadLetters, in_vain
from litestar_safe_sse.sources.redis._dispenser import AT_ONCE, RedisDispenser
from litestar_safe_sse.sources.redis._errors import code_of
from litestar_safe_sse.sources.redis._items import dead_key_of, encode_item, key_of
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources.redis._commands import Command
    from litestar_safe_sse.sources.redis.connection import RedisAddress
    from litestar_safe_sse.sources.statistics import QueueStatistics

__all__ = ("QueueItem", "RedisGroupQueue")

_PAGES = 16
"""Pages of abandoned items that are gone through before new ones are read."""

_OVERDUE = 10
"""Claims come so many times before an item of a living process would look abandoned."""


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
    acknowledged and deleted (``XACK``, ``XDEL``). If its client leaves before, it is released at once; if its stream
    fails on it, or its process is killed, or cut off from Redis, it is claimed after ``claim_after`` seconds.

    One connection per process waits for the items of all streams, which take turns.

    Args:
        redis: A :class:`RedisPlugin`, or what one can be made of.
        name: The queue's name; its key is the plugin's prefix and this.
        key: The stream's key, instead of a name, where others add to it (their entry's field is ``data``).
        group: The consumer group's name. The queue is one queue: entries are deleted when one group is done with them.
        settle: Seconds after an item was handed to the server until it is acknowledged; see ``RedisQueue``.
        slice: Seconds for which Redis is asked to wait at a time, and after which abandoned items are looked for; no
            more than ``claim_after``.
        claim_after: Seconds without a sign of life of its process after which an item counts as abandoned.
        max_deliveries: Deliveries after which an item is moved to the dead letters instead of being delivered once
            more, those to clients that left included; ``None`` for no limit. They are a stream, with the fields
            ``entry``, ``deliveries`` and ``data``.
        dead_key: The key of the dead letters; ``<key>:dead`` unless given.
        max_dead: How many dead letters are kept, approximately.
        expire: Seconds after the last push in which the stream expires; ``None`` for never.

    Raises:
        MissingExtraError: redis-py is not installed.
        InvalidFieldError: An argument can't be used.
    """

    def __init__(
        self,
        redis: RedisPlugin | RedisAddress,
        name: str | None = None,
        *,
        key: str | None = None,
        group: str = "sse",
        settle: float = 0.5,
        slice: float = 1.0,
        claim_after: float = 30.0,
        max_deliveries: int | None = None,
        dead_key: str | None = None,
        max_dead: int = 10_000,
        expire: float | None = None,
    ) -> None:
        self._redis = RedisPlugin.of(redis)
        self.key = key_of(self._redis, "group", name, key)
        self.dead_key = dead_key_of(self.key, dead_key)
        self.group = check_text("group", group)
        if not group:
            raise InvalidFieldError("group", "must be a name, not empty")
        check_duration("settle", settle, zero=True)
        check_duration("slice", slice)
        check_duration("claim_after", claim_after)
        check_duration("expire", expire, optional=True)
        if slice > claim_after:
            raise InvalidFieldError(
                "slice", f"must be at most claim_after ({claim_after} s), or living processes lose their items: {slice}"
            )
        self._settle = settle
        self._expire = expire
        dead = DeadLetters(self.dead_key, max_dead, max_deliveries)
        self._options = _GroupOptions(self.key, self.group, slice, claim_after, dead)

    async def push(self, *items: object) -> None:
        """Appends items to the queue's tail, together.

        Args:
            *items: Text and bytes as they are, anything else as JSON.

        Raises:
            InvalidFieldError: An item can't be sent; none has been.
            SourceUnavailableError: Redis can't be reached; the items may have been appended all the same.
            SourceRefusedError: The key holds something else, or the permission is missing.
        """
        if not items:
            return
        commands: list[Command]
        commands = [("XADD", self.key, "*", "data", encode_item("item", item)) for item in items]
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
            InvalidFieldError: What is given is no stream.
            SourceRefusedError: While iterating: the key holds something else, or the permission is missing.
        """
        if stream is None:
            raise InvalidFieldError(
                "stream", "must be a StreamContext, not None: items are acknowledged when it sends them"
            )
        return HandOver(self._reader, stream, self._settle)

    async def length(self) -> int:
        """How many items wait or are not acknowledged yet."""
        return int(await self._redis.execute("XLEN", self.key))

    def statistics(self) -> QueueStatistics:
        """Returns the queue's figures in this event loop."""
        return self._reader().statistics()

    def _reader(self) -> _GroupReader:
        key = (_GroupReader, self._options)
        return self._redis.share(key, lambda: _GroupReader(self._redis, self._options, key))


class _GroupOptions(msgspec.Struct, frozen=True):
    key: str
    group: str
    slice: float
    claim_after: float
    dead: DeadLetters


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


class _GroupReader(RedisDispenser[QueueItem]):
    """Reads the items of one consumer group, as one consumer."""

    _NOT_DONE = "could not be acknowledged or released, so they come again"

    def __init__(self, redis: RedisPlugin, options: _GroupOptions, share_key: Hashable) -> None:
        super().__init__(redis, options.key, options.slice, share_key)
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
        super().confirm(item)
        self._done.append(item.entry)
        if not self._acknowledging:
            self._acknowledging = True
            self._do(self._acknowledge())

    def _is_busy(self) -> bool:
        return bool(self._wanted() or (self._held and not self._closing.is_set()))

    async def _acknowledge(self) -> None:
        try:
            while self._done:
                entries = list(self._done)[:AT_ONCE]
                await self._remove(entries)
                for entry in entries:
                    self._done.popleft()
                    self._held.pop(entry, None)
        finally:
            self._acknowledging = False
            self._wake.set()

    async def _remove(self, entries: Sequence[str]) -> None:
        """Acknowledges and deletes entries."""
        key, group = self._options.key, self._options.group
        # No transaction: a Redis that is full queues none, and would never have room again.
        delete, acknowledge = ("XDEL", key, *entries), ("XACK", key, group, *entries)
        for reply in await self._insist(partial(self._redis.execute_each, delete, acknowledge)):
            if isinstance(reply, SourceRefusedError):
                raise reply

    async def _give_back(self, items: Sequence[QueueItem]) -> None:
        """Makes the items look abandoned, for whoever wants one to claim."""
        entries = self._let_go(items)
        try:
            await self._insist(partial(self._release, entries))
        except SourceUnavailableError:
            return  # another process will claim them, only later
        if self._wanted():
            await self._link.interrupt()

    async def _release(self, entries: Sequence[str]) -> None:
        self._next_look = 0.0  # commands are sent in order: whoever looks from now on finds them
        await self._claim(entries, "IDLE", math.ceil(self._options.claim_after * _OVERDUE * 1000))

    async def _give_back_failed(self, items: Sequence[QueueItem]) -> None:
        """Leaves the items to be claimed after ``claim_after``, so that others come first."""
        self._let_go(items)
        for item in items:
            if self._options.dead.takes(item.deliveries):
                await self._bury(item, item.deliveries)

    def _let_go(self, items: Sequence[QueueItem]) -> list[str]:
        """Gives no more signs of life for items; returns their entries."""
        for item in items:
            self._held.pop(item.entry, None)
        return [item.entry for item in items]

    async def _bury(self, item: QueueItem, deliveries: int) -> None:
        await self._put_aside(item.entry, deliveries, in_vain(deliveries), "data", item.data)

    async def _put_aside(self, entry: str, deliveries: int, why: str, *fields: str | bytes) -> None:
        """Moves an entry to the dead letters, or leaves it to be claimed if it can't be kept there."""
        known = ("entry", entry, "deliveries", deliveries)
        if await self._options.dead.add(self._send, why, *known, *fields):
            await self._remove([entry])  # only now: a transaction that fails in part is carried out for the rest

    async def _fetch(self) -> None:
        if not self._has_group:
            await self._create_group()
        try:
            await self._look_after_group()
            if wanted := min(self._wanted(), AT_ONCE):
                await self._read(wanted)
            elif self._held:
                await self._pause()
        except SourceRefusedError as error:
            if code_of(error.__cause__) not in ("NOGROUP", "UNBLOCKED"):
                raise
            self._has_group = False  # Redis came back empty, or somebody deleted the key
            self._held.clear()

    async def _pause(self) -> None:
        self._wake.clear()
        with anyio.move_on_after(self._slice):
            await self._wake.wait()

    async def _read(self, wanted: int) -> None:
        options = self._options
        block = max(1, math.ceil(min(options.slice, options.claim_after / 3) * 1000))  # signs of life are not late
        command = ("XREADGROUP", "GROUP", options.group, self._consumer, "COUNT", wanted, "BLOCK", block)
        reply = await self._link.submit(*command, "STREAMS", options.key, ">", wait=options.slice)
        for _, entries in reply or ():
            items = [self._item(entry, fields, 1) for entry, fields in entries]
            self._receive([item for item in items if item is not None])

    def _item(self, entry: bytes, fields: Sequence[bytes], deliveries: int) -> QueueItem | None:
        """Returns the item of an entry; one without goes to the dead letters, with all that it has."""
        values, name = dict(zip(fields[::2], fields[1::2], strict=True)), entry.decode()
        if b"data" in values:
            return QueueItem(data=values[b"data"], entry=name, deliveries=deliveries)
        self._do(self._put_aside(name, deliveries, f"the entry {name} of {self._key!r} has no field 'data'", *fields))
        return None

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
        """Claims what was abandoned, for as long as somebody waits for an item."""
        options = self._options
        idle = max(1, math.ceil(options.claim_after * 1000))
        start = "-"
        for _ in range(_PAGES):
            if not self._wanted():
                return
            command = ("XPENDING", options.key, options.group, "IDLE", idle, start, "+", AT_ONCE)
            pending = await self._redis.execute(*command)
            if not pending:
                return
            start = f"({pending[-1][0].decode()}"
            entries = {entry: count + 1 for entry, _, _, count in pending if entry.decode() not in self._held}
            await self._claim_some(entries, idle)
        self._next_look = 0.0  # there is more; what was abandoned is older than what is new, so it comes first

    async def _claim_some(self, entries: dict[bytes, int], idle: int) -> None:
        """Claims as many entries as are waited for; those that have been deleted don't count.

        Args:
            entries: The entries, with the number of the delivery that this one is.
            idle: Milliseconds for which they have to have been abandoned.
        """
        options, left = self._options, list(entries)
        while left and (wanted := min(self._wanted(), AT_ONCE)):
            asked, left = left[:wanted], left[wanted:]
            reply = await self._redis.execute("XCLAIM", options.key, options.group, self._consumer, idle, *asked)
            claimed = dict(entry for entry in reply if entry is not None)  # Redis 6.2 answers nil for deleted ones
            for entry, fields in claimed.items():
                self._next_look = 0.0
                if (item := self._item(entry, fields, entries[entry])) is not None:
                    await self._deliver_again(item)
            await self._forget_deleted([entry for entry in asked if entry not in claimed])

    async def _forget_deleted(self, entries: Sequence[bytes]) -> None:
        """Acknowledges entries that somebody has deleted, so that they are not looked at again."""
        if not entries:
            return
        options = self._options
        found = await self._redis.execute_each(*(("XRANGE", options.key, entry, entry) for entry in entries))
        if deleted := [entry for entry, there in zip(entries, found, strict=True) if there == []]:
            await self._redis.execute("XACK", options.key, options.group, *deleted)

    async def _deliver_again(self, item: QueueItem) -> None:
        if self._options.dead.takes(item.deliveries - 1):
            await self._bury(item, item.deliveries - 1)
        else:
            self._receive([item])

    async def _create_group(self) -> None:
        try:
            await self._redis.execute("XGROUP", "CREATE", self._options.key, self._options.group, "0", "MKSTREAM")
        except SourceRefusedError as error:
            if code_of(error.__cause__) != "BUSYGROUP":  # it is there already
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
