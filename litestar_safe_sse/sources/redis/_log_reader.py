"""The reader of an event log on Redis: it passes on the events of all topics that are in use in one event loop.

An append publishes its entry to a channel per topic, so an event costs those who listen to it, whatever else is in use.
But a channel promises nothing, and the log does. So what is heard is passed on only if it follows the last event that
was passed on. If it does not, and when a topic comes into use, after an outage, and now and then, the topic is read
from where it is stored. That also finds what was appended by others who do not publish.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._answers import copy_of
from litestar_safe_sse.sources._bell import Bell
from litestar_safe_sse.sources._fan_out import FanOut
from litestar_safe_sse.sources._pages import Sizes
from litestar_safe_sse.sources._subscription import TURN
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn
from litestar_safe_sse.sources.redis._ears import Ears, together
from litestar_safe_sse.sources.redis._entries import Now, new_secret, to_event, to_extent, to_published
from litestar_safe_sse.sources.redis._errors import needs_new_connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from litestar_safe_sse.sources._cursor import Position
    from litestar_safe_sse.sources._fan_out import LiveTopic
    from litestar_safe_sse.sources._lives import Lives
    from litestar_safe_sse.sources._stored import Extent, StoredEvent
    from litestar_safe_sse.sources.redis._appending import Keys
    from litestar_safe_sse.sources.redis._commands import Command
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

    _Wanted = tuple[tuple[str, Position | None], ...]
    _Found = dict[str, Extent | SourceRefusedError] | SourceUnavailableError | SourceRefusedError

__all__ = ("POLL", "LogReader")

T = TypeVar("T")

POLL = 1.0
"""Seconds between two looks for what was appended and not published, by whoever does not do both."""

_EXPLAINED = 1.0
"""Seconds in which it has to be heard why something was published that is not stored."""

_POLLED = 1000
"""Topics that are looked at each time, in turn."""

_CHECKED = 1 / 4
"""What of the time that a topic lasts goes by until it is made sure that it is as it was left."""

_CHECK = 128
"""Topics that are asked about at once."""

_LOOKS = 16
"""Subscriptions that find out at the same time where they begin: the others' time has not begun to run out."""

_BATCH_BYTES = 4 * 1024 * 1024
"""Bytes that may be read at once of all topics that are behind."""

_LONGEST_WRITE_PAUSE = 60.0
"""Seconds, at most, between two attempts to write to a Redis that is a replica."""


class Question:
    """Where to begin, which any number may want to know."""

    def __init__(self, wanted: _Wanted, ask: Callable[[Question], Coroutine[Any, Any, None]]) -> None:
        self.wanted = wanted
        self.waiting = 0
        """How many want to know it."""
        self.answered = Bell()
        self.found: _Found = SourceUnavailableError("what asks Redis where to begin has ended")
        self.task = spawn(ask(self), "SSE event log on Redis: where to begin")


class LogReader(FanOut):
    """One event loop's reader of a log, and what is shared by its subscribers."""

    def __init__(self, redis: RedisPlugin, keys: Keys, lives: Lives) -> None:
        super().__init__()
        self._redis = redis
        self._keys = keys
        self._lives = lives
        self._prefix = keys.topics
        self._may_refresh = True
        self._sizes = Sizes()
        self._check_at = 0.0
        """When it is next made sure, by the loop's clock, that all topics are as they were left."""
        self._reader: asyncio.Task[None] | None = None
        self._looks = anyio.Semaphore(_LOOKS)
        self._to_ask: dict[_Wanted, Question] = {}
        self._asked: set[Question] = set()
        """Those and the ones that have been sent: all that somebody waits for."""
        self._ears = Ears(redis, self._prefix, self)
        self._behind: dict[str, None] = {}
        """The topics of which there is more than has been passed on."""
        self._beyond: dict[str, Position] = {}
        """How far they go at least, as far as that has been heard."""
        self._missing: dict[str, float] = {}
        """Those of which something was heard that is not stored, and since when that has not been explained."""
        self._read_upto: dict[str, Position] = {}
        """How far they were read, so that this may be heard as well."""
        self._doubted: dict[str, None] = {}
        """The topics whose last event may have been lost."""
        self._round: list[str] = []
        """The topics whose turn to be polled is still to come."""
        self._passed_on = 0
        self._passing_on = asyncio.Lock()
        self._write_at = 0.0
        self._write_pause = POLL
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._outage = Outage("the event log", self.tally)

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look`; those who ask the same before it has been sent are given the same answer."""
        self._lives.learn(wanted)
        key = tuple(wanted.items())
        asked = self._to_ask.get(key)
        if asked is None:
            asked = self._to_ask[key] = Question(key, self._look_in_turn)
            self._asked.add(asked)
        asked.waiting += 1
        try:
            await asked.answered.wait()
        finally:
            asked.waiting -= 1
            if not asked.waiting:
                self._ask_no_more(asked)
        found = asked.found
        for extent in found.values() if isinstance(found, dict) else (found,):
            if isinstance(extent, Exception):
                raise copy_of(extent)
        return found  # type: ignore[return-value]

    def _ask_no_more(self, asked: Question) -> None:
        """Takes a question back that has been answered, or that nobody waits for any more."""
        if self._to_ask.get(asked.wanted) is asked:
            del self._to_ask[asked.wanted]
        self._asked.discard(asked)
        asked.task.cancel()

    async def _look_in_turn(self, asked: Question) -> None:
        try:
            async with self._looks:
                del self._to_ask[asked.wanted]  # who asks from now on may have seen what is not in this answer
                asked.found = await self._insist(lambda: self._look(dict(asked.wanted)))
        except (SourceUnavailableError, SourceRefusedError) as error:
            asked.found = error
        finally:
            asked.answered.ring()

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

    async def look_once(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look_once`."""
        self._lives.learn(wanted)
        found: dict[str, Extent] = {}
        for topic, extent in (await self._look(wanted)).items():
            if isinstance(extent, SourceRefusedError):
                raise extent
            found[topic] = extent
        return found

    async def fetch_once(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.fetch_once`."""
        first, last = f"{upto.epoch}-{after.seq + 1}", f"{upto.epoch}-{upto.seq}"
        command = "XRANGE", self._prefix + topic, first, last, "COUNT", self._sizes.page(topic)
        entries = await self._redis.execute(*command)
        self._note_sizes(topic, entries)
        return [to_event(*entry) for entry in entries]

    def _note_sizes(self, topic: str, entries: Iterable[Any]) -> None:
        self._sizes.note(topic, (sum(map(len, fields)) for _, fields in entries))

    def on_use(self, topic: LiveTopic) -> None:
        """Has the reader read a new topic too, at once."""
        if topic.position.seq:
            self._refresh([topic.name])
        self._check_at = min(self._check_at, self._check_again_at(topic.name))
        self._ears.change(topic.name)
        if self._reader is None:
            self._reader = spawn(self._read(), "SSE event log on Redis")

    def on_disuse(self, topic: LiveTopic) -> None:
        """Has the reader let go of a topic."""
        self._explain(topic.name)
        self._read_upto.pop(topic.name, None)
        self._ears.change(topic.name)
        if not self.topics:
            self._wake.set()

    def hurry(self, topic: LiveTopic) -> None:
        """Has the reader look at once what there is of a topic."""
        self.begin(topic.name)

    @property
    def listens(self) -> bool:
        """Whether all that is published to the topics in use is heard, and nothing is left to be read."""
        return self._reader is not None and self._ears.listens and not self._behind

    async def aclose(self) -> None:
        """Ends the reader, and all subscriptions."""
        self._closing.set()
        self._wake.set()
        closed = SourceUnavailableError("the connection to Redis has been closed")
        self._lose_all(closed)
        tasks = [asked.task for asked in self._asked]
        for asked in tuple(self._asked):
            asked.found = closed
            self._ask_no_more(asked)
            asked.answered.ring()
        if self._reader is not None:
            tasks.append(self._reader)
        if tasks:
            await asyncio.wait(tasks)

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again, after pauses, until Redis can be reached."""
        backoff = Backoff()
        while True:
            try:
                return await ask()
            except SourceUnavailableError as error:
                if not self._closing.is_set():
                    self._outage.begin(error)
                    await backoff.wait(self._closing)
                if self._closing.is_set():
                    raise

    async def _look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent | SourceRefusedError]:
        """Looks at topics, by reading alone.

        It is no transaction: a Redis that is full queues none. What is appended meanwhile comes after what is found.
        """
        commands: list[Command] = [("TIME",), ("GET", self._keys.secret)]
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
        now = int(clock[0]) * 1000 + int(clock[1]) // 1000
        found = {topic: entries[3 * number : 3 * number + 3] for number, topic in enumerate(wanted)}
        ends = await self._ends([topic for topic, replies in found.items() if replies[0] == []])
        return {
            topic: _extent(
                topic, wanted[topic], Now(now, secret or b"", self._lives.lasts(topic)), replies, ends.get(topic)
            )
            for topic, replies in found.items()
        }

    async def _ends(self, topics: Sequence[str]) -> dict[str, Any]:
        """Returns where topics ended that have no entries; ``None`` for those that were not finished."""
        if not topics:
            return {}
        ends = await self._redis.execute_each(*[("GET", self._keys.end(topic)) for topic in topics])
        return dict(zip(topics, ends, strict=True))

    async def _make_secret(self) -> bytes | None:
        """Returns the log's secret, made if nobody has appended yet; ``None`` if we may not write."""
        with contextlib.suppress(SourceUnavailableError, SourceRefusedError):
            secret = ("SET", self._keys.secret, new_secret(), "NX")
            return (await self._redis.transact(secret, ("GET", self._keys.secret)))[1]  # type: ignore[no-any-return]
        return None

    def _refresh(self, topics: Iterable[str]) -> None:
        """Keeps topics from expiring that somebody is subscribed to, if we may write."""
        if self._may_refresh:
            for topic in topics:
                refresh = "PEXPIRE", self._prefix + topic, self._lives.lasts(topic)
                self._redis.submit(*refresh).add_done_callback(self._refreshed)

    def _refreshed(self, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and isinstance(reply.exception(), SourceRefusedError):
            self._may_refresh = False

    def _check_again_at(self, topic: str) -> float:
        return asyncio.get_running_loop().time() + self._lives.lasts(topic) / 1000 * _CHECKED

    # What is heard

    def wants(self, topic: str) -> bool:
        """See :meth:`Listener.wants`."""
        return topic in self.topics

    def begin(self, topic: str) -> None:
        """See :meth:`Listener.begin`: what is stored of it is read once, from where its subscribers are."""
        if topic in self.topics:
            self._behind[topic] = None
            self._wake.set()

    async def hear(self, topic: str, payload: bytes) -> None:
        """See :meth:`Listener.hear`: what follows is passed on, and what does not is read from where it is stored."""
        async with self._passing_on:  # or subscribers would be given events from two sides in one turn
            live = self.topics.get(topic)
            if live is None:
                return
            event = to_published(payload)
            if not payload:  # it has been deleted, and so has what was heard before
                self._explain(topic)
                self._doubt(topic)
            elif event is None:
                self.begin(topic)
            elif event.follows(live.position):
                self.publish(topic, event)
                await self._give_turns(topic)
            elif not _is_past(event.position, live.position):
                self._beyond[topic] = event.position
                self.begin(topic)
            elif topic not in self._read_upto or not _is_past(event.position, self._read_upto[topic]):
                self._doubt(topic)  # it was heard before: Redis has lost that one, and this one has its place

    def _doubt(self, topic: str) -> None:
        self._doubted[topic] = None
        self._wake.set()

    def _explain(self, topic: str) -> None:
        """Notes that all that was heard of a topic has been read, or can't be any more."""
        self._beyond.pop(topic, None)
        self._missing.pop(topic, None)

    async def _give_turns(self, topic: str) -> None:
        self._passed_on += 1
        if self._passed_on % TURN == 0:
            await asyncio.sleep(0)  # else what is here already keeps everybody from running
            await self.give_turn(topic)

    # The reader

    async def _read(self) -> None:
        """Reads while there are topics in use, and for a moment after the last one went."""
        backoff = Backoff()
        try:
            while self.topics and not self._closing.is_set():
                self._behind.clear()
                self._beyond.clear()
                self._missing.clear()
                self._read_upto.clear()
                self._doubted.clear()
                try:
                    await together(self._ears.listen(self.topics), self._care(backoff))
                except SourceUnavailableError as error:
                    if not self._closing.is_set():
                        self._outage.begin(error)
                        self._redis.renew()  # or it would be asked elsewhere than is read
                    await backoff.wait(self._closing)
                except SourceRefusedError as error:
                    self._lose_all(error)
        finally:
            self._reader = None  # whoever comes now starts another
            self._lose_all(SourceUnavailableError("the reader of the event log has ended"))

    async def _care(self, backoff: Backoff) -> None:
        """Reads what is not heard: what was appended before, what Redis did not deliver, what was not published."""
        loop = asyncio.get_running_loop()
        self._check_at = poll_at = 0.0
        checked = False
        while not self._closing.is_set():
            self._wake.clear()
            if loop.time() >= self._check_at:
                await self._check(tuple(self.topics.values()))
                checked = True
                self._check_at = min(map(self._check_again_at, self.topics), default=loop.time() + POLL)
            if checked and self._ears.listens:  # commands may be answered where whoever listens is cut off
                checked = False
                self._outage.end()
                backoff.reset()
            if loop.time() >= poll_at:
                if not self.topics:
                    return
                await self._poll()
                poll_at = loop.time() + POLL
            doubted, self._doubted = self._doubted, {}
            await self._check([self.topics[name] for name in doubted if name in self.topics])
            await self._catch_up()
            with anyio.CancelScope(deadline=min(self._check_at, poll_at)):
                await self._wake.wait()

    async def _catch_up(self) -> None:
        """Reads the topics that are behind, some at a time."""
        while self._behind:
            names = self._some_behind()
            asked = {name: self.topics[name] for name in names if name in self.topics}
            commands: list[Command] = [
                ("XRANGE", self._prefix + name, _next(topic.position), "+", "COUNT", self._sizes.page(name))
                for name, topic in asked.items()
            ]
            counts = [command[-1] for command in commands]
            replies = await self._redis.execute_each(*commands) if commands else []
            for topic, count, reply in zip(asked.values(), counts, replies, strict=True):
                if self.topics.get(topic.name) is not topic:
                    continue
                try:
                    async with self._passing_on:
                        await self._pass_on(topic, reply, full=not isinstance(reply, Exception) and len(reply) == count)
                except SourceRefusedError as error:
                    self.lose(topic, _about(topic.name, error))

    def _some_behind(self) -> list[str]:
        names: list[str] = []
        budget = _BATCH_BYTES
        for name in self._behind:
            budget -= self._sizes.page(name) * self._sizes.of(name)
            if names and (budget < 0 or len(names) == _CHECK):
                break
            names.append(name)
        for name in names:
            del self._behind[name]
        return names

    async def _pass_on(self, topic: LiveTopic, reply: Any, *, full: bool) -> None:
        """Passes on what was read of a topic."""
        if isinstance(reply, Exception):
            raise reply
        self._note_sizes(topic.name, reply)
        for entry in reply:
            event = to_event(*entry)
            if not _is_past(event.position, topic.position):  # it may have been heard in the meantime
                self.publish(topic.name, event)
                self._read_upto[topic.name] = event.position
                await self._give_turns(topic.name)
            if self.topics.get(topic.name) is not topic:
                return
        if full:
            self.begin(topic.name)
        beyond = self._beyond.get(topic.name)
        if beyond is None or topic.lost or _is_past(beyond, topic.position):
            self._explain(topic.name)
        elif reply:
            self._missing.pop(topic.name, None)
            self.begin(topic.name)
        else:
            self._miss(topic.name)

    def _miss(self, topic: str) -> None:
        """Looks at a topic again of which nothing is stored that was heard: that it was deleted is heard next."""
        now = asyncio.get_running_loop().time()
        if now - self._missing.setdefault(topic, now) >= _EXPLAINED:
            raise SourceUnavailableError("Redis has published what it has not stored; has it been emptied?")
        self._doubt(topic)

    async def _poll(self) -> None:
        """Looks for what was appended and not published, and whether Redis still is the one to write to."""
        if not self._round:
            self._round = [*self.topics]
        turn, self._round = self._round[-_POLLED:], self._round[:-_POLLED]
        topics = [self.topics[name] for name in turn if name in self.topics]
        if not topics:
            return
        await self._try_to_write(topics[0])
        keys = [self._prefix + topic.name for topic in topics]
        ids = [f"{topic.position.epoch}-{topic.position.seq}" for topic in topics]
        try:
            found = await self._redis.execute("XREAD", "COUNT", 1, "STREAMS", *keys, *ids)
            behind = [bytes(key).decode()[len(self._prefix) :] for key, _ in found or ()]
        except SourceRefusedError:  # for the sake of one of them: each is read by itself
            behind = [topic.name for topic in topics]
        for name in (*behind, *self._missing):
            self.begin(name)

    async def _try_to_write(self, topic: LiveTopic) -> None:
        """Finds out whether Redis has become a replica, whose connections stay, and which may have been left behind."""
        now = asyncio.get_running_loop().time()
        if not self._may_refresh or now < self._write_at:
            return
        try:
            await self._redis.execute("PEXPIRE", self._prefix + topic.name, self._lives.lasts(topic.name))
        except SourceRefusedError:
            self._may_refresh = False
        except SourceUnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, Exception) or not needs_new_connection(cause):
                return  # who reads is not concerned, or the next command will show it
            # It may be meant to be a replica, so this must not be done all the time.
            self._write_at = now + self._write_pause
            self._write_pause = min(2 * self._write_pause, _LONGEST_WRITE_PAUSE)
            raise
        else:
            self._write_pause = POLL

    async def _check(self, topics: Sequence[LiveTopic]) -> None:
        """Makes sure that topics still have the event that was passed on last, and keeps them from expiring."""
        for start in range(0, len(topics), _CHECK):
            places = {topic: topic.position for topic in topics[start : start + _CHECK] if not topic.lost}
            found = await self._look({topic.name: place for topic, place in places.items()})
            renewed: dict[LiveTopic, Position] = {}
            for topic, place in places.items():
                extent = found[topic.name]
                if topic.lost or topic.position is not place:
                    continue  # it has moved on meanwhile, so it was there
                if isinstance(extent, SourceRefusedError):
                    self.lose(topic, extent)
                elif extent.lost is not None:
                    self.lose(topic)
                elif extent.newest.seq == 0:
                    if extent.newest != place:
                        renewed[topic] = extent.newest  # nothing has been appended until now
                elif not extent.newest.is_at(place):
                    self.begin(topic.name)
            self.renew(renewed)
            self._refresh(topic.name for topic in places if topic.position.seq)

    def _lose_all(self, error: Exception) -> None:
        for topic in tuple(self.topics.values()):
            self.lose(topic, error)


def _extent(topic: str, place: Position | None, now: Now, replies: list[Any], end: Any) -> Extent | SourceRefusedError:
    try:
        for reply in (*replies, end):
            if isinstance(reply, Exception):
                raise reply
        first, asked, last = replies
        return to_extent(topic, place, now, first, asked, last, end)
    except SourceRefusedError as error:
        return _about(topic, error)


def _about(topic: str, error: SourceRefusedError) -> SourceRefusedError:
    """Returns an error that names the topic."""
    refusal = SourceRefusedError(f"topic {topic!r}: {error}")
    refusal.__cause__ = error.__cause__
    return refusal


def _next(place: Position) -> str:
    """Returns the least ID that an entry after a place may have."""
    return f"{place.epoch}-{place.seq + 1}"


def _is_past(place: Position, other: Position) -> bool:
    """Returns whether a place is not beyond another one of the same history."""
    return place.epoch == other.epoch and place.seq <= other.seq
