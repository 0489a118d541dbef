"""The contract of an event log: publish once, stream to many, resume anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET, Struct, UnsetType

from litestar_safe_sse.config import check_duration, check_integer
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._presence import Presence
from litestar_safe_sse.sources._subscription import Key, Overflow, Subscription
from litestar_safe_sse.sources.statistics import EventLogStatistics

if TYPE_CHECKING:
    from litestar_safe_sse._core.messages import SSEMessage
    from litestar_safe_sse.context import StreamContext

__all__ = (
    "CaughtUp",
    "EventLog",
    "Finished",
    "History",
    "HistoryOf",
    "Last",
    "OnReset",
    "Reset",
    "Since",
    "Start",
    "StartAt",
    "Subscribed",
)

StartAt = Literal["oldest", "latest"]
"""``"oldest"``: with the oldest event that is stored. ``"latest"``: with the next event."""


@dataclass(frozen=True)
class Last:
    """A start with the last events that are stored, of each topic.

    Args:
        events: How many.

    Raises:
        InvalidFieldError: It is no positive number.
    """

    events: int

    def __post_init__(self) -> None:
        check_integer("events", self.events, minimum=1)


@dataclass(frozen=True)
class Since:
    """A start with the first event that was appended at a time or later; with the oldest that is stored, at most.

    Args:
        when: The time, with its time zone; or how long ago that is, when the subscription starts, however long. The
            time of an event is the one at which it was appended, by the log's clock.

    Raises:
        InvalidFieldError: It is something else.
    """

    when: datetime | timedelta

    def __post_init__(self) -> None:
        aware = isinstance(self.when, datetime) and self.when.utcoffset() is not None
        if not aware and not isinstance(self.when, timedelta):
            raise InvalidFieldError(
                "when", f"must be a timedelta, or a datetime with a time zone, not {self.when!r:.60}"
            )


Start = StartAt | Last | Since
"""Where a subscription begins that has nothing to resume from."""


@dataclass(frozen=True)
class History:
    """How much is kept of a topic, and for how long; what is ``None`` is as in the log's own settings.

    Args:
        max_events: Events that are kept.
        expire_after: Seconds after which it goes, from 1 on: on Redis the topic, once nobody appends to it or is
            subscribed; in memory each event.

    Raises:
        InvalidFieldError: An argument can't be used.
    """

    max_events: int | None = None
    expire_after: float | None = None

    def __post_init__(self) -> None:
        check_integer("max_events", self.max_events, minimum=1, optional=True)
        check_duration("expire_after", self.expire_after, optional=True)
        if self.expire_after is not None and self.expire_after < 1:
            raise InvalidFieldError("expire_after", f"must be 1 s or more, not {self.expire_after}")


HistoryOf = Callable[[str], "History | None"]
"""Returns how much is kept of a topic; the same in all processes, always, so that it is not asked each time.

What it raises, the call that asks raises: one that appends, subscribes or reads. If it returns anything else, that call
raises ``InvalidFieldError``.
"""


class Reset(Struct, frozen=True):
    """What the data of a ``reset`` event says, as JSON; and what a function given as ``on_reset`` is called with.

    Args:
        topics: The topics that can't be resumed, and why: ``"trimmed"``, some of the events that came after the
            client's last are no longer stored; ``"unknown"``, that last event is not in the topic's history, since
            the log was lost in whole or in part, or the topic expired, or the ID was never ours.
        resumed: Where they go on from: the ``"oldest"`` event, the ``"latest"``, or as by :class:`Last` or
            :class:`Since`. To the function it is what happens if it returns ``None``.
    """

    topics: dict[str, Literal["trimmed", "unknown"]]
    resumed: Literal["oldest", "latest", "last", "since"]


class Subscribed(Struct, frozen=True):
    """What the data of a ``subscribed`` event says, as JSON.

    Args:
        topics: The topics of the subscription, in the order of their names.
    """

    topics: list[str]


class CaughtUp(Struct, frozen=True):
    """What the data of a ``caught-up`` event says, as JSON.

    Args:
        topics: The topics of the subscription, in the order of their names.
    """

    topics: list[str]


class Finished(Struct, frozen=True):
    """What the data of a ``finished`` event says, as JSON.

    Args:
        topic: The topic that has no further events.
    """

    topic: str


OnReset = Start | Callable[[Reset], "Start | None"]
"""Where topics that can't be resumed go on from; a function decides case by case."""


class EventLog(ABC):
    """Topics of events, kept for a while: appended to by anyone, streamed to many, resumed anywhere.

    *Order*: subscribers of a topic receive its events in the order in which they were appended, which is the same for
    all; topics among each other have no order. *No gap, no duplicate*: from its start, a subscription yields each event
    of its topics once, also one that resumes from an ID which another process sent; what it can't yield any more it
    says so in place of (below). *Resume*: each message has an ID, a cursor over all topics of the subscription, so one
    ``Last-Event-ID`` resumes them all. A cursor says nothing but how far a client was: it opens no topic.

    *End*: a topic that is finished has a last event, and no further ones. A subscription to it ends when it has yielded
    that one; a subscription to several topics ends when that is so of all.

    Five events are the log's own. A ``reset`` says that topics can't be resumed, before anything that follows; its
    data is a :class:`Reset` as JSON, and its ID resumes from the place chosen. A ``dropped`` event says, with
    ``overflow="drop_oldest"``, how many events are missing: ``{"dropped": 3}``. A ``subscribed`` event, whose data is a
    :class:`Subscribed` as JSON, gives an ID that resumes the subscription to a client that has none, if nothing is
    stored for it that would, or whose ID would not resume for much longer. A ``finished`` event, whose data is a
    :class:`Finished`, is the last one of a topic. A ``caught-up`` event, with ``mark=True``, stands between what was
    missed and what comes; its data is a :class:`CaughtUp`.

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
                or anything that msgspec encodes, which becomes JSON. The tag of a ``Struct`` is the type of the event,
                unless ``SSEMessage(event=...)`` names another. Without an ID; that is the log's to give.
            idempotency_key: A name for this event, from 1 to 256 bytes and unique in its topic, by which it is known
                for as long as the log's ``forget_keys_after`` says, ten minutes unless told, whatever becomes of the
                topic meanwhile.

        Returns:
            The ID that resumes a subscription to this topic after the event.

        Raises:
            InvalidFieldError: The topic, the message or the key can't be stored.
            SourceUnavailableError: The log can't be reached.
            SourceRefusedError: The log refuses: the key is of another type, or a permission is missing.
            TopicFinishedError: The topic is finished.
        """

    @abstractmethod
    async def append_many(
        self, topic: str, messages: Iterable[object], *, idempotency_key: str | None = None
    ) -> list[str]:
        """Stores several events together, as :meth:`append` does one: all of them or none.

        Args:
            topic: The topic.
            messages: The messages, up to 1,000. Nothing of anybody else's comes between.
            idempotency_key: A name for all of them together, as for :meth:`append`.

        Returns:
            For each the ID that resumes after it.

        Raises:
            InvalidFieldError: The topic or one of the messages can't be stored, or there are too many.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
    async def finish(self, topic: str) -> str:
        """Ends a topic by its last event, a ``finished`` event; what is finished already stays as it is.

        Who is subscribed is sent that event, and then his subscription ends. So it is with who comes later, as long as
        the topic is stored; after that it is known for a week that it was finished.

        Returns:
            The ID of the last event.

        Raises:
            InvalidFieldError: It is no topic.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
    async def delete(self, topic: str) -> None:
        """Deletes all that is stored of a topic, its end too: what is appended next begins a new history.

        Only the idempotency keys stay known, so that what was deleted does not come back with a second attempt.

        Who is subscribed, or comes back, and has been sent any of it, is sent a ``reset``.

        Raises:
            InvalidFieldError: It is no topic.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
    async def position(self, *topics: str) -> str:
        """Returns the ID that resumes a subscription to these topics after all that is stored now.

        Whoever takes it first, and then reads what the events are about, misses nothing in between.

        Args:
            *topics: From 1 to 32 topics.

        Raises:
            InvalidFieldError: One is no topic, or there are too many.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
    async def read(self, topic: str, *, after: str | None = None, limit: int = 100) -> list[SSEMessage]:
        """Returns what is stored of a topic, the oldest first, each event with the ID that resumes after it.

        Args:
            topic: The topic.
            after: The ID after which it begins; the oldest event unless given. If that can't be resumed, the first
                message is a ``reset`` event, and the oldest one follows.
            limit: Messages that are returned at most. There may be fewer, so that they have about 1 MiB together; if
                there are none, nothing more is stored.

        Raises:
            InvalidFieldError: An argument can't be used.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
    async def is_finished(self, *topics: str, after: str | None = None) -> bool:
        """Returns whether there is nothing more to come for a client: all is finished, and it has had what is stored.

        Such a client is answered with the status 204, which tells an ``EventSource`` not to come again.

        Args:
            *topics: From 1 to 32 topics.
            after: The ``Last-Event-ID`` of the client.

        Raises:
            InvalidFieldError: One is no topic, or there are too many.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """

    @abstractmethod
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
    ) -> Subscription:
        """Makes a subscription: what was missed, then what comes.

        It starts when it is first iterated over. It does not end by itself, except by ``overflow`` and when its topics
        are finished; while the log can't be reached it waits. It raises ``SourceRefusedError`` if the log refuses one
        of its topics, and ``TopicsDeniedError`` if the connection may not have them: entered as an async context
        manager, then, and otherwise when it is first iterated over.

        Args:
            *topics: From 1 to 32 topics. They need not exist yet.
            after: The ``Last-Event-ID`` of a client that resumes; ``None`` or ``""`` if it is new. What is no ID of
                ours leads to a reset.
            stream: The stream that subscribes, whose connection a log with ``authorize`` is asked about: when the
                subscription starts, and never again; a log with ``presence`` counts it. It need not be given to a log
                without both; ``None`` where it is the application itself that subscribes, may have any topic, and is
                not counted.
            member: Whose stream it is, if the handler knows better than the log's ``presence``.
            start: Where the topics begin that ``after`` does not hold; all of them, for a new client: ``"oldest"``,
                ``"latest"``, :class:`Last` or :class:`Since`. (Topics it holds and that are no longer subscribed to are
                forgotten.)
            on_reset: Where topics go on that can't be resumed: as in ``start``, or a function that is given the
                :class:`Reset` and returns one of these. Unless given, where ``start`` says: clients can send any ID,
                and one that was made up is not to show more than none. Topics that the subscription itself had been
                reading, and whose history was lost meanwhile, go on with the oldest.
            mark: Whether a ``caught-up`` event comes once, between what was stored when the subscription started and
                what comes live.
            buffer: Messages that wait for a subscriber that is slow. What was missed is not buffered: it is fetched
                as the subscriber takes it.
            overflow: What happens when there are more: ``"close"``, ``"drop_oldest"`` or ``"latest"``.
            key: With ``overflow="latest"``, a function of topic and message; of those for which it returns the same,
                only the newest is kept. By default the topic and the event type.

        Raises:
            InvalidFieldError: An argument can't be used.
        """

    async def presence(self, topic: str) -> Presence:
        """Returns who is subscribed to a topic, in whichever process, if the log was made with ``presence``.

        Streams of this process are known as they are. Those of others are known some milliseconds after they have come
        or gone, and up to 30 s after their process was killed.

        Args:
            topic: The topic.

        Raises:
            InvalidFieldError: It is no topic, or the log has no presence.
            SourceUnavailableError: As :meth:`append` does.
            SourceRefusedError: As :meth:`append` does.
        """
        raise InvalidFieldError("presence", "must be given when the log is made, to be asked for")

    @abstractmethod
    def statistics(self) -> EventLogStatistics:
        """Returns the log's figures in this event loop."""
