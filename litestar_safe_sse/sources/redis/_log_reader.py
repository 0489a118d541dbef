"""The reader of an event log on Redis: it waits for the events of all topics that are in use in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._fan_out import FanOut
from litestar_safe_sse.sources._pages import Sizes
from litestar_safe_sse.sources._subscription import TURN
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn
from litestar_safe_sse.sources.redis._entries import Now, new_secret, to_event, to_extent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from litestar_safe_sse.sources._cursor import Position
    from litestar_safe_sse.sources._fan_out import LiveTopic
    from litestar_safe_sse.sources._stored import Extent, StoredEvent
    from litestar_safe_sse.sources.redis._link import RedisLink
    from litestar_safe_sse.sources.redis.connection import Command
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("SLICE", "LogReader", "secret_key")

T = TypeVar("T")

SLICE = 1.0
"""Seconds that Redis waits for an event before it answers that there is none: https://redis.io/commands/xread/"""

_BATCH = 200
"""Entries of a topic that are read at once."""

_CHECK = 128
"""Topics that are looked at by one transaction."""


class LogReader(FanOut):
    """One event loop's reader of a log, and what is shared by its subscribers."""

    def __init__(self, redis: RedisPlugin, name: str, expire: int) -> None:
        super().__init__()
        self._redis = redis
        self._prefix = redis.key(name, "")
        self._secret_key = secret_key(redis, name)
        self._may_refresh = True
        self._sizes = Sizes()
        self._expire = expire
        self._reader: asyncio.Task[None] | None = None
        self._link: RedisLink | None = None
        """The reader's connection, while it waits."""
        self._interrupt: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._outage = Outage("the event log")

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look`."""
        found = await self._insist(lambda: self._look(wanted))
        for extent in found.values():
            if isinstance(extent, SourceRefusedError):
                raise extent
        return found  # type: ignore[return-value]

    async def fetch(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.fetch`; what takes longer than Redis is given is asked for in smaller parts."""
        first, last = f"{upto.epoch}-{after.seq + 1}", f"{upto.epoch}-{upto.seq}"
        many = 2 * self._sizes.page(topic)

        async def ask() -> list[Any]:
            nonlocal many
            many = max(1, many // 2)
            command = ("XRANGE", self._prefix + topic, first, last, "COUNT", many)
            return await self._redis.execute(*command)  # type: ignore[no-any-return]

        entries = await self._insist(ask)
        self._note_sizes(topic, entries)
        return [to_event(*entry) for entry in entries]

    def _note_sizes(self, topic: str, entries: Iterable[Any]) -> None:
        self._sizes.note(topic, (sum(map(len, fields)) for _, fields in entries))

    def on_use(self, topic: LiveTopic) -> None:
        """Has the reader read a new topic too, at once."""
        if topic.position.seq:
            self._refresh([topic.name])
        if self._reader is None:
            self._reader = spawn(self._read(), "SSE event log on Redis")
        elif self._link is not None and self._interrupt is None:
            self._interrupt = spawn(self._link.interrupt(), "SSE event log on Redis: a new topic")

    def on_disuse(self, topic: LiveTopic) -> None:
        """Does nothing: the next time it waits, the reader waits for the topics in use."""

    def hurry(self, topic: LiveTopic) -> None:
        """Does nothing: the reader is on its way."""

    async def aclose(self) -> None:
        """Ends the reader, and all subscriptions."""
        self._closing.set()
        self._lose_all(SourceUnavailableError("the connection to Redis has been closed"))
        if self._link is not None:
            await self._link.interrupt()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again, after pauses, until Redis can be reached."""
        backoff = Backoff()
        while True:
            try:
                return await ask()
            except SourceUnavailableError as error:
                if self._closing.is_set():
                    raise
                self._outage.begin(error)
                await backoff.wait(self._closing)

    async def _look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent | SourceRefusedError]:
        """Looks at topics, by reading alone.

        It is no transaction: a Redis that is full queues none. What is appended meanwhile comes after what is found.
        """
        commands: list[Command] = [("TIME",), ("GET", self._secret_key)]
        for topic, place in wanted.items():
            key = self._prefix + topic
            at = "0-0" if place is None else f"{place.epoch}-{place.seq}"
            commands += [("XRANGE", key, "-", "+", "COUNT", 1), ("XRANGE", key, at, at)]
            commands.append(("XREVRANGE", key, "+", "-", "COUNT", 1))
        clock, secret, *entries = await self._redis.execute_each(*commands)
        for reply in (clock, secret):
            if isinstance(reply, Exception):
                raise reply
        if secret is None:
            secret = await self._make_secret()
        for number, topic in enumerate(wanted):
            for reply in entries[3 * number : 3 * number + 3]:
                if not isinstance(reply, Exception):
                    self._note_sizes(topic, reply)
        now = Now(int(clock[0]) * 1000 + int(clock[1]) // 1000, secret or b"", self._expire)
        return {
            topic: _extent(topic, place, now, entries[3 * number : 3 * number + 3])
            for number, (topic, place) in enumerate(wanted.items())
        }

    async def _make_secret(self) -> bytes | None:
        """Returns the log's secret, made if nobody has appended yet; ``None`` if we may not write."""
        with contextlib.suppress(SourceUnavailableError, SourceRefusedError):
            secret = ("SET", self._secret_key, new_secret(), "NX")
            return (await self._redis.transact(secret, ("GET", self._secret_key)))[1]  # type: ignore[no-any-return]
        return None

    def _refresh(self, topics: Iterable[str]) -> None:
        """Keeps topics from expiring that somebody is subscribed to, if we may write."""
        if self._may_refresh:
            for topic in topics:
                self._redis.submit("PEXPIRE", self._prefix + topic, self._expire).add_done_callback(self._refreshed)

    def _refreshed(self, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and isinstance(reply.exception(), SourceRefusedError):
            self._may_refresh = False

    # The reader

    async def _read(self) -> None:
        """Reads while there are topics in use, and for the rest of the slice in which the last one went."""
        link = self._redis.link()
        backoff = Backoff()
        check_at = 0.0
        refused: SourceRefusedError | None = None
        try:
            while self.topics and not self._closing.is_set():
                try:
                    if monotonic() >= check_at:
                        await link.submit("PING")  # connected, it can be interrupted
                        await self._check(refused)
                        check_at = monotonic() + self._expire / 3000
                        refused = None
                    else:
                        await self._pass_on(await self._wait(link))
                    self._outage.end()
                    backoff.reset()
                except SourceUnavailableError as error:
                    if not self._closing.is_set():
                        self._outage.begin(error)
                        self._redis.renew()  # or it would be asked elsewhere than is read
                    check_at = 0.0  # whatever has happened to Redis may have happened to what is stored
                    await backoff.wait(self._closing)
                except SourceRefusedError as error:
                    refused = error
                    check_at = 0.0
        finally:
            self._reader = None  # whoever comes now starts another
            self._stop_interrupt()
            self._lose_all(SourceUnavailableError("the reader of the event log has ended"))
            await link.aclose()

    async def _wait(self, link: RedisLink) -> Any:
        """Waits for entries of the topics in use: https://redis.io/commands/xread/"""
        keys = [self._prefix + topic for topic in self.topics]
        ids = [f"{topic.position.epoch}-{topic.position.seq}" for topic in self.topics.values()]
        self._stop_interrupt()
        self._link = link
        block = min(round(SLICE * 1000), self._expire // 3)
        try:
            return await link.submit("XREAD", "COUNT", _BATCH, "BLOCK", block, "STREAMS", *keys, *ids, wait=SLICE)
        finally:
            self._link = None

    async def _pass_on(self, reply: Any) -> None:
        passed_on = 0
        for key, entries in reply or ():
            topic = bytes(key).decode()[len(self._prefix) :]
            for entry in entries:
                self.publish(topic, to_event(*entry))
                passed_on += 1
                if passed_on % TURN == 0:
                    await asyncio.sleep(0)  # else replies that are here already keep everybody from running
                    await self.give_turn(topic)

    async def _check(self, refused: SourceRefusedError | None) -> None:
        """Makes sure that every topic still has the event that was passed on last, and keeps it from expiring.

        Args:
            refused: Why the topics can't be read. One of them may have had the reading of all refused; if none has,
                everyone is given it.
        """
        topics = tuple(self.topics.values())
        try:
            for start in range(0, len(topics), _CHECK):
                part = {topic.name: topic for topic in topics[start : start + _CHECK]}
                found = await self._look({name: topic.position for name, topic in part.items()})
                for name, extent in found.items():
                    if isinstance(extent, SourceRefusedError):
                        self.lose(part[name], extent)
                    elif extent.lost is not None:
                        self.lose(part[name])
                    elif extent.newest.seq == 0:
                        part[name].move(extent.newest)  # nothing has been appended until now
                self._refresh(name for name, topic in part.items() if topic.position.seq)
        except SourceRefusedError as error:
            refused = error
        if refused is not None and not any(topic.lost for topic in topics):
            self._lose_all(refused)

    def _lose_all(self, error: Exception) -> None:
        for topic in tuple(self.topics.values()):
            self.lose(topic, error)

    def _stop_interrupt(self) -> None:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt.cancel()


def secret_key(redis: RedisPlugin, name: str) -> str:
    """Returns the key of a log's secret."""
    return redis.key(f"{name}.secret")


def _extent(topic: str, place: Position | None, now: Now, replies: list[Any]) -> Extent | SourceRefusedError:
    try:
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return to_extent(topic, place, now, *replies)
    except SourceRefusedError as error:
        refusal = SourceRefusedError(f"topic {topic!r}: {error}")
        refusal.__cause__ = error.__cause__
        return refusal
