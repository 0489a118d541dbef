"""An event log in the memory of one process."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_duration, check_function, check_integer
from litestar_safe_sse.exceptions import TopicFinishedError
from litestar_safe_sse.sources._cursor import Position, cursor, record, seal, tag
from litestar_safe_sse.sources._door import Door
from litestar_safe_sse.sources._fan_out import FanOut
from litestar_safe_sse.sources._fan_out_log import FanOutLog
from litestar_safe_sse.sources._lives import FORGET_KEYS_AFTER, ask, check_forget_keys_after
from litestar_safe_sse.sources._pacer import Pacer
from litestar_safe_sse.sources._pages import Sizes, size_of
from litestar_safe_sse.sources._presence import Attendance
from litestar_safe_sse.sources._stored import (
    REMEMBERED,
    Extent,
    Renderer,
    StoredEvent,
    check_key,
    check_topic,
    end_of,
    why_lost,
)
from litestar_safe_sse.sources._subscription import TURN

if TYPE_CHECKING:
    from litestar_safe_sse.sources._door import Authorize
    from litestar_safe_sse.sources._fan_out import LiveTopic
    from litestar_safe_sse.sources._presence import Who
    from litestar_safe_sse.sources.event_log import HistoryOf

__all__ = ("MemoryEventLog",)

_KEYS = 100_000
"""Idempotency keys that are known at most."""


class MemoryEventLog(FanOutLog):
    """An event log for one process, on asyncio or trio: the embedded default.

    Its events end with the process. A client that comes back to another process, or after a restart, is sent a reset.
    A log is used by one event loop, and waits for nothing.

    Args:
        max_events: Events kept of each topic.
        max_age: Seconds for which an event is kept; ``None`` for no limit.
        max_topics: Topics kept; beyond it those that nobody subscribes to are dropped, the one that was idle for
            longest first.
        max_bytes: Bytes that one event may have.
        history: A function that returns what is kept of a topic, where that is something else.
        forget_keys_after: Seconds after which an idempotency key is forgotten; earlier, if it is none of the last
            100,000.
        authorize: An async function of the connection and the topics, asked when a stream subscribes. If it raises, or
            returns ``False``, the stream is refused.
        presence: A function of the connection that returns who it is, or ``None`` for one without a name: then
            :meth:`~EventLog.presence` tells who is subscribed.
        enc_hook: Makes something that msgspec encodes of an object that it doesn't; Litestar's own unless given.

    Raises:
        InvalidFieldError: An argument can't be used.
    """

    def __init__(
        self,
        *,
        max_events: int = 1000,
        max_age: float | None = 3600.0,
        max_topics: int = 10_000,
        max_bytes: int = 1024 * 1024,
        history: HistoryOf | None = None,
        forget_keys_after: float = FORGET_KEYS_AFTER,
        authorize: Authorize | None = None,
        presence: Who | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        check_integer("max_events", max_events, minimum=1)
        check_duration("max_age", max_age, optional=True)
        check_integer("max_topics", max_topics, minimum=1)
        check_integer("max_bytes", max_bytes, minimum=1)
        check_forget_keys_after(forget_keys_after)
        check_function("history", history)
        self._door = Door(authorize, presence)
        self._present = Attendance()
        self._turn = 0
        self._renderer = Renderer(max_bytes, enc_hook)
        kept = Kept(max_events, float("inf") if max_age is None else max_age, history)
        self._memory = MemoryTopics(kept, max_topics, Keys(forget_keys_after))

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`; nothing here can fail but the arguments.

        Now and then it lets the subscribers run: to append many in a loop is no reason for one to be called slow.
        """
        check_topic(topic)
        rendered = self._renderer.render(message)
        place = self._memory.append(topic, rendered, check_key(idempotency_key))
        self._memory.tally.appended += 1
        self._turn = (self._turn + 1) % TURN
        if not self._turn and topic in self._memory.topics:
            await self._memory.give_turn(topic)
        return cursor([record(tag(topic), place)])

    async def append_many(
        self, topic: str, messages: Iterable[object], *, idempotency_key: str | None = None
    ) -> list[str]:
        """See :meth:`EventLog.append_many`.

        The subscribers are sent them at a pace at which one who reads can take them, and this returns then; to cancel
        it takes none from them.
        """
        check_topic(topic)
        rendered = self._renderer.render_all(messages)
        key = check_key(idempotency_key)
        places = self._memory.append_many(topic, rendered, key) if rendered else ()
        self._memory.tally.appended += len(places)
        if places:
            await self._memory.passed_on(topic, places[-1])
        return [cursor([record(tag(topic), place)]) for place in places]

    async def finish(self, topic: str) -> str:
        """See :meth:`EventLog.finish`."""
        place = self._memory.finish(check_topic(topic))
        self._memory.tally.appended += 1
        return cursor([record(tag(topic), place)])

    async def delete(self, topic: str) -> None:
        """See :meth:`EventLog.delete`."""
        self._memory.delete(check_topic(topic))

    def _fan_out(self) -> MemoryTopics:
        return self._memory

    def _attendance(self) -> Attendance:
        return self._present


class Kept(NamedTuple):
    """What is kept of topics: how many events, and each for how many seconds.

    Attributes:
        max_events: Events.
        max_age: Seconds.
        history: Says what is something else for a topic.
    """

    max_events: int
    max_age: float
    history: HistoryOf | None

    def of(self, topic: str) -> tuple[int, float]:
        """Returns what is kept of a topic: events, and seconds."""
        own = ask(self.history, topic)
        if own is None:
            return self.max_events, self.max_age
        age = self.max_age if own.expire_after is None else own.expire_after
        return self.max_events if own.max_events is None else own.max_events, age


class Keys:
    """The idempotency keys that are known, and the places of the events that have them.

    Args:
        lifetime: Seconds for which each is known.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._known: dict[tuple[str, str], tuple[float, tuple[Position, ...]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, topic: str, key: str, now: float) -> tuple[Position, ...] | None:
        """Returns the places of the events that have a key."""
        until, places = self._known.get((topic, key), (now, None))
        return places if until > now else None

    def remember(self, topic: str, key: str, places: tuple[Position, ...], now: float) -> None:
        """Remembers the key of events."""
        for old in tuple(islice(self._known, 2)):  # two go for each that comes
            if self._known[old][0] <= now or len(self._known) >= _KEYS:
                del self._known[old]
        self._known.pop((topic, key), None)
        self._known[topic, key] = now + self._lifetime, places


class Topic:
    """The events of one topic.

    Args:
        epoch: When it was made, by the log's count.
        max_events: Events that are kept.
        max_age: Seconds for which each is kept.
    """

    __slots__ = ("epoch", "events", "finished", "last", "max_age", "max_events", "used")

    def __init__(self, epoch: int, max_events: int, max_age: float) -> None:
        self.epoch = epoch
        self.max_events = max_events
        self.max_age = max_age
        self.finished = False
        self.events: deque[tuple[float, StoredEvent]] = deque()
        self.last = Position(epoch, 0, 0)
        self.used = 0.0

    @property
    def trimmed(self) -> int:
        """How many events are no longer stored."""
        return self.last.seq - len(self.events)

    def oldest(self) -> Position:
        """Returns the place before the first event that is stored; before the very first one, without a seal."""
        if not self.events:
            return self.last
        return Position(self.epoch, self.trimmed, self.events[0][1].before)

    def holds(self, place: Position) -> bool:
        """Returns whether a place is that of an event which is stored."""
        number = place.seq - self.trimmed
        return 0 < number <= len(self.events) and self.events[number - 1][1].position == place

    def append(self, message: SSEMessage, now: float, at: float) -> StoredEvent:
        """Adds an event."""
        before = self.last
        self.last = Position(self.epoch, before.seq + 1, secrets.randbits(32))
        event = StoredEvent(self.last, before.nonce, message, at)
        self.events.append((now, event))
        return event

    def trim(self, now: float) -> None:
        """Removes the events that are too many or too old."""
        events, max_events, since = self.events, self.max_events, now - self.max_age
        while events and (len(events) > max_events or events[0][0] < since):
            events.popleft()


class MemoryTopics(FanOut):
    """What is stored, and who is subscribed to it.

    A topic that nothing was appended to is not kept. A place in it is a count of the topics that had been made by then,
    under a seal: it is accepted unless this topic has been made later, and dropped. Of as many topics as are kept that
    is known, those that were dropped last; any other that was dropped may have been this one.

    Args:
        kept: What is kept of each topic.
        max_topics: Topics kept.
        keys: Those of events.
    """

    def __init__(self, kept: Kept, max_topics: int, keys: Keys) -> None:
        super().__init__()
        self._kept = kept
        self._keys = keys
        self._max_topics = max_topics
        self._sizes = Sizes()
        self._secret = secrets.token_bytes(16)
        self._since = time() - monotonic()
        self._made = secrets.randbits(47)  # of the past, a restart or another process, it is no part
        self._dropped: OrderedDict[str, int] = OrderedDict()
        """The last epochs of topics that were dropped, the one that was dropped last at the end."""
        self._forgotten = self._made
        """The latest of those that are not known any more."""
        self._stored: OrderedDict[str, Topic] = OrderedDict()  # the one that was used last is the last
        self._ended: OrderedDict[str, tuple[float, Position]] = OrderedDict()
        """Where finished topics ended that are no longer stored, and until when that is known."""
        self._pacers: dict[str, Pacer] = {}
        """Those who pass on what was stored together, and all that comes after it meanwhile."""

    def append(self, topic: str, message: SSEMessage, key: str | None) -> Position:
        """Adds an event, and passes it on; returns its place."""
        if key is not None:
            return self.append_many(topic, (message,), key)[-1]
        now = monotonic()
        return self._add(topic, self._topic(topic, now), message, now)

    def append_many(self, topic: str, messages: Sequence[SSEMessage], key: str | None) -> tuple[Position, ...]:
        """Adds events, and has them passed on, several at a pace; returns their places."""
        now = monotonic()
        if key is not None and (known := self._keys.find(topic, key, now)) is not None:
            return known
        stored = self._topic(topic, now)
        pacer = None
        if len(messages) > 1 and topic in self.topics and topic not in self._pacers:
            pacer = Pacer(self, self.topics[topic], self._pacers)
        places = tuple([self._add(topic, stored, message, now) for message in messages])
        if pacer is not None:
            pacer.go_on()
        if key is not None:
            self._keys.remember(topic, key, places, now)
        return places

    def _topic(self, topic: str, now: float) -> Topic:
        """Returns a topic that is to be appended to."""
        stored = self._stored.get(topic)
        if stored is None:
            stored = self._make(topic, now)
        self._stored.move_to_end(topic)
        stored.used = now
        if stored.finished:
            raise TopicFinishedError(f"topic {topic!r} is finished; delete it first to begin it anew")
        return stored

    def _make(self, topic: str, now: float) -> Topic:
        self._drop_idle(now)
        if self._end(topic, now) is not None:
            raise TopicFinishedError(f"topic {topic!r} is finished; delete it first to begin it anew")
        kept = self._kept.of(topic)
        self._made += 1
        stored = self._stored[topic] = Topic(self._made, *kept)
        return stored

    def _add(self, topic: str, stored: Topic, message: SSEMessage, now: float) -> Position:
        event = stored.append(message, now, 1000 * (now + self._since))
        stored.trim(now)
        pacer = self._pacers.get(topic)
        if pacer is None:
            self.publish(topic, event)
        else:
            pacer.events.append(event)
        return event.position

    async def passed_on(self, topic: str, place: Position) -> None:
        """Waits until the events up to a place have been passed on; they are, whether somebody waits or not."""
        pacer = self._pacers.get(topic)
        if pacer is not None:
            await pacer.has_passed(place)

    def finish(self, topic: str) -> Position:
        """Adds the last event of a topic, if there is none yet; returns its place."""
        now = monotonic()
        stored, end = self._stored.get(topic), self._end(topic, now)
        if end is not None:
            return end
        if stored is None:
            stored = self._make(topic, now)
        if not stored.finished:
            self._add(topic, stored, end_of(topic), now)
            stored.finished = True
        return stored.last

    def delete(self, topic: str) -> None:
        """Deletes a topic."""
        self._ended.pop(topic, None)
        stored = self._stored.pop(topic, None)
        if stored is None:
            return
        self._note_dropped(topic, stored.epoch)
        self.distrust(topic)
        if topic in self.topics:
            self.lose(self.topics[topic])

    def _end(self, topic: str, now: float) -> Position | None:
        """Returns where a topic ended that is no longer stored, if that is known."""
        until, end = self._ended.get(topic, (0.0, None))
        if end is not None and until < now:
            del self._ended[topic]
            return None
        return end

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look`."""
        now = monotonic()
        return {name: self._extent(name, place, now) for name, place in wanted.items()}

    async def fetch(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.fetch`."""
        stored = self._stored.get(topic)
        if stored is None or stored.epoch != upto.epoch:
            return ()
        skipped = after.seq - stored.trimmed
        if skipped < 0:
            return ()
        many = min(upto.seq - after.seq, self._sizes.page(topic))
        events = [event for _, event in islice(stored.events, skipped, skipped + many)]
        self._sizes.note(topic, (size_of(event.message) for event in events))
        return events

    def _extent(self, name: str, place: Position | None, now: float) -> Extent:
        topic = self._stored.get(name)
        if topic is None and (end := self._end(name, now)) is not None:
            return Extent(end, end, None if place == end else "unknown", finished=True)
        if topic is None:
            beginning = self._beginning(name, self._made)
            if place is None or not self._accepts(name, place, self._made):
                return Extent(beginning, beginning, "unknown")
            return Extent(place, place, None)  # the client has it already
        self._use(name, now)
        topic.trim(now)
        oldest = topic.oldest() if topic.trimmed else self._beginning(name, topic.epoch)
        stored = place is not None and (place == oldest or place == topic.last or topic.holds(place))
        accepted = place is not None and self._accepts(name, place, topic.epoch)
        lost = why_lost(place, oldest, stored=stored, accepted=accepted)
        return Extent(oldest, topic.last, lost, topic.finished)

    def _beginning(self, name: str, epoch: int) -> Position:
        return Position(epoch, 0, seal(self._secret, name, epoch))

    def _accepts(self, name: str, place: Position, epoch: int) -> bool:
        if place != self._beginning(name, place.epoch):
            return False
        return place.epoch == epoch or self._dropped.get(name, self._forgotten) <= place.epoch < epoch

    def on_use(self, topic: LiveTopic) -> None:
        """Does nothing, as nothing reads here: what is appended is passed on at once."""

    def on_disuse(self, topic: LiveTopic) -> None:
        """Stops who passes on its events: all of them are stored, and nobody stands before them."""
        self._pacers.pop(topic.name, None)

    def hurry(self, topic: LiveTopic) -> None:
        """Does nothing either."""

    def release(self, topics: Iterable[LiveTopic]) -> None:
        """See :meth:`FanOut.release`; a topic is in use until then."""
        now = monotonic()
        for topic in topics:
            if topic.name in self._stored:
                self._use(topic.name, now)
        super().release(topics)

    def _use(self, name: str, now: float) -> None:
        self._stored.move_to_end(name)
        self._stored[name].used = now

    def _drop_idle(self, now: float) -> None:
        """Drops topics that nobody is subscribed to: those whose events are all too old, and those beyond the limit."""
        for name in tuple(islice(self._stored, 16)):  # a few for each that comes, so that none waits for long
            if name in self.topics:
                self._stored.move_to_end(name)  # looked at again when its turn comes
            elif len(self._stored) >= self._max_topics or self._stored[name].used < now - self._stored[name].max_age:
                self._drop(name, now)
            else:
                break

    def _drop(self, name: str, now: float) -> None:
        stored = self._stored.pop(name)
        self._note_dropped(name, stored.epoch)
        if stored.finished:
            self._ended[name] = now + REMEMBERED, stored.last
            if len(self._ended) > self._max_topics:
                self._ended.popitem(last=False)

    def _note_dropped(self, name: str, epoch: int) -> None:
        self._dropped[name] = epoch
        self._dropped.move_to_end(name)
        if len(self._dropped) > self._max_topics:
            self._forgotten = max(self._forgotten, self._dropped.popitem(last=False)[1])
