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
from litestar_safe_sse.sources._cursor import Position, cursor, record, tag
from litestar_safe_sse.sources._fan_out import PAGE, FanOut
from litestar_safe_sse.sources._log_subscription import LogSubscription, SubscribeOptions
from litestar_safe_sse.sources._stored import Extent, Renderer, StoredEvent, check_topic
from litestar_safe_sse.sources._subscription import Key, Overflow
from litestar_safe_sse.sources.event_log import EventLog, EventLogStatistics, OnReset, StartAt

if TYPE_CHECKING:
    from litestar_safe_sse.sources._fan_out import LiveTopic

__all__ = ("MemoryEventLog",)

IDEMPOTENCY = 600.0
"""Seconds for which an idempotency key is known."""


class MemoryEventLog(EventLog):
    """An event log for one process, on asyncio or trio: the embedded default.

    Its events end with the process. A client that comes back to another process, or after a restart, is sent a reset.
    A log is used by one event loop; nothing in it waits.

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
        self._renderer = Renderer(max_bytes, enc_hook)
        self._memory = MemoryTopics(max_events, max_age, max_topics)

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`; nothing here can fail but the arguments."""
        check_topic(topic)
        rendered = self._renderer.render(message)
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key)
        return cursor([record(tag(topic), self._memory.append(topic, rendered, idempotency_key))])

    def subscribe(
        self,
        *topics: str,
        after: str | None = None,
        start: StartAt = "latest",
        on_reset: OnReset = "oldest",
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
    """The events of one topic."""

    __slots__ = ("_keys", "events", "last", "used")

    def __init__(self, now: float) -> None:
        self.events: deque[tuple[float, StoredEvent]] = deque()
        self.last = Position(secrets.randbits(48), 0, 0)  # of the past, a restart or another process, it is no part
        self.used = now
        self._keys: dict[str, tuple[float, Position]] = {}

    @property
    def oldest(self) -> Position:
        """The place before the first event that is stored."""
        return self.last._replace(seq=self.last.seq - len(self.events))

    def known(self, key: str, now: float) -> Position | None:
        """The place of an event that has this idempotency key."""
        for old in tuple(islice(self._keys, 2)):  # two go for each that comes
            if self._keys[old][0] < now - IDEMPOTENCY:
                del self._keys[old]
        found = self._keys.get(key)
        return None if found is None or found[0] < now - IDEMPOTENCY else found[1]

    def append(self, message: SSEMessage, key: str | None, now: float) -> StoredEvent:
        self.last = self.last._replace(seq=self.last.seq + 1)
        event = StoredEvent(self.last, 0, message)
        self.events.append((now, event))
        self.used = now
        if key is not None:
            self._keys.pop(key, None)
            self._keys[key] = now, self.last
        return event

    def trim(self, max_events: int, since: float) -> None:
        events = self.events
        while events and (len(events) > max_events or events[0][0] < since):
            events.popleft()
        while len(self._keys) > max_events:
            del self._keys[next(iter(self._keys))]


class MemoryTopics(FanOut):
    """What is stored, and who is subscribed to it."""

    def __init__(self, max_events: int, max_age: float | None, max_topics: int) -> None:
        super().__init__()
        self._max_events = max_events
        self._max_age = float("inf") if max_age is None else max_age
        self._max_topics = max_topics
        self._stored: OrderedDict[str, Topic] = OrderedDict()  # the one that was used last is the last

    def append(self, topic: str, message: SSEMessage, key: str | None) -> Position:
        now = monotonic()
        stored = self._use(topic, now)
        if key is not None and (place := stored.known(key, now)) is not None:
            return place
        event = stored.append(message, key, now)
        stored.trim(self._max_events, now - self._max_age)
        self.publish(topic, event)
        return event.position

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`FanOut.look`."""
        now = monotonic()
        found = {}
        for name, place in wanted.items():
            topic = self._use(name, now)
            topic.trim(self._max_events, now - self._max_age)
            oldest, newest = topic.oldest, topic.last
            known = place is not None and place == newest._replace(seq=place.seq) and oldest <= place <= newest
            found[name] = Extent(oldest, newest, known)
        return found

    async def page(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`FanOut.page`."""
        stored = self._stored.get(topic)
        if stored is None or stored.last.epoch != after.epoch:
            return ()
        skipped = after.seq - stored.oldest.seq
        if skipped < 0:
            return ()
        many = min(upto.seq - after.seq, PAGE)
        return [event for _, event in islice(stored.events, skipped, skipped + many)]

    def on_use(self) -> None:
        """Nothing reads here: what is appended is passed on at once."""

    def release(self, topics: Iterable[LiveTopic]) -> None:
        """See :meth:`FanOut.release`; a topic is in use until then."""
        now = monotonic()
        for topic in topics:
            if topic.name in self._stored:
                self._use(topic.name, now)
        super().release(topics)

    def _use(self, name: str, now: float) -> Topic:
        topic = self._stored.get(name)
        if topic is None:
            self._drop_idle(now)
            topic = self._stored[name] = Topic(now)
        else:
            self._stored.move_to_end(name)
            topic.used = now
        return topic

    def _drop_idle(self, now: float) -> None:
        """Drops topics that nobody is subscribed to: those whose events are all too old, and those beyond the limit."""
        for name in tuple(islice(self._stored, 16)):  # a few for each that comes, so that none waits for long
            if name in self.topics:
                self._stored.move_to_end(name)  # looked at again when its turn comes
            elif len(self._stored) >= self._max_topics or self._stored[name].used < now - self._max_age:
                del self._stored[name]
            else:
                break
