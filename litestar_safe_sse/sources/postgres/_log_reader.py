"""The reader of an event log in PostgreSQL: it passes on the events of all topics that are in use in one event loop.

One connection listens, and is told of each event that is committed: its topic and its place, whatever the number of
subscribers. The events themselves are read from the table, those of all topics that are behind by one query. A topic
that comes into use is read once, and after an outage all of them are.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._answers import copy_of, fail
from litestar_safe_sse.sources._fan_out import FanOut
from litestar_safe_sse.sources._pages import Sizes, size_of
from litestar_safe_sse.sources._subscription import TURN
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn
from litestar_safe_sse.sources.postgres import _asyncpg
from litestar_safe_sse.sources.postgres._errors import CLOSED, translate
from litestar_safe_sse.sources.postgres._rows import RENEWED, to_event, to_extent
from litestar_safe_sse.sources.postgres.connections import PostgresConnections, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from asyncpg import Connection, Record

    from litestar_safe_sse.sources._cursor import Position
    from litestar_safe_sse.sources._fan_out import LiveTopic
    from litestar_safe_sse.sources._lives import Lives
    from litestar_safe_sse.sources._stored import Extent, StoredEvent
    from litestar_safe_sse.sources.postgres._rows import Queries
    from litestar_safe_sse.sources.postgres.connections import Connector

    Asked = tuple[dict[str, Position | None], asyncio.Future[dict[str, Extent]]]

__all__ = ("LogReader",)

T = TypeVar("T")

_HEARTBEAT = 10.0
"""Seconds after which PostgreSQL is asked for a sign of life by who listens."""

_LINGER = 1.0
"""Seconds that the connection is kept when nobody is subscribed."""

_READS = 2
"""Connections that read."""

_AT_ONCE = 128
"""Topics that are read, or asked about, by one query."""

_BATCH_BYTES = 4 * 1024 * 1024
"""Bytes that may be read at once of all topics that are behind."""

_LONGEST_CHECK = 60.0
"""Seconds, at most, between two looks for topics that have expired."""


class LogReader(FanOut):
    """One event loop's reader of a log, and what is shared by its subscribers.

    Args:
        connector: Where connections come from.
        name: The channel that is listened to.
        queries: What is asked.
        lives: How long topics last.
    """

    def __init__(self, connector: Connector, name: str, queries: Queries, lives: Lives) -> None:
        super().__init__()
        self._connector = connector
        self._name = name
        self._queries = queries
        self._lives = lives
        self._reads = PostgresConnections(connector, _READS)
        self._sizes = Sizes()
        self._reader: asyncio.Task[None] | None = None
        self._asked: dict[asyncio.Future[dict[str, Extent]], dict[str, Position | None]] = {}
        """Who wants to know where to begin, and has not been told yet."""
        self._looking: asyncio.Task[None] | None = None
        self._behind: dict[str, None] = {}
        """The topics of which there is more than has been passed on."""
        self._doubted: dict[str, None] = {}
        """The topics whose last event may have been lost."""
        self._ahead = 0.0
        """Milliseconds by which PostgreSQL's clock is ahead of the loop's."""
        self._passed_on = 0
        self._listening = False
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._outage = Outage("the event log", self.tally, "PostgreSQL")

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look`; those who ask at the same time are answered by one query."""
        self._lives.learn(wanted)
        asked: asyncio.Future[dict[str, Extent]] = asyncio.get_running_loop().create_future()
        self._asked[asked] = dict(wanted)
        if self._looking is None:
            self._looking = spawn(self._look_for_all(), "SSE event log in PostgreSQL: where to begin")
        try:
            return await asked
        finally:
            self._asked.pop(asked, None)  # who has left is not asked for

    async def fetch(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.fetch`; what takes longer than PostgreSQL is given is asked for in smaller parts."""
        many = 2 * self._sizes.page(topic)

        def ask() -> Awaitable[list[Record]]:
            nonlocal many
            many = max(1, many // 2)
            return self._reads.submit(self._queries.fetch, topic, upto.epoch, after.seq, upto.seq, many)

        events = [to_event(row) for row in await self._insist(ask)]
        self._note_sizes(topic, events)
        return events

    async def look_once(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look_once`."""
        self._lives.learn(wanted)
        return {topic: extent for (topic, _), extent in (await self._look([*wanted.items()])).items()}

    async def fetch_once(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.fetch_once`."""
        page = self._sizes.page(topic)
        rows = await self._reads.submit(self._queries.fetch, topic, upto.epoch, after.seq, upto.seq, page)
        events = [to_event(row) for row in rows]
        self._note_sizes(topic, events)
        return events

    def _note_sizes(self, topic: str, events: Iterable[StoredEvent]) -> None:
        self._sizes.note(topic, (size_of(event.message) for event in events))

    def on_use(self, topic: LiveTopic) -> None:
        """Has a new topic read once: what came since it was looked at was heard by nobody."""
        self._begin(topic.name)
        if self._reader is None:
            self._reader = spawn(self._read(), "SSE event log in PostgreSQL")

    def on_disuse(self, topic: LiveTopic) -> None:
        """Has the reader notice that nothing may be in use any more."""
        if not self.topics:
            self._wake.set()

    def hurry(self, topic: LiveTopic) -> None:
        """Has the reader look at once what there is of a topic."""
        self._begin(topic.name)

    @property
    def listens(self) -> bool:
        """Whether all that is appended to the topics in use is heard, and nothing is left to be read."""
        return self._listening and not self._behind

    async def aclose(self) -> None:
        """Ends the reader, and all subscriptions."""
        self._closing.set()
        self._wake.set()
        self._lose_all(SourceUnavailableError(CLOSED))
        for task in (self._reader, self._looking):
            if task is not None:
                await asyncio.wait([task])
        await self._reads.aclose()

    def abort(self) -> None:
        """Closes the connections without waiting for answers."""
        self._reads.abort()
        for task in (self._reader, self._looking):
            if task is not None:
                task.cancel()

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again, after pauses, until PostgreSQL can be reached."""
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

    # Where to begin

    async def _look_for_all(self) -> None:
        asked: list[Asked] = []
        try:
            while self._asked:
                asked = [(self._asked.pop(answer), answer) for answer in [*islice(self._asked, _AT_ONCE)]]
                await self._answer([(wanted, answer) for wanted, answer in asked if not answer.cancelled()])
        finally:
            self._looking = None
            for answer in (*(answer for _, answer in asked), *self._asked):  # if it has been told to end
                fail(answer, SourceUnavailableError(CLOSED))

    async def _answer(self, asked: Sequence[Asked]) -> None:
        """Answers all by one query, or, if that can't be, each by one of its own: none fails for another's sake."""
        try:
            found = await self._find(asked)
        except SourceUnavailableError as error:  # the log is being closed
            for _, answer in asked:
                fail(answer, copy_of(error))
        except Exception as error:
            if len(asked) == 1:
                fail(asked[0][1], error)
            else:
                for one in asked:
                    await self._answer([one])
        else:
            for wanted, answer in asked:
                if not answer.done():
                    answer.set_result({topic: found[topic, place] for topic, place in wanted.items()})

    async def _find(self, asked: Iterable[Asked]) -> dict[tuple[str, Position | None], Extent]:
        pairs = [*dict.fromkeys(pair for wanted, _ in asked for pair in wanted.items())]
        return await self._insist(lambda: self._look(pairs))

    async def _look(self, pairs: Sequence[tuple[str, Position | None]]) -> dict[tuple[str, Position | None], Extent]:
        topics, places = [topic for topic, _ in pairs], [0 if place is None else place.seq for _, place in pairs]
        rows = await self._reads.submit(self._queries.look, topics, places)
        for row in rows[:1]:
            self._ahead = row["now"] - 1000 * asyncio.get_running_loop().time()
        return {pair: to_extent(*pair, row, self._lives.lasts(pair[0])) for pair, row in zip(pairs, rows, strict=True)}

    # What is heard

    def _begin(self, topic: str) -> None:
        if topic in self.topics:
            self._behind[topic] = None
            self._wake.set()

    def _hear(self, payload: str) -> None:
        """Notes that there is an event."""
        *numbers, topic = payload.split(" ", 3)
        live = self.topics.get(topic)
        if live is None:
            return
        try:
            epoch, seq, nonce = map(int, numbers)
        except ValueError:  # somebody else's: a channel is anybody's
            return
        place = live.position
        if epoch == place.epoch and seq <= place.seq:
            if seq < place.seq or nonce == place.nonce:
                return  # it was read with others
        elif not place.seq or epoch == place.epoch:
            self._begin(topic)
            return
        self._doubted[topic] = None
        self._wake.set()

    # The reader

    async def _read(self) -> None:
        """Reads while there are topics in use, and for a moment after the last one went."""
        backoff = Backoff()
        try:
            while self.topics and not self._closing.is_set():
                try:
                    await self._listen(backoff)
                except SourceUnavailableError as error:
                    if not self._closing.is_set():
                        self._outage.begin(error)
                    await backoff.wait(self._closing)
                except SourceRefusedError as error:
                    self._lose_all(error)
        finally:
            self._reader = None  # whoever comes now starts another
            self._lose_all(SourceUnavailableError("the reader of the event log has ended"))

    async def _listen(self, backoff: Backoff) -> None:
        connection = await self._connector.open()
        try:
            connection.add_termination_listener(lambda _: self._wake.set())
            listening = connection.add_listener(self._name, lambda *heard: self._hear(str(heard[-1])))
            await within(self._connector.reply_timeout, connection, listening)
            self._listening = True
            await self._care(connection, backoff)
        except _asyncpg.ERRORS as error:
            raise translate(error) from error
        finally:
            self._listening = False
            connection.terminate()

    async def _care(self, connection: Connection[Any], backoff: Backoff) -> None:
        """Reads what there is to be read, as long as the connection is there that listens."""
        loop = asyncio.get_running_loop()
        self._doubted.update(dict.fromkeys(self.topics))  # whatever was lost in the meantime
        refresh_at = 0.0
        while not self._closing.is_set():
            self._wake.clear()
            if connection.is_closed():
                raise SourceUnavailableError("the connection to PostgreSQL is lost")
            doubted, self._doubted = self._doubted, {}
            await self._check([self.topics[name] for name in doubted if name in self.topics])
            await self._catch_up()
            if loop.time() >= refresh_at:
                await self._refresh()
                await self._renew()
                lasts = min(map(self._lives.lasts, self.topics), default=0)
                refresh_at = loop.time() + min(_LONGEST_CHECK, max(lasts, 1000) / 4000)
            self._outage.end()
            backoff.reset()
            pause = min(_HEARTBEAT, refresh_at - loop.time()) if self.topics else _LINGER
            with anyio.move_on_after(pause) as quiet:
                await self._wake.wait()
            if quiet.cancelled_caught:
                if not self.topics:
                    return
                await within(self._connector.reply_timeout, connection, connection.execute("SELECT 1"))

    async def _check(self, topics: Sequence[LiveTopic]) -> None:
        """Makes sure that topics still have the event that was passed on last, and finds out whether there are more."""
        for start in range(0, len(topics), _AT_ONCE):
            places = {topic: topic.position for topic in topics[start : start + _AT_ONCE] if not topic.lost}
            found = await self._look([(topic.name, place) for topic, place in places.items()])
            for topic, place in places.items():
                extent = found[topic.name, place]
                if topic.lost or topic.position is not place:
                    continue  # it has moved on meanwhile, so it was there
                if extent.lost is not None:
                    self.lose(topic)
                elif not extent.newest.is_at(place):
                    self._begin(topic.name)

    async def _catch_up(self) -> None:
        """Reads the topics that are behind, some at a time."""
        while self._behind:
            asked = {name: self.topics[name] for name in self._some_behind() if name in self.topics}
            if not asked:
                continue
            pages = [self._sizes.page(name) for name in asked]
            places = [topic.position.seq for topic in asked.values()]
            rows = await self._reads.submit(self._queries.catch_up, [*asked], places, pages)
            found: dict[str, list[StoredEvent]] = {name: [] for name in asked}
            for row in rows:
                found[row["topic"]].append(to_event(row))
            for topic, page in zip(asked.values(), pages, strict=True):
                await self._pass_on(topic, found[topic.name], full=len(found[topic.name]) == page)

    def _some_behind(self) -> list[str]:
        names: list[str] = []
        budget = _BATCH_BYTES
        for name in self._behind:
            budget -= self._sizes.page(name) * self._sizes.of(name)
            if names and (budget < 0 or len(names) == _AT_ONCE):
                break
            names.append(name)
        for name in names:
            del self._behind[name]
        return names

    async def _pass_on(self, topic: LiveTopic, events: Sequence[StoredEvent], *, full: bool) -> None:
        self._note_sizes(topic.name, events)
        for event in events:
            if self.topics.get(topic.name) is not topic:
                return
            self.publish(topic.name, event)
            self._passed_on += 1
            if self._passed_on % TURN == 0:
                await asyncio.sleep(0)  # else what is here already keeps everybody from running
                await self.give_turn(topic.name)
        if full:
            self._begin(topic.name)

    async def _refresh(self) -> None:
        """Keeps topics from expiring that somebody is subscribed to, and removes those that have."""
        try:
            names = [*self.topics]
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                await self._reads.submit(self._queries.refresh, some, [*map(self._lives.lasts, some)])
            for query in self._queries.clean_up:
                await self._reads.submit(query)
        except SourceRefusedError:  # we may not write, or have been asked to hurry: somebody else does it
            return

    async def _renew(self) -> None:
        """Renews the beginnings of topics to which nothing has been appended: what would have been, has been heard."""
        now = self._ahead + 1000 * asyncio.get_running_loop().time()
        silent = [topic for topic in self.topics.values() if not topic.position.seq]
        old = [topic for topic in silent if now - topic.position.epoch >= self._lives.lasts(topic.name) / RENEWED]
        for start in range(0, len(old), _AT_ONCE):
            places = {topic: topic.position for topic in old[start : start + _AT_ONCE]}
            found = await self._look([(topic.name, None) for topic in places])
            renewed = {topic: found[topic.name, None].newest for topic in places}
            still = [topic for topic, place in places.items() if topic.position is place and not renewed[topic].seq]
            self.renew({topic: renewed[topic] for topic in still})

    def _lose_all(self, error: Exception) -> None:
        for topic in tuple(self.topics.values()):
            self.lose(topic, error)
