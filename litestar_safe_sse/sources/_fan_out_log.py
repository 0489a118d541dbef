"""What all event logs have in common that have a fan-out: all that reads."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceUnavailableError
from litestar_safe_sse.sources._cursor import Position, cursor, positions, record, tag
from litestar_safe_sse.sources._log_subscription import LogSubscription, SubscribeOptions, tags_of
from litestar_safe_sse.sources._pages import size_of, with_id
from litestar_safe_sse.sources._stored import RESET, check_after, check_topic
from litestar_safe_sse.sources.event_log import EventLog, OnReset, Reset, Start

if TYPE_CHECKING:
    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources._door import Door
    from litestar_safe_sse.sources._fan_out import FanOut
    from litestar_safe_sse.sources._presence import Attendance, Presence
    from litestar_safe_sse.sources._stored import Extent
    from litestar_safe_sse.sources._subscription import Key, Overflow
    from litestar_safe_sse.sources.statistics import EventLogStatistics

__all__ = ("FanOutLog", "sequence_of")

READ_BYTES = 1024 * 1024
"""Bytes after which what is read at once ends."""

_ATTEMPTS = 5
"""How often a topic is read anew whose oldest events go while they are read."""


class FanOutLog(EventLog):
    """An event log that has a fan-out for each event loop."""

    _door: Door

    @abstractmethod
    def _fan_out(self) -> FanOut:
        """Returns the fan-out of the running event loop."""

    @abstractmethod
    def _attendance(self) -> Attendance:
        """Returns the attendance of the running event loop."""

    def _check_topics(self, *topics: object) -> None:
        """Raises ``InvalidFieldError`` for names that other logs can have as topics, and this one can't."""

    def subscribe(
        self,
        *topics: str,
        after: str | None = None,
        stream: StreamContext | UnsetType | None = UNSET,
        member: str | None = None,
        start: Start = "latest",
        on_reset: OnReset | None = None,
        mark: bool = False,
        buffer: int = 256,
        overflow: Overflow = "close",
        key: Key | None = None,
    ) -> LogSubscription:
        """See :meth:`EventLog.subscribe`."""
        self._check_topics(*topics)
        options = SubscribeOptions(start, on_reset, mark, buffer, overflow, key)
        visitor = self._door.visitor(stream)
        guest = self._door.guest(stream, member, self._attendance)
        return LogSubscription(self._fan_out, topics, after, options, visitor, guest)

    async def presence(self, topic: str) -> Presence:
        """See :meth:`EventLog.presence`."""
        self._check_topics(topic)
        check_topic(topic)
        if not self._door.counts:
            return await super().presence(topic)
        return await self._attendance().look(topic)

    def statistics(self) -> EventLogStatistics:
        """See :meth:`EventLog.statistics`."""
        return self._fan_out().statistics()

    async def position(self, *topics: str) -> str:
        """See :meth:`EventLog.position`."""
        self._check_topics(*topics)
        tags = tags_of(topics)
        extents = await self._fan_out().look_once(dict.fromkeys(tags))
        return cursor(record(tag, extents[topic].newest) for topic, tag in tags.items())

    async def is_finished(self, *topics: str, after: str | None = None) -> bool:
        """See :meth:`EventLog.is_finished`."""
        self._check_topics(*topics)
        tags = tags_of(topics)
        after = check_after(after)
        known = (positions(after) if after else None) or {}
        wanted = {topic: known.get(tag) for topic, tag in tags.items()}
        extents = await self._fan_out().look_once(wanted)
        return all(
            extent.finished and extent.newest in (wanted[topic], extent.oldest) for topic, extent in extents.items()
        )

    async def read(self, topic: str, *, after: str | None = None, limit: int = 100) -> list[SSEMessage]:
        """See :meth:`EventLog.read`."""
        self._check_topics(topic)
        mark = tag(check_topic(topic))
        check_integer("limit", limit, minimum=1)
        after = check_after(after)
        known = positions(after) if after else {}
        wanted = None if known is None else known.get(mark)
        fan_out = self._fan_out()
        for _ in range(_ATTEMPTS):
            extent = (await fan_out.look_once({topic: wanted}))[topic]
            place, messages = _begin(topic, wanted, extent, valid=known is not None)
            if len(messages) < limit:
                messages += await _read_on(fan_out, topic, place, extent.newest, limit - len(messages))
            if messages or place.is_at(extent.newest):
                return messages
        raise SourceUnavailableError(f"topic {topic!r}: its oldest events go faster than they are read; try again")


def _begin(topic: str, wanted: Position | None, extent: Extent, *, valid: bool) -> tuple[Position, list[SSEMessage]]:
    """Returns where to read from, and what to say before."""
    if valid and wanted is None:
        return extent.oldest, []
    if wanted is not None and extent.lost is None:
        return (wanted if wanted.seq else extent.oldest), []
    lost = Reset({topic: extent.lost or "unknown"}, "oldest")
    return extent.oldest, [SSEMessage(lost, RESET, cursor([record(tag(topic), extent.oldest)]))]


async def _read_on(fan_out: FanOut, topic: str, place: Position, upto: Position, limit: int) -> list[SSEMessage]:
    """Returns the events after a place, each following the one before."""
    messages: list[SSEMessage] = []
    size = 0
    while len(messages) < limit and size < READ_BYTES and not place.is_at(upto):
        last = place
        for event in await fan_out.fetch_once(topic, place, upto):
            if not event.follows(place) or len(messages) == limit or size >= READ_BYTES:
                return messages
            place = event.position
            messages.append(with_id(event.message, cursor([record(tag(topic), place)])))
            size += size_of(event.message)
        if place == last:
            break
    return messages


def sequence_of(id: str, topic: str) -> int:
    """Returns the number of an event in its topic, from 1 on and without gaps; 0 before the first one.

    A topic that expired, or was deleted or lost, begins anew with 1.

    Args:
        id: The ID that ``append`` returned, or that an event was sent with.
        topic: The topic.

    Raises:
        InvalidFieldError: It is no ID of an event log, or of a subscription to another topic.
    """
    place = (positions(check_text("id", id)) or {}).get(tag(check_topic(topic)))
    if place is None:
        raise InvalidFieldError("id", f"must be one that a log gave for the topic {topic!r:.40}, not {id!r:.40}")
    return place.seq
