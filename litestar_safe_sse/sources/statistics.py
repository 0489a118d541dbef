"""The figures of sources as values: what they do in the running event loop, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sized

__all__ = ("EventLogStatistics", "QueueStatistics", "SourceStatistics", "Tally", "backlog_of")


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """What a source with subscribers does in this event loop. What counts up does so for as long as that lives.

    Attributes:
        subscribers: Subscriptions that receive messages, or are on their way there.
        topics: Topics, channels or patterns they are subscribed to.
        backlog: Messages that wait in their buffers.
        lag: Messages in the fullest of these: how far behind the slowest subscriber is.
        dropped: Messages that were dropped since a buffer was full.
        overflows: Subscriptions that were ended since their buffer was full.
        reconnects: Times that the server was away, and was reached again.
        gaps: Subscribers that were told that messages are missing, by a ``gap`` or a ``reset`` event.
    """

    subscribers: int
    topics: int
    backlog: int
    lag: int
    dropped: int
    overflows: int
    reconnects: int
    gaps: int


@dataclass(frozen=True, kw_only=True)
class EventLogStatistics(SourceStatistics):
    """What an event log does in this event loop; see :class:`SourceStatistics`.

    Attributes:
        replaying: Subscriptions that are still being sent what they had missed.
        replayed: Events that were sent to those who had missed them.
        appended: Events that were appended here, ends of topics included. One that is appended again by its idempotency
            key counts again, though it is stored once: not every log is told whether it had been there.
    """

    replaying: int
    replayed: int
    appended: int


@dataclass(frozen=True, kw_only=True)
class QueueStatistics:
    """What a queue does in this event loop. How many items are in it has to be asked: ``await queue.length()``.

    Attributes:
        waiting: Streams that wait for an item.
        in_hand: Items that streams have, and that may go back.
        delivered: Items that were delivered.
        returned: Items that went back, since their clients had left or their streams failed.
        reconnects: Times that Redis was away, and was reached again.
    """

    waiting: int
    in_hand: int
    delivered: int
    returned: int
    reconnects: int


@dataclass(slots=True)
class Tally:
    """What a source counts; each field is that of the statistics."""

    appended: int = 0
    delivered: int = 0
    dropped: int = 0
    gaps: int = 0
    in_hand: int = 0
    overflows: int = 0
    reconnects: int = 0
    replayed: int = 0
    returned: int = 0

    def of_source(self, topics: Sized, mailboxes: Collection[Sized]) -> SourceStatistics:
        """Returns the figures of a source.

        Args:
            topics: What is subscribed to.
            mailboxes: The buffers of the subscribers.
        """
        backlog, lag = backlog_of(mailboxes)
        return SourceStatistics(
            subscribers=len(mailboxes),
            topics=len(topics),
            backlog=backlog,
            lag=lag,
            dropped=self.dropped,
            overflows=self.overflows,
            reconnects=self.reconnects,
            gaps=self.gaps,
        )

    def of_queue(self, waiting: int) -> QueueStatistics:
        """Returns the figures of a queue that so many streams wait for."""
        return QueueStatistics(
            waiting=waiting,
            in_hand=self.in_hand,
            delivered=self.delivered,
            returned=self.returned,
            reconnects=self.reconnects,
        )


def backlog_of(mailboxes: Collection[Sized]) -> tuple[int, int]:
    """Returns how many messages are in buffers, and in the fullest."""
    sizes = [*map(len, mailboxes)]
    return sum(sizes), max(sizes, default=0)
