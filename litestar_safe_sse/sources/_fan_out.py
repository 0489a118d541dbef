"""The topics of a log that are in use, and the fan-out of their live events.

An event is made a message once for all subscriptions to the same topics, which are an audience: it costs each
subscriber an append.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import asdict
from datetime import datetime
from time import time
from typing import TYPE_CHECKING

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.sources._bell import Bell
from litestar_safe_sse.sources._cursor import Position, cursor, record, tag
from litestar_safe_sse.sources._pages import Pages, with_id
from litestar_safe_sse.sources._stored import FINISHED, SUBSCRIBED
from litestar_safe_sse.sources._subscription import give_turn
from litestar_safe_sse.sources.event_log import Last, Since, Subscribed
from litestar_safe_sse.sources.statistics import EventLogStatistics, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from litestar_safe_sse.sources._pages import Page
    from litestar_safe_sse.sources._stored import Extent, StoredEvent
    from litestar_safe_sse.sources._subscription import Mailbox

__all__ = ("Audience", "FanOut", "LiveTopic")


class LiveTopic:
    """A topic that is in use, and how far its live events have been passed on.

    Args:
        name: The topic.
        position: The place after which its live events are passed on.
        finished: Whether there won't be any.
    """

    __slots__ = ("_moved", "audiences", "finished", "lost", "name", "position", "record", "tag", "users")

    def __init__(self, name: str, position: Position, *, finished: bool = False) -> None:
        self.name = name
        self.finished = finished
        self.tag = tag(name)
        self.users = 0
        self.lost = False
        self.audiences: list[Audience] = []
        self._moved: Bell | None = None
        self.move(position)

    def move(self, position: Position) -> None:
        """Notes that the events up to a place have been passed on."""
        self.position = position
        self.record = record(self.tag, position)
        self.notify()

    def mailboxes(self) -> Iterator[Mailbox]:
        """Yields those of all who receive its events live."""
        for audience in tuple(self.audiences):
            yield from audience.mailboxes()

    def notify(self) -> None:
        """Wakes those who wait until it moves."""
        if self._moved is not None:
            self._moved.ring()

    async def moved(self) -> None:
        """Waits until the position is another, or lost."""
        if self._moved is None:
            self._moved = Bell()
        await self._moved.wait()


class Audience:
    """Everybody who is subscribed to the same topics and receives them live."""

    __slots__ = ("_listed", "_mailboxes", "topics")

    def __init__(self, topics: Sequence[LiveTopic]) -> None:
        self.topics = topics
        self._mailboxes: dict[Mailbox, None] = {}
        self._listed: tuple[Mailbox, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its topics, by which it is known."""
        return tuple(topic.name for topic in self.topics)

    def add(self, mailbox: Mailbox) -> None:
        """Has a mailbox receive the events from now on."""
        self._mailboxes[mailbox] = self._listed = None

    def remove(self, mailbox: Mailbox) -> None:
        """Has a mailbox receive no more."""
        self._mailboxes.pop(mailbox, None)
        self._listed = None

    def __len__(self) -> int:
        return len(self._mailboxes)

    def mailboxes(self) -> tuple[Mailbox, ...]:
        """Returns a copy: a subscription may be let go, by the garbage collector too, while events are passed on."""
        if self._listed is None:
            self._listed = tuple(self._mailboxes)
        return self._listed

    def send(self, topic: str, message: SSEMessage) -> None:
        """Puts one event, with the cursor of all the topics, into every mailbox."""
        message = with_id(message, cursor([topic.record for topic in self.topics]))
        for mailbox in self.mailboxes():
            mailbox.put(topic, message)

    def send_id(self) -> None:
        """Puts the ID of this moment into every mailbox, in an event, unless it is filling: the next one will do."""
        place = cursor([topic.record for topic in self.topics])
        message = SSEMessage(Subscribed([*self.names]), SUBSCRIBED, place)
        for mailbox in self.mailboxes():
            if not mailbox.is_filling:
                mailbox.put_own(message)

    def send_end(self, topic: str, message: SSEMessage) -> None:
        """Puts the last event of a topic into every mailbox, and ends them if there is no other topic."""
        message = with_id(message, cursor([topic.record for topic in self.topics]))
        over = all(topic.finished for topic in self.topics)
        for mailbox in self.mailboxes():
            mailbox.put_own(message, topic)
            if over:
                mailbox.end()


class FanOut(ABC):
    """The topics of a log that are in use in one event loop, each with those who are subscribed to it."""

    def __init__(self) -> None:
        self.topics: dict[str, LiveTopic] = {}
        self._audiences: dict[tuple[str, ...], Audience] = {}
        self._pages = Pages(self.fetch)
        self._subscribers = 0
        self.tally = Tally()

    @abstractmethod
    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """Finds out what is stored of topics; waits while the log can't be reached.

        Args:
            wanted: For each topic the place to ask about.

        Raises:
            SourceRefusedError: The log refuses a topic.
        """

    @abstractmethod
    async def fetch(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """Fetches the next events of a topic after a place, as many as make a page, and none after another place."""

    async def look_once(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """Does as :meth:`look`, without waiting for a log that can't be reached.

        Raises:
            SourceUnavailableError: It can't be reached.
            SourceRefusedError: The log refuses a topic.
        """
        return await self.look(wanted)

    async def fetch_once(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """Does as :meth:`fetch`, without waiting for a log that can't be reached.

        Raises:
            SourceUnavailableError: It can't be reached.
            SourceRefusedError: The log refuses the topic.
        """
        return await self.fetch(topic, after, upto)

    async def find(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """Does as :meth:`look`, and gives up the topics in use whose live events turn out to be of a lost history."""
        passed_on = {topic: topic.position for name in wanted if (topic := self.topics.get(name)) is not None}
        extents = await self.look(wanted)
        for topic, place in passed_on.items():
            if not topic.lost and topic.position is place and extents[topic.name].lacks(place):
                self.lose(topic)  # else it has moved on meanwhile, so it was there
        return extents

    async def since(self, topic: str, extent: Extent, at: float) -> Position:
        """Finds the place before the first event of a time or later, halving what it may be among.

        Args:
            topic: The topic.
            extent: What is stored of it.
            at: Milliseconds since 1970.
        """
        low, high = extent.oldest, extent.newest  # the place is not before one of them, and not after the other
        while low.seq < high.seq:
            middle = (low.seq + high.seq) // 2
            event = await self._event(topic, high.epoch, middle + 1)
            if event is None:  # trimmed in the meantime, and so are those before it
                low = Position(high.epoch, middle + 1, 0)
            elif event.at < at:
                low = event.position
            else:
                high = event.place_before
        return extent.oldest if high.seq <= extent.oldest.seq else high

    async def place(self, topic: str, extent: Extent, start: Last | Since) -> Position:
        """Finds the place where a subscription begins.

        Args:
            topic: The topic.
            extent: What is stored of it.
            start: Where it is to begin.
        """
        if isinstance(start, Last):
            return await self.last(topic, extent, start.events)
        when = start.when  # as numbers: a datetime has no time before the year 1
        at = when.timestamp() if isinstance(when, datetime) else time() - when.total_seconds()
        return await self.since(topic, extent, at * 1000)

    async def last(self, topic: str, extent: Extent, events: int) -> Position:
        """Finds the place before the last events of a topic, whose end is not counted."""
        first = extent.newest.seq - events - extent.finished + 1
        if first <= extent.oldest.seq + 1:
            return extent.oldest
        event = await self._event(topic, extent.newest.epoch, first)
        return extent.oldest if event is None else event.place_before

    async def _event(self, topic: str, epoch: int, seq: int) -> StoredEvent | None:
        found = await self.fetch(topic, Position(epoch, seq - 1, 0), Position(epoch, seq, 0))
        return found[0] if found and found[0].position.seq == seq else None

    @abstractmethod
    def on_use(self, topic: LiveTopic) -> None:
        """Called when a topic comes into use."""

    @abstractmethod
    def on_disuse(self, topic: LiveTopic) -> None:
        """Called when a topic is in use no longer."""

    @abstractmethod
    def hurry(self, topic: LiveTopic) -> None:
        """Called when a topic is known to have more events than have been passed on."""

    async def page(self, topic: str, after: Position, upto: Position) -> Page:
        """Returns the next events of a topic after a place, which may be beyond another; see :meth:`Pages.get`."""
        return await self._pages.get(topic, after, upto)

    def distrust(self, topic: str) -> None:
        """Has what was missed of a topic fetched anew: what was fetched belongs to no history that is stored now."""
        self._pages.forget(topic)

    def statistics(self) -> EventLogStatistics:
        """Returns the log's figures in this event loop."""
        live = [mailbox for audience in self._audiences.values() for mailbox in audience.mailboxes()]
        return EventLogStatistics(
            **{**asdict(self.tally.of_source(self.topics, live)), "subscribers": self._subscribers},
            replaying=max(0, self._subscribers - len(live)),
            replayed=self.tally.replayed,
            appended=self.tally.appended,
        )

    def hold(self, extents: Mapping[str, Extent]) -> list[LiveTopic]:
        """Takes topics into use for a subscription, which has to release them.

        Args:
            extents: What is stored of each topic; from there its live events are passed on, if it is not in use yet.
        """
        held = []
        for name, extent in extents.items():
            topic = self.topics.get(name)
            if topic is None:
                topic = self.topics[name] = LiveTopic(name, extent.newest, finished=extent.finished)
                self.on_use(topic)
            topic.users += 1
            held.append(topic)
        self._subscribers += 1
        return held

    def release(self, topics: Iterable[LiveTopic]) -> None:
        """Ends a subscription's use of topics."""
        self._subscribers -= 1
        for topic in topics:
            topic.users -= 1
            if not topic.users and self.topics.get(topic.name) is topic:
                del self.topics[topic.name]
                self.on_disuse(topic)
        if not self._subscribers:
            self._pages.forget_all()

    def attach(self, topics: Sequence[LiveTopic], mailbox: Mailbox) -> Audience:
        """Has the live events of topics put into a mailbox from now on."""
        names = tuple(topic.name for topic in topics)
        audience = self._audiences.get(names)
        if audience is None:
            audience = self._audiences[names] = Audience(topics)
            for topic in topics:
                topic.audiences.append(audience)
        audience.add(mailbox)
        return audience

    def detach(self, audience: Audience, mailbox: Mailbox) -> None:
        """Has nothing more put into a mailbox."""
        audience.remove(mailbox)
        if not len(audience):
            self._dissolve(audience)

    def publish(self, name: str, event: StoredEvent) -> None:
        """Passes a live event on, or loses the topic if the event does not follow the one before."""
        topic = self.topics.get(name)
        if topic is None:
            return
        place = topic.position
        if event.follows(place):
            topic.move(event.position)
            if event.message.event == FINISHED:
                self._finish(topic, event.message)
                return
            for audience in tuple(topic.audiences):
                audience.send(name, event.message)
        elif event.position.epoch != place.epoch or event.position.seq > place.seq:
            self.lose(topic)

    def _finish(self, topic: LiveTopic, message: SSEMessage) -> None:
        topic.finished = True
        for audience in tuple(topic.audiences):
            audience.send_end(topic.name, message)

    def renew(self, places: Mapping[LiveTopic, Position]) -> None:
        """Moves topics that have had no event to later beginnings, and gives their subscribers IDs that last longer.

        Args:
            places: The beginnings.
        """
        for topic, place in places.items():
            topic.move(place)
        for audience in dict.fromkeys(audience for topic in places for audience in topic.audiences):
            audience.send_id()

    async def give_turn(self, name: str) -> None:
        """Lets those who are subscribed to a topic take its events."""
        topic = self.topics.get(name)
        await give_turn(() if topic is None else topic.mailboxes())

    def lose(self, topic: LiveTopic, error: Exception | None = None) -> None:
        """Gives a topic up; its subscribers look again where they stand, or are given an error."""
        topic.lost = True
        self.distrust(topic.name)
        if self.topics.get(topic.name) is topic:
            del self.topics[topic.name]
            self.on_disuse(topic)
        for audience in tuple(topic.audiences):
            for mailbox in audience.mailboxes():
                # One error for each: a traceback has one home.
                mailbox.end(None if error is None else type(error)(*error.args), lost=error is None)
            self._dissolve(audience)
        topic.notify()

    def _dissolve(self, audience: Audience) -> None:
        for topic in audience.topics:
            with contextlib.suppress(ValueError):
                topic.audiences.remove(audience)
        if self._audiences.get(audience.names) is audience:
            del self._audiences[audience.names]
