"""A queue that is a list in Redis, as any producer can push to: each item goes to one client.

A client that leaves loses no item; a process that is killed loses those it had popped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.config import check_duration
from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources._handover import HandOver
from litestar_safe_sse.sources._tasks import Backoff
from litestar_safe_sse.sources.redis._dispenser import AT_ONCE, RedisDispenser
from litestar_safe_sse.sources.redis._items import encode_item, key_of
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources.redis.connection import Command, RedisAddress

__all__ = ("RedisQueue",)


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
    ) -> None:
        self._redis = RedisPlugin.of(redis)
        self.key = key_of(self._redis, "queue", name, key)
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
            InvalidFieldError: An item can't be sent; none has been.
            SourceUnavailableError: Redis can't be reached; the items may have been appended all the same.
            SourceRefusedError: The key holds something else, or the permission is missing.
        """
        if not items:
            return int(await self._redis.execute("LLEN", self.key))
        command = ("RPUSH", self.key, *(encode_item("item", item) for item in items))
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
        return self._redis.share(key, lambda: _Popper(self._redis, self.key, self._slice, key))


class _Popper(RedisDispenser[bytes]):
    """Pops the items of one list."""

    _NOT_DONE = "may be lost"

    def confirm(self, item: bytes) -> None:
        """There is nothing to do: it has left the list already."""

    async def _fetch(self) -> None:
        popped = await self._link.submit("BLPOP", self._key, self._slice, wait=self._slice)
        if popped is None:
            return
        self._hand_out([popped[1]])
        if wanted := min(self._wanted(), AT_ONCE):
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


async def _write(redis: RedisPlugin, command: Command, key: str, expire: float | None) -> Any:
    if expire is None:
        return await redis.execute(*command)
    return (await redis.transact(command, ("PEXPIRE", key, math.ceil(expire * 1000))))[0]
