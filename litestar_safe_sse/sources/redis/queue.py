"""A queue that is a list in Redis, as any producer can push to: each item goes to one client.

A client that leaves loses no item; a process that is killed loses those it had popped.
"""

from __future__ import annotations

import logging
import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from litestar_safe_sse.config import check_duration
from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources._handover import HandOver
from litestar_safe_sse.sources.redis._dead_letters import DeadLetters, in_vain
from litestar_safe_sse.sources.redis._dispenser import AT_ONCE, RedisDispenser
from litestar_safe_sse.sources.redis._items import dead_key_of, encode_item, key_of
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources.redis.connection import RedisAddress
    from litestar_safe_sse.sources.statistics import QueueStatistics

__all__ = ("RedisQueue",)

_FAILURES_LAST = 86_400_000
"""Milliseconds after the last failure in which all counts are forgotten."""

_logger = logging.getLogger("litestar_safe_sse")


class RedisQueue:
    """A list in Redis, each item of which goes to one client (``BLPOP``).

    An item whose client leaves before it has been handed to the server, or is found to be gone within ``settle``
    seconds after, goes back to the head of the list. So no item is lost to clients that leave, and one that was
    delivered right before its client left may be delivered again. Lost are the items that a process holds when it is
    killed, or that Redis has popped when its connection breaks: at most one for each stream, and those of the last
    ``settle`` seconds that had not reached their client. Where that is too much, take ``RedisGroupQueue``.

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
        max_deliveries: Streams that may fail (end with the reason ``ERROR``) while they have an item in hand. Until
            then it goes to the tail of the list, after that to the dead letters: a stream (``XADD``) with the fields
            ``deliveries`` and ``data``. ``None`` for no limit.
        dead_key: The key of the dead letters; ``<key>:dead`` unless given.
        max_dead: How many dead letters are kept, approximately.

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
        settle: float = 0.5,
        slice: float = 1.0,
        expire: float | None = None,
        max_deliveries: int | None = 5,
        dead_key: str | None = None,
        max_dead: int = 10_000,
    ) -> None:
        self._redis = RedisPlugin.of(redis)
        self.key = key_of(self._redis, "queue", name, key)
        check_duration("settle", settle, zero=True)
        check_duration("slice", slice)
        check_duration("expire", expire, optional=True)
        self._settle = settle
        self._expire = expire
        self.dead_key = dead_key_of(self.key, dead_key)
        self._options = _ListOptions(self.key, slice, DeadLetters(self.dead_key, max_dead, max_deliveries))

    async def push(self, *items: object) -> int:
        """Appends items to the queue's tail, together.

        Args:
            *items: Text and bytes as they are, anything else as JSON.

        Returns:
            How many items the queue has.

        Raises:
            InvalidFieldError: An item can't be sent; none has been.
            SourceUnavailableError: Redis can't be reached; the items may have been appended all the same.
            SourceRefusedError: The key holds something else, or the permission is missing.
        """
        if not items:
            return int(await self._redis.execute("LLEN", self.key))
        command = ("RPUSH", self.key, *(encode_item("item", item) for item in items))
        return int(await _write(self._redis, command, self.key, self._expire))

    def items(self, stream: StreamContext | None) -> HandOver[bytes]:
        """Returns the items as they come, for one stream: the content of a response, or for a body to iterate over.

        Args:
            stream: The stream that sends them. ``None`` outside of any: an item is done with when it is returned. A
                body that is given none loses the item that it has in hand when its client leaves.

        Returns:
            An async iterator. Asking it for the next item says that the last one has been yielded.

        Raises:
            InvalidFieldError: What is given is neither a stream nor ``None``.
            SourceRefusedError: While iterating: the key holds something else, or the permission is missing.
        """
        return HandOver(self._popper, stream, self._settle)

    async def length(self) -> int:
        """Returns how many items wait in the list."""
        return int(await self._redis.execute("LLEN", self.key))

    def statistics(self) -> QueueStatistics:
        """Returns the queue's figures in this event loop."""
        return self._popper().statistics()

    def _popper(self) -> _Popper:
        key = (_Popper, self._options)
        return self._redis.share(key, lambda: _Popper(self._redis, self._options, key))


class _ListOptions(msgspec.Struct, frozen=True):
    key: str
    slice: float
    dead: DeadLetters


class _Popper(RedisDispenser[bytes]):
    """Pops the items of one list."""

    _NOT_DONE = "may be lost"

    def __init__(self, redis: RedisPlugin, options: _ListOptions, share_key: Hashable) -> None:
        super().__init__(redis, options.key, options.slice, share_key)
        self._dead = options.dead
        self._failures_key = f"{options.key}:failures"

    async def _fetch(self) -> None:
        popped = await self._link.submit("BLPOP", self._key, self._slice, wait=self._slice)
        if popped is None:
            return
        self._hand_out([popped[1]])
        if wanted := min(self._wanted(), AT_ONCE):
            self._hand_out(await self._link.submit("LPOP", self._key, wanted) or [])

    async def _give_back(self, items: Sequence[bytes]) -> None:
        await self._send("LPUSH", self._key, *reversed(items))

    async def _give_back_failed(self, items: Sequence[bytes]) -> None:
        for item in items:
            failures = await self._count_failure(item)
            fields = ("deliveries", failures, "data", item)
            if not self._dead.takes(failures) or not await self._dead.add(self._send, in_vain(failures), *fields):
                await self._send("RPUSH", self._key, item)  # the tail: it must not keep those behind it from anybody

    async def _count_failure(self, item: bytes) -> int:
        """Returns how many streams have failed that had an item in hand."""
        if self._dead.max_deliveries is None:
            return 1
        name = blake2b(item, digest_size=16).hexdigest()
        count = ("HINCRBY", self._failures_key, name, 1), ("PEXPIRE", self._failures_key, _FAILURES_LAST)
        try:
            return int((await self._insist(lambda: self._redis.transact(*count)))[0])
        except SourceRefusedError as error:
            _logger.warning("what streams of %r fail on can't be counted: %s", self._key, error)
            return 1


async def _write(redis: RedisPlugin, command: tuple[str | bytes | float, ...], key: str, expire: float | None) -> Any:
    if expire is None:
        return await redis.execute(*command)
    return (await redis.transact(command, ("PEXPIRE", key, math.ceil(expire * 1000))))[0]
