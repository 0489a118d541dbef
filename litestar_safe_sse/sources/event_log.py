"""The contract of an event log: publish once, stream to many, resume anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from litestar_safe_sse.sources._subscription import Key, Overflow, Subscription
from litestar_safe_sse.sources.statistics import EventLogStatistics

__all__ = ("EventLog", "OnReset", "Reset", "StartAt", "Subscribed")

StartAt = Literal["oldest", "latest"]
"""``"oldest"``: with the oldest event that is stored. ``"latest"``: with the next event."""


class Reset(Struct, frozen=True):
    """What the data of a ``reset`` event says, as JSON; and what a function given as ``on_reset`` is called with.

    Args:
        topics: The topics that can't be resumed, and why: ``"trimmed"``, some of the events that came after the
            client's last are no longer stored; ``"unknown"``, that last event is not in the topic's history, since
            the log was lost in whole or in part, or the topic expired, or the ID was never ours.
        resumed: Where they go on from. To the function it is what happens if it returns ``None``.
    """

    topics: dict[str, Literal["trimmed", "unknown"]]
    resumed: StartAt


class Subscribed(Struct, frozen=True):
    """What the data of a ``subscribed`` event says, as JSON.

    Args:
        topics: The topics of the subscription, in the order of their names.
    """

    topics: list[str]


OnReset = StartAt | Callable[[Reset], "StartAt | None"]
"""Where topics that can't be resumed go on from; a function decides case by case."""


class EventLog(ABC):
    """Topics of events, kept for a while: appended to by anyone, streamed to many, resumed anywhere.

    *Order*: subscribers of a topic receive its events in the order in which they were appended, which is the same for
    all; topics among each other have no order. *No gap, no duplicate*: from its start, a subscription yields each event
    of its topics once, also one that resumes from an ID which another process sent; what it can't yield any more it
    says so in place of (below). *Resume*: each message has an ID, a cursor over all topics of the subscription, so one
    ``Last-Event-ID`` resumes them all. A cursor says nothing but how far a client was: it opens no topic.

    Three events are the log's own. A ``reset`` says that topics can't be resumed, before anything that follows; its
    data is a :class:`Reset` as JSON, and its ID resumes from the place chosen. A ``dropped`` event says, with
    ``overflow="drop_oldest"``, how many events are missing: ``{"dropped": 3}``. A ``subscribed`` event, whose data is a
    :class:`Subscribed` as JSON, gives an ID that resumes the subscription to a client that has none, if nothing is
    stored for it that would.

    A log is made once, for the life of the application.
    """

    @abstractmethod
    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """Stores one event, whole, and has it sent to the topic's subscribers.

        When this returns, the event is stored, behind all that were stored before, and every subscription that was
        started by then yields it. When it raises, nothing of it is stored, with one exception: when the connection
        is lost, or the caller cancelled, while the answer is awaited, the event is stored whole or not at all, and
        the caller can't know which. It is never sent twice by itself. Whoever tries again with the same
        ``idempotency_key`` has it stored once.

        Args:
            topic: The topic, made if there is none: 1 to 256 bytes.
            message: What the body of a stream may yield: text, a ``dict`` of fields, an ``SSEMessage`` or Litestar's,
                or anything that msgspec encodes, which becomes JSON. Without an ID; that is the log's to give.
            idempotency_key: A name for this event, unique in its topic, by which it is known for ten minutes.

        Returns:
            The ID that resumes a subscription to this topic after the event.

        Raises:
            InvalidFieldError: The topic or the message can't be stored.
            SourceUnavailableError: The log can't be reached.
            SourceRefusedError: The log refuses: the key is of another type, or a permission is missing.
        """

    @abstractmethod
    def subscribe(
        self,
        *topics: str,
        after: str | None = None,
        start: StartAt = "latest",
        on_reset: OnReset | None = None,
        buffer: int = 256,
        overflow: Overflow = "close",
        key: Key | None = None,
    ) -> Subscription:
        """Makes a subscription: what was missed, then what comes.

        It starts when it is first iterated over. It does not end by itself, except by ``overflow``; while the log can't
        be reached it waits. It raises ``SourceRefusedError`` if the log refuses one of its topics.

        Args:
            *topics: From 1 to 32 topics. They need not exist yet.
            after: The ``Last-Event-ID`` of a client that resumes; ``None`` or ``""`` if it is new. What is no ID of
                ours leads to a reset.
            start: Where the topics begin that ``after`` does not hold; all of them, for a new client. (Topics it holds
                and that are no longer subscribed to are forgotten.)
            on_reset: Where topics go on that can't be resumed: ``"oldest"``, ``"latest"``, or a function that is given
                the :class:`Reset` and returns one of them. Unless given, where ``start`` says: clients can send any ID,
                and one that was made up is not to show more than none. Topics that the subscription itself had been
                reading, and whose history was lost meanwhile, go on with the oldest.
            buffer: Messages that wait for a subscriber that is slow. What was missed is not buffered: it is fetched
                as the subscriber takes it.
            overflow: What happens when there are more: ``"close"``, ``"drop_oldest"`` or ``"latest"``.
            key: With ``overflow="latest"``, a function of topic and message; of those for which it returns the same,
                only the newest is kept. By default the topic and the event type.

        Raises:
            InvalidFieldError: An argument can't be used.
        """

    @abstractmethod
    def statistics(self) -> EventLogStatistics:
        """Returns the log's figures in this event loop."""
