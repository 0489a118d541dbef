"""From a log to its subscribers: what was missed first, then what comes, with nothing lost or doubled in between.

The laws, and where each is kept:

1. *One history.* An event follows another if it has the next number in the same epoch, and names the nonce of that
   other. Whatever does not follow is not passed on (``Hub.publish``, ``LogSubscription._replay``): the subscriber looks
   again where it stands, and is sent a reset if its place is gone.
2. *One cursor.* All that a subscription remembers between two messages is the cursor of the last one, and going on
   after any trouble is resuming from it, as a client does.
3. *Join without a seam.* A subscription is attached to the live events first, at a position noted in the same step, and
   then fetches what lies before that position.
4. *Cheap to many.* Subscriptions to the same topics form an audience. It has one cursor, so an event is made a message
   once, and costs each subscriber an append.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._cursor import MAX_TOPICS, Position, cursor, positions, record, tag
from litestar_safe_sse.sources._stored import RESET, check_topic
from litestar_safe_sse.sources._subscription import Key, Mailbox, Overflow, Subscription, make_mailbox
from litestar_safe_sse.sources.event_log import EventLogStatistics, OnReset, Reset, StartAt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("PAGE", "Extent", "Hub", "LogSubscription", "StoredEvent")

PAGE = 100
"""Events that are fetched at once."""


class StoredEvent(NamedTuple):
    """An event of a topic.

    Attributes:
        position: Its place.
        before: The nonce of the event before it.
        message: What was appended, without an ID.
    """

    position: Position
    before: int
    message: SSEMessage

    def follows(self, position: Position) -> bool:
        """Whether it is the one that comes right after a place."""
        own = self.position
        return own.epoch == position.epoch and own.seq == position.seq + 1 and self.before == position.nonce


class Extent(NamedTuple):
    """What is stored of a topic.

    Attributes:
        oldest: The place before the first event that is stored.
        newest: The place after the last.
        found: Whether all that came after the place asked about is stored.
    """

    oldest: Position
    newest: Position
    found: bool


class Channel:
    """A topic that is in use, and how far its live events have been passed on."""

    __slots__ = ("_moved", "audiences", "lost", "position", "record", "tag", "topic", "users")

    def __init__(self, topic: str, position: Position) -> None:
        self.topic = topic
        self.tag = tag(topic)
        self.users = 0
        self.lost = False
        self.audiences: list[Audience] = []
        self._moved: anyio.Event | None = None
        self.move(position)

    def move(self, position: Position) -> None:
        self.position = position
        self.record = record(self.tag, position)
        self.notify()

    def notify(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    async def moved(self) -> None:
        """Waits until the position is another, or lost."""
        if self._moved is None:
            self._moved = anyio.Event()
        await self._moved.wait()


class Audience:
    """Everybody who is subscribed to the same topics and receives them live."""

    __slots__ = ("_listed", "_mailboxes", "channels")

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = channels
        self._mailboxes: dict[Mailbox, None] = {}
        self._listed: tuple[Mailbox, ...] | None = None

    def add(self, mailbox: Mailbox) -> None:
        self._mailboxes[mailbox] = self._listed = None

    def remove(self, mailbox: Mailbox) -> None:
        self._mailboxes.pop(mailbox, None)
        self._listed = None

    def __len__(self) -> int:
        return len(self._mailboxes)

    def mailboxes(self) -> tuple[Mailbox, ...]:
        """A copy: a subscription may be let go, by the garbage collector too, while events are passed on."""
        if self._listed is None:
            self._listed = tuple(self._mailboxes)
        return self._listed

    def send(self, topic: str, message: SSEMessage) -> None:
        message = with_id(message, cursor([channel.record for channel in self.channels]))
        for mailbox in self.mailboxes():
            mailbox.put(topic, message)


class Hub(ABC):
    """The topics of a log that are in use in one event loop."""

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self._audiences: dict[tuple[str, ...], Audience] = {}
        self._subscribers = 0

    @abstractmethod
    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """Finds out what is stored of topics, which are made if there are none; waits while the log can't be reached.

        Args:
            wanted: For each topic the place to ask about.

        Raises:
            SourceRefusedError: The log refuses a topic.
        """

    @abstractmethod
    async def page(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """Fetches the events of a topic that follow a place, at most 100, and none after another place."""

    @abstractmethod
    def on_use(self) -> None:
        """Called when a topic comes into use."""

    def statistics(self) -> EventLogStatistics:
        return EventLogStatistics(self._subscribers, len(self.channels))

    def hold(self, places: Mapping[str, Position]) -> list[Channel]:
        """Takes topics into use for a subscription, which has to release them.

        Args:
            places: For each topic the place from which its live events are passed on, if it is not in use yet.
        """
        held = []
        for topic, place in places.items():
            channel = self.channels.get(topic)
            if channel is None:
                channel = self.channels[topic] = Channel(topic, place)
                self.on_use()
            channel.users += 1
            held.append(channel)
        self._subscribers += 1
        return held

    def release(self, channels: Iterable[Channel]) -> None:
        self._subscribers -= 1
        for channel in channels:
            channel.users -= 1
            if not channel.users and self.channels.get(channel.topic) is channel:
                del self.channels[channel.topic]

    def attach(self, channels: Sequence[Channel], mailbox: Mailbox) -> Audience:
        """Has the live events of topics put into a mailbox from now on."""
        topics = tuple(channel.topic for channel in channels)
        audience = self._audiences.get(topics)
        if audience is None:
            audience = self._audiences[topics] = Audience(channels)
            for channel in channels:
                channel.audiences.append(audience)
        audience.add(mailbox)
        return audience

    def detach(self, audience: Audience, mailbox: Mailbox) -> None:
        audience.remove(mailbox)
        if not len(audience):
            self._dissolve(audience)

    def publish(self, topic: str, event: StoredEvent) -> None:
        """Passes a live event on, or loses the topic if the event does not follow the one before."""
        channel = self.channels.get(topic)
        if channel is None:
            return
        place = channel.position
        if event.follows(place):
            channel.move(event.position)
            for audience in tuple(channel.audiences):
                audience.send(topic, event.message)
        elif event.position.epoch != place.epoch or event.position.seq > place.seq:
            self.lose(channel)

    def lose(self, channel: Channel, error: Exception | None = None) -> None:
        """Gives a topic up; its subscribers look again where they stand, or are told of an error."""
        channel.lost = True
        if self.channels.get(channel.topic) is channel:
            del self.channels[channel.topic]
        for audience in tuple(channel.audiences):
            for mailbox in audience.mailboxes():
                # One error for each: a traceback has one home.
                mailbox.end(None if error is None else type(error)(*error.args), lost=error is None)
            self._dissolve(audience)
        channel.notify()

    def _dissolve(self, audience: Audience) -> None:
        for channel in audience.channels:
            with contextlib.suppress(ValueError):
                channel.audiences.remove(audience)
        topics = tuple(channel.topic for channel in audience.channels)
        if self._audiences.get(topics) is audience:
            del self._audiences[topics]


@dataclass(frozen=True)
class SubscribeOptions:
    """What a subscription was asked to do; as in ``EventLog.subscribe``."""

    start: StartAt
    on_reset: OnReset
    buffer: int
    overflow: Overflow
    key: Key | None


class LogSubscription(Subscription):
    """A subscription to topics of a log.

    Args:
        hub: Returns the hub of the running event loop.
        topics: The topics.
        after: The ID to resume from.
        options: How.

    Raises:
        InvalidFieldError: An argument won't do.
    """

    def __init__(
        self, hub: Callable[[], Hub], topics: tuple[str, ...], after: str | None, options: SubscribeOptions
    ) -> None:
        self._hub: Hub | None = None
        self._channels: list[Channel] = []
        self._mailbox: Mailbox | None = None
        self._live: Mailbox | None = None
        self._audience: Audience | None = None
        self._find_hub = hub
        self._topics = {topic: tag(topic) for topic in sorted({check_topic(topic) for topic in topics})}
        if not 1 <= len(self._topics) <= MAX_TOPICS:
            raise InvalidFieldError("topics", f"{len(self._topics)} of them; give from 1 to {MAX_TOPICS}")
        if not callable(options.on_reset):
            check_start("on_reset", options.on_reset)
        check_start("start", options.start)
        make_mailbox(options.buffer, options.overflow, options.key)
        self._options = options
        self._cursor: str | int | None = after or None
        # Before it is live: how far the messages that are ready to be yielded go, and how far they have to.
        self._ready: deque[SSEMessage] = deque()
        self._places: dict[str, Position] = {}
        self._goal: dict[str, Position] | None = None

    @property
    def cursor(self) -> str | None:
        """The ID that resumes after the last message that was yielded."""
        return None if self._cursor is None else str(self._cursor)

    async def __anext__(self) -> SSEMessage:
        """Waits for the next message; see :meth:`Subscription.__anext__`."""
        mailbox = self._live
        if mailbox is None or self._busy:
            return await super().__anext__()
        # The same as there, for a message that is waiting or the next to come: thousands pass here for one event.
        messages = mailbox.messages
        if not messages and not mailbox.ended:
            self._busy = True
            try:
                await mailbox.wake.wait()
            finally:
                self._busy = False
        if not messages or self._live is None:
            return await super().__anext__()
        message = messages.popleft()
        self._cursor = message.id
        return message

    async def _next(self) -> SSEMessage:
        while not self._closed:
            message = self._take()
            if message is not None:
                if message.id is not None:
                    self._cursor = message.id
                return message
            if self._places or not self._channels:
                await self._catch_up()
            elif self._mailbox is None or self._mailbox.lost:
                self._leave()
            elif not self._mailbox.ended:
                self._live = self._mailbox if type(self._mailbox) is Mailbox else None
                await self._mailbox.wait()
            elif self._mailbox.error is not None:
                raise self._mailbox.error
            else:
                break
        raise StopAsyncIteration

    def _take(self) -> SSEMessage | None:
        if self._ready:
            return self._ready.popleft()
        return None if self._mailbox is None or self._places else self._mailbox.take()

    async def _catch_up(self) -> None:
        if not self._channels:
            await self._find_places()
        elif any(channel.lost for channel in self._channels) and self._goal is None:
            self._leave()
        else:
            await self._replay()

    async def _find_places(self) -> None:
        """Finds out where each topic begins, and takes the topics into use."""
        hub = self._find_hub()
        known = {} if self._cursor is None else positions(str(self._cursor))
        wanted = {topic: None if known is None else known.get(tag) for topic, tag in self._topics.items()}
        extents = await hub.look(wanted)
        if self._closed:
            return
        places: dict[str, Position] = {}
        lost: dict[str, Literal["trimmed", "unknown"]] = {}
        for topic, place in wanted.items():
            extent = extents[topic]
            if place is not None and extent.found:
                places[topic] = place
            elif place is not None or known is None:
                trimmed = place is not None and place.epoch == extent.oldest.epoch and place.seq < extent.oldest.seq
                lost[topic] = "trimmed" if trimmed else "unknown"
            else:
                places[topic] = extent.oldest if self._options.start == "oldest" else extent.newest
        resumed = self._resumed(lost) if lost else "latest"
        for topic in lost:
            places[topic] = extents[topic].oldest if resumed == "oldest" else extents[topic].newest
        self._places = {topic: places[topic] for topic in self._topics}
        self._hub, self._goal = hub, None
        self._channels = hub.hold({topic: extents[topic].newest for topic in self._topics})
        cursor = self._place_cursor()
        if lost:
            self._ready.append(SSEMessage(Reset(lost, resumed), RESET, cursor))
        elif cursor != self._cursor:
            self._ready.append(SSEMessage(id=cursor))
        if all(channel.position == self._places[channel.topic] for channel in self._channels):
            self._attach(hub)  # at once, so that the policy for slow subscribers holds from the first message on
            self._places = {}

    def _attach(self, hub: Hub) -> None:
        self._mailbox = make_mailbox(self._options.buffer, self._options.overflow, self._options.key)
        self._audience = hub.attach(self._channels, self._mailbox)

    def _resumed(self, lost: dict[str, Literal["trimmed", "unknown"]]) -> StartAt:
        on_reset = self._options.on_reset
        if not callable(on_reset):
            return on_reset
        return check_start("what on_reset returned", on_reset(Reset(lost, "oldest")) or "oldest")

    def _place_cursor(self) -> str:
        return cursor([record(tag, self._places[topic]) for topic, tag in self._topics.items()])

    async def _replay(self) -> None:
        """Goes one step nearer to the live events, or to looking again."""
        hub = self._hub
        assert hub is not None
        if self._goal is None:
            missing = 0
            for channel in self._channels:
                gap = channel.position.seq - self._places[channel.topic].seq
                if channel.position.epoch != self._places[channel.topic].epoch or (
                    not gap and channel.position != self._places[channel.topic]
                ):
                    hub.lose(channel)  # the reader has not heard of it yet
                    return
                if gap < 0:
                    await channel.moved()  # the client was ahead, by way of another process
                    return
                missing += gap
            goal = {channel.topic: channel.position for channel in self._channels}
            if missing <= PAGE:
                self._attach(hub)
                self._goal = goal
        else:
            goal = self._goal
        for channel in self._channels:
            place = self._places[channel.topic]
            if place != goal[channel.topic]:
                events = await hub.page(channel.topic, place, goal[channel.topic])
                if self._closed:
                    return
                if not events and not channel.lost:
                    hub.lose(channel)
                if not events or not self._prepare(channel, events):
                    self._leave()
                return
        self._places, self._goal = {}, None

    def _prepare(self, channel: Channel, events: Iterable[StoredEvent]) -> bool:
        """Makes events ready to be yielded; tells whether they follow each other."""
        records = {topic: record(tag, self._places[topic]) for topic, tag in self._topics.items()}
        for event in events:
            if not event.follows(self._places[channel.topic]):
                return False
            self._places[channel.topic] = event.position
            records[channel.topic] = record(channel.tag, event.position)
            self._ready.append(with_id(event.message, cursor(records.values())))
        return True

    def _leave(self) -> None:
        """Goes back to where it knows nothing but its cursor, and what is ready to be yielded."""
        hub, channels = self._hub, self._channels
        if hub is not None and channels:
            if self._audience is not None and self._mailbox is not None:
                hub.detach(self._audience, self._mailbox)
            hub.release(channels)
        self._live = self._audience = self._mailbox = self._goal = None
        self._channels, self._places = [], {}

    def _release(self) -> None:
        mailbox, channels = self._mailbox, self._channels
        self._leave()
        if mailbox is not None:
            mailbox.end()
        for channel in channels:
            channel.notify()


def with_id(message: SSEMessage, id: str) -> SSEMessage:
    return SSEMessage(message.data, message.event, id, message.retry, message.comment)


def check_start(field: str, value: Any) -> StartAt:
    """Returns where to start; raises ``InvalidFieldError`` for what says nothing of the kind."""
    if value == "oldest" or value == "latest":
        return value  # type: ignore[no-any-return]
    raise InvalidFieldError(field, f"{value!r:.40} won't do; give 'oldest' or 'latest'")
