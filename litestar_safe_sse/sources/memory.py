"""An event log in the memory of one process."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_duration, check_integer, check_text
from litestar_safe_sse.sources._cursor import Position, cursor, record, seal, tag
from litestar_safe_sse.sources._fan_out import FanOut
from litestar_safe_sse.sources._log_subscription import LogSubscription, SubscribeOptions
from litestar_safe_sse.sources._pages import Sizes, size_of
from litestar_safe_sse.sources._stored import Extent, Renderer, StoredEvent, check_topic, why_lost
from litestar_safe_sse.sources._subscription import TURN, Key, Overflow
from litestar_safe_sse.sources.event_log import EventLog, OnReset, StartAt

if TYPE_CHECKING:
    from litestar_safe_sse.sources._fan_out import LiveTopic
    from litestar_safe_sse.sources.statistics import EventLogStatistics

__all__ = ("MemoryEventLog",)

IDEMPOTENCY = 600.0
"""Seconds for which an idempotency key is known."""


class MemoryEventLog(EventLog):
    """An event log for one process, on asyncio or trio: the embedded default.

    Its events end with the process. A client that comes back to another process, or after a restart, is sent a reset.
    A log is used by one event loop, and waits for nothing.

    Args:
        max_events: Events kept of each topic.
        max_age: Seconds for which an event is kept; ``None`` for no limit.
        max_topics: Topics kept; beyond it those that nobody subscribes to are dropped, the one that was idle for
            longest first.
        max_bytes: Bytes that one event may have.
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
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        check_integer("max_events", max_events, minimum=1)
        check_duration("max_age", max_age, optional=True)
        check_integer("max_topics", max_topics, minimum=1)
        check_integer("max_bytes", max_bytes, minimum=1)
        self._turn = 0
        self._renderer = Renderer(max_bytes, enc_hook)
        self._memory = MemoryTopics(max_events, max_age, max_topics)

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`; nothing here can fail but the arguments.

        Now and then it lets the subscribers run: to append many in a loop is no reason for one to be called slow.
        """
        check_topic(topic)
        rendered = self._renderer.render(message)
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key)
        place = self._memory.append(topic, rendered, idempotency_key)
        self._memory.tally.appended += 1
        self._turn = (self._turn + 1) % TURN
        if not self._turn and topic in self._memory.topics:
            await self._memory.give_turn(topic)
        return cursor([record(tag(topic), place)])

    def subscribe(
        self,
        *topics: str,
        after: str | None = None,
        start: StartAt = "latest",
        on_reset: OnReset | None = None,
        buffer: int = 256,
        overflow: Overflow = "close",
        key: Key | None = None,
    ) -> LogSubscription:
        """See :meth:`EventLog.subscribe`."""
        return LogSubscription(
            lambda: self._memory, topics, after, SubscribeOptions(start, on_reset, buffer, overflow, key)
        )

    def statistics(self) -> EventLogStatistics:
        """The log's figures at this moment."""
        return self._memory.statistics()


class Topic:
    """The events of one topic.

    Args:
        epoch: When it was made, by the log's count.
    """

    __slots__ = ("_keys", "epoch", "events", "last", "used")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.events: deque[tuple[float, StoredEvent]] = deque()
        self.last = Position(epoch, 0, 0)
        self.used = 0.0
        self._keys: dict[str, tuple[float, Position]] = {}

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

    def known(self, key: str, now: float) -> Position | None:
        """Returns the place of an event that has this idempotency key."""
        for old in tuple(islice(self._keys, 2)):  # two go for each that comes
            if self._keys[old][0] < now - IDEMPOTENCY:
                del self._keys[old]
        found = self._keys.get(key)
        return None if found is None or found[0] < now - IDEMPOTENCY else found[1]

    def append(self, message: SSEMessage, key: str | None, now: float) -> StoredEvent:
        """Adds an event."""
        before = self.last
        self.last = Position(self.epoch, before.seq + 1, secrets.randbits(32))
        event = StoredEvent(self.last, before.nonce, message)
        self.events.append((now, event))
        if key is not None:
            self._keys.pop(key, None)
            self._keys[key] = now, self.last
        return event

    def trim(self, max_events: int, since: float) -> None:
        """Removes the events that are too many or too old."""
        events = self.events
        while events and (len(events) > max_events or events[0][0] < since):
            events.popleft()
        while len(self._keys) > max_events:
            del self._keys[next(iter(self._keys))]


class MemoryTopics(FanOut):
    """What is stored, and who is subscribed to it.

    A topic that nothing was appended to is not kept. A place in it is a count of the topics that had been made by then,
    under a seal: it is accepted unless a topic has been dropped that was made later, which may have been this one.

    Args:
        max_events: Events kept of each topic.
        max_age: Seconds for which an event is kept.
        max_topics: Topics kept.
    """

    def __init__(self, max_events: int, max_age: float | None, max_topics: int) -> None:
        super().__init__()
        self._max_events = max_events
        self._max_age = float("inf") if max_age is None else max_age
        self._max_topics = max_topics
        self._sizes = Sizes()
        self._secret = secrets.token_bytes(16)
        self._made = self._dropped = secrets.randbits(47)  # of the past, a restart or another process, it is no part
        self._stored: OrderedDict[str, Topic] = OrderedDict()  # the one that was used last is the last

    def append(self, topic: str, message: SSEMessage, key: str | None) -> Position:
        """Adds an event, and passes it on; returns its place."""
        now = monotonic()
        stored = self._stored.get(topic)
        if stored is None:
            self._drop_idle(now)
            self._made += 1
            stored = self._stored[topic] = Topic(self._made)
        self._use(topic, now)
        if key is not None and (place := stored.known(key, now)) is not None:
            return place
        event = stored.append(message, key, now)
        stored.trim(self._max_events, now - self._max_age)
        self.publish(topic, event)
        return event.position

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
        if topic is None:
            beginning = self._beginning(name, self._made)
            if place is None or not self._accepts(name, place, self._made):
                return Extent(beginning, beginning, "unknown")
            return Extent(place, place, None)  # the client has it already
        self._use(name, now)
        topic.trim(self._max_events, now - self._max_age)
        oldest = topic.oldest() if topic.trimmed else self._beginning(name, topic.epoch)
        stored = place is not None and (place == oldest or place == topic.last or topic.holds(place))
        accepted = place is not None and self._accepts(name, place, topic.epoch)
        return Extent(oldest, topic.last, why_lost(place, oldest, stored=stored, accepted=accepted))

    def _beginning(self, name: str, epoch: int) -> Position:
        return Position(epoch, 0, seal(self._secret, name, epoch))

    def _accepts(self, name: str, place: Position, epoch: int) -> bool:
        if place != self._beginning(name, place.epoch):
            return False
        return place.epoch == epoch or self._dropped <= place.epoch < epoch

    def on_use(self, topic: LiveTopic) -> None:
        """Does nothing, as nothing reads here: what is appended is passed on at once."""

    def on_disuse(self, topic: LiveTopic) -> None:
        """Does nothing either."""

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
            elif len(self._stored) >= self._max_topics or self._stored[name].used < now - self._max_age:
                self._dropped = max(self._dropped, self._stored.pop(name).epoch)
            else:
                break
