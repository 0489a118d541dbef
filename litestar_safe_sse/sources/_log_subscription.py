"""A subscription to a log: what was missed first, then what comes, with nothing lost or doubled in between.

The laws, and where each is kept:

1. *One history.* An event follows another if it has the next number in the same epoch, and names the nonce of that
   other. Whatever does not follow is not passed on (``FanOut.publish``, ``Replaying``): the subscription seeks again
   from where it stands, and is sent a reset if its place is gone.
2. *One cursor.* All that a subscription remembers between two messages is the cursor of the last one, and going on
   after any trouble is resuming from it, as a client does.
3. *Join without a seam.* A subscription is attached to the live events first, at a position noted in the same step, and
   then fetches what lies before that position.

It is in one of three phases: it seeks its place, replays what lies before the live events, or is live. Three more last
for a message or so: it asks whether it may begin, it marks where the live events begin, or its topics are over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_function
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._cursor import MAX_TOPICS, Position, cursor, positions, record, tag
from litestar_safe_sse.sources._pages import PAGE, with_id
from litestar_safe_sse.sources._stored import CAUGHT_UP, RESET, SUBSCRIBED, check_after, check_topic, end_of
from litestar_safe_sse.sources._subscription import Key, Mailbox, Overflow, Subscription, make_mailbox
from litestar_safe_sse.sources.event_log import CaughtUp, Last, OnReset, Reset, Since, Start, Subscribed

if TYPE_CHECKING:
    from typing_extensions import Self

    from litestar_safe_sse.sources._door import Visitor
    from litestar_safe_sse.sources._fan_out import FanOut, LiveTopic
    from litestar_safe_sse.sources._pages import Page
    from litestar_safe_sse.sources._presence import Guest
    from litestar_safe_sse.sources._stored import Extent, Why
    from litestar_safe_sse.sources.statistics import Tally

__all__ = ("LogSubscription", "SubscribeOptions", "tags_of")


@dataclass(frozen=True)
class SubscribeOptions:
    """What a subscription was asked to do; as in ``EventLog.subscribe``."""

    start: Start
    on_reset: OnReset | None
    mark: bool
    buffer: int
    overflow: Overflow
    key: Key | None

    def check(self) -> None:
        """Raises ``InvalidFieldError`` for what can't be done."""
        check_start("start", self.start)
        if callable(self.on_reset):
            check_function("on_reset", self.on_reset)
        elif self.on_reset is not None:
            check_start("on_reset", self.on_reset)
        if not isinstance(self.mark, bool):
            raise InvalidFieldError("mark", f"must be True or False, not {self.mark!r:.40}")
        self.make_mailbox()

    def make_mailbox(self, tally: Tally | None = None) -> Mailbox:
        """Returns an empty mailbox for live events."""
        return make_mailbox(self.buffer, self.overflow, self.key, tally)

    def resume_at(self, lost: dict[str, Why], *, was_there: bool) -> Start:
        """Returns where topics go on that can't be resumed.

        Args:
            lost: The topics.
            was_there: Whether it is known where they were read to, and not only said by the client.
        """
        default: Start = "oldest" if was_there else self.start
        if not callable(self.on_reset):
            return self.on_reset or default
        return check_start("what on_reset returned", self.on_reset(Reset(lost, name_of(default))) or default)


class Phase(Protocol):
    """Where a subscription stands."""

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """Returns the next message; ``None`` if there is none yet, though the phase may be another now.

        Cancelled, it loses none.

        Raises:
            StopAsyncIteration: There is none, and will be none.
        """
        ...

    def leave(self) -> None:
        """Lets go of what it holds."""
        ...


class LogSubscription(Subscription):
    """A subscription to topics of a log.

    Args:
        find: Returns the fan-out of the running event loop.
        topics: The topics.
        after: The ID to resume from.
        options: How.
        visitor: Who has to be asked about; ``None`` if nobody does.
        guest: Who is to be present; ``None`` if nobody is.

    Raises:
        InvalidFieldError: An argument can't be used.
    """

    guest: Guest | None = None

    def __init__(
        self,
        find: Callable[[], FanOut],
        topics: tuple[str, ...],
        after: str | None,
        options: SubscribeOptions,
        visitor: Visitor | None = None,
        guest: Guest | None = None,
    ) -> None:
        self._live: Mailbox | None = None
        self._missed: deque[SSEMessage] | None = None
        # It knows its subscription only when asked: a circle is not let go at once.
        self._phase: Phase = Seeking() if visitor is None and guest is None else Entering(visitor)
        if guest is not None:
            self.guest = guest
        self.tags = tags_of(topics)
        options.check()
        self.find_fan_out = find
        self.options = options
        self.was_there = False
        self.to_mark = options.mark
        self._cursor: str | int | None = check_after(after)

    async def __aenter__(self) -> Self:
        """Asks whether it may have its topics, so that a handler is told before its response begins."""
        if isinstance(self._phase, Entering):
            try:
                await self._phase.next(self)
            except BaseException:
                self._close()
                raise
        return self

    @property
    def cursor(self) -> str | None:
        """The ID that resumes after the last message that was yielded."""
        return None if self._cursor is None else str(self._cursor)

    @property
    def closed(self) -> bool:
        """Whether it has ended; whoever has waited looks, before it holds anything."""
        return self._closed

    async def __anext__(self) -> SSEMessage:
        """Waits for the next message; see :meth:`Subscription.__anext__`."""
        # The same as there, for a message that is waiting or the next to come: thousands pass here for one event.
        missed = self._missed
        if missed and not self._busy:
            message = missed.popleft()
            self._cursor = message.id
            return message
        mailbox = self._live
        if mailbox is None or self._busy:
            return await super().__anext__()
        messages = mailbox.messages
        if not messages and not mailbox.ended:
            self._busy = True
            try:
                await mailbox.wait_once()
            finally:
                self._busy = False
        if not messages or self._live is None:
            return await super().__anext__()
        message = messages.popleft()
        self._cursor = message.id
        return message

    async def _next(self) -> SSEMessage:
        while not self._closed:
            message = await self._phase.next(self)
            if message is not None:
                if message.id is not None:
                    self._cursor = message.id
                return message
        raise StopAsyncIteration

    def enter(self, phase: Phase, live: Mailbox | None = None, missed: deque[SSEMessage] | None = None) -> None:
        """Goes over to another phase.

        Args:
            phase: The phase.
            live: The mailbox that is all there is to it, if it is a plain one.
            missed: Messages that come before all else of it; they have IDs.
        """
        self._phase, self._live, self._missed = phase, live, missed

    def seek(self, ready: Iterable[SSEMessage] = ()) -> None:
        """Goes back to where it knows nothing but its cursor, and messages that are still to be yielded."""
        self._phase.leave()
        self.enter(Seeking(ready))

    def _release(self) -> None:
        if self.guest is not None:
            self.guest.leave()
        self.seek()


class Entering:
    """Asks whether the subscription may have its topics; then whose it is is present there.

    Args:
        visitor: Who is asked about; ``None`` if nobody is.
    """

    __slots__ = ("_visitor",)

    def __init__(self, visitor: Visitor | None) -> None:
        self._visitor = visitor

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        subscription.live_here()
        topics = tuple(subscription.tags)
        if self._visitor is not None:
            await self._visitor.ask(topics)
        if not subscription.closed:
            subscription.enter(Seeking())
            if subscription.guest is not None:
                subscription.guest.join(topics)
        return None

    def leave(self) -> None:
        """See :meth:`Phase.leave`; it holds nothing."""


class Seeking:
    """Finds out where each topic begins, and takes the topics into use.

    Args:
        ready: Messages to yield before.
    """

    __slots__ = ("_ready",)

    def __init__(self, ready: Iterable[SSEMessage] = ()) -> None:
        self._ready = deque(ready)

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        if self._ready:
            return self._ready.popleft()
        subscription.live_here()
        fan_out = subscription.find_fan_out()
        known = {} if subscription.cursor is None else positions(subscription.cursor)
        wanted = {topic: None if known is None else known.get(tag) for topic, tag in subscription.tags.items()}
        extents = await fan_out.find(wanted)
        if subscription.closed:
            return None
        options = subscription.options
        places, lost, new = _places(wanted, extents, valid=known is not None)
        resumed = options.resume_at(lost, was_there=subscription.was_there) if lost else options.start
        subscription.was_there = True
        starts: dict[str, Start] = {**dict.fromkeys(new, options.start), **dict.fromkeys(lost, resumed)}
        for topic, start in starts.items():
            # What takes no time is not to wait: others would append meanwhile, and be read for nothing.
            if isinstance(start, (Last, Since)):
                places[topic] = await fan_out.place(topic, extents[topic], start)
            else:
                places[topic] = extents[topic].at(start)
        if subscription.closed:
            return None
        place = cursor(record(tag, places[topic]) for topic, tag in subscription.tags.items())
        opening: SSEMessage | None = None
        if lost:
            fan_out.tally.gaps += 1
            opening = SSEMessage(Reset(lost, name_of(resumed)), RESET, place)
        elif place != subscription.cursor:
            opening = SSEMessage(Subscribed([*subscription.tags]), SUBSCRIBED, place)
        if all(extent.finished and places[topic] == extent.newest for topic, extent in extents.items()):
            subscription.enter(Over([opening] if lost and opening else [], subscription.tags, place))
            return None
        places = {topic: places[topic] for topic in subscription.tags}
        return self._begin(subscription, fan_out, places, extents, opening)

    def leave(self) -> None:
        """See :meth:`Phase.leave`; it holds nothing."""

    def _begin(
        self,
        subscription: LogSubscription,
        fan_out: FanOut,
        places: dict[str, Position],
        extents: Mapping[str, Extent],
        opening: SSEMessage | None,
    ) -> SSEMessage | None:
        held = Held(fan_out, fan_out.hold({topic: extents[topic] for topic in subscription.tags}))
        if all(topic.position.is_at(places[topic.name]) for topic in held.topics):
            Live(held, subscription.options.make_mailbox(fan_out.tally)).begin(subscription)
            # At once, so that the policy for slow subscribers holds from the first message on.
            return opening
        if opening is not None and opening.event == RESET:
            Replaying(held, places, None).begin(subscription)
            return opening
        Replaying(held, places, opening).begin(subscription)
        return None


class Held(NamedTuple):
    """Topics that a subscription uses."""

    fan_out: FanOut
    topics: list[LiveTopic]

    @property
    def lost(self) -> bool:
        """Whether one of them has been given up."""
        return any(topic.lost for topic in self.topics)

    def leave(self) -> None:
        """Ends the use, and wakes whoever waits for one of them."""
        self.fan_out.release(self.topics)
        for topic in self.topics:
            topic.notify()


class Replaying:
    """Fetches what lies between the places where a subscription stands and the live events.

    Args:
        held: The topics.
        places: How far the messages go that are ready to be yielded.
        opening: What to yield if there turns out to be no event.
    """

    __slots__ = ("_goal", "_held", "_live", "_opening", "_places", "_ready")

    def __init__(self, held: Held, places: dict[str, Position], opening: SSEMessage | None) -> None:
        self._held = held
        self._places = places
        self._opening = opening
        self._ready: deque[SSEMessage] = deque()
        self._goal: dict[str, Position] = {}
        """How far they have to go."""
        self._live: Live | None = None
        """Keeps what comes after the goal, once that is near."""

    def begin(self, subscription: LogSubscription) -> None:
        """Becomes the subscription's phase."""
        subscription.enter(self, missed=self._ready)

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        if self._ready:
            return self._ready.popleft()
        if self._live is None:
            if self._held.lost:
                subscription.seek()
                return None
            if await self._wait_for_the_reader():
                return None
            self._set_goal(subscription)
        for topic in self._held.topics:
            if not self._places[topic.name].is_at(self._goal[topic.name]):
                await self._fetch(subscription, topic)
                return None
        if self._live is None:
            return None
        self._live.begin(subscription)
        return self._opening

    def leave(self) -> None:
        """See :meth:`Phase.leave`."""
        (self._live or self._held).leave()

    async def _wait_for_the_reader(self) -> bool:
        """Returns whether the reader of live events was not where the client has been, by way of another process."""
        for topic in self._held.topics:
            place = self._places[topic.name]
            if topic.position.is_at(place):
                continue
            if not topic.position.is_in_history_of(place) or topic.position.seq == place.seq:
                self._held.fan_out.lose(topic)  # the reader has not heard of it yet
                return True
            if topic.position.seq < place.seq:
                self._held.fan_out.hurry(topic)
                await topic.moved()
                return True
        return False

    def _set_goal(self, subscription: LogSubscription) -> None:
        self._goal = {topic.name: topic.position for topic in self._held.topics}
        if sum(goal.seq - self._places[name].seq for name, goal in self._goal.items()) <= PAGE:
            self._live = Live(self._held, subscription.options.make_mailbox(self._held.fan_out.tally))

    async def _fetch(self, subscription: LogSubscription, topic: LiveTopic) -> None:
        goal = self._goal[topic.name]
        page = await self._held.fan_out.page(topic.name, self._places[topic.name], goal)
        if subscription.closed:
            return
        if not page.events or not self._prepare(subscription, topic, page, goal):
            # What he missed may be trimmed, or the history another one: that turns out when he looks where he stands.
            self._held.fan_out.distrust(topic.name)
            subscription.seek(self._ready)

    def _prepare(self, subscription: LogSubscription, topic: LiveTopic, page: Page, goal: Position) -> bool:
        """Makes events ready to be yielded, up to the goal; returns whether they lead there."""
        events = page.events
        wanted = min(len(events), goal.seq - self._places[topic.name].seq)
        last = events[wanted - 1].position if wanted > 0 else None
        if last is None or last.epoch != goal.epoch or (last.seq == goal.seq and last != goal):
            return False
        self._ready.extend(islice(self._messages(subscription, topic, page), wanted))
        self._held.fan_out.tally.replayed += wanted
        self._opening = None
        self._places[topic.name] = last
        return True

    def _messages(self, subscription: LogSubscription, topic: LiveTopic, page: Page) -> list[SSEMessage]:
        names = [*subscription.tags]
        number = names.index(topic.name)
        records = [record(tag, self._places[name]) for name, tag in subscription.tags.items()]
        return page.messages(b"".join(records[:number]), topic.tag, b"".join(records[number + 1 :]))


class Live:
    """Yields events as they come; they are kept from when it is made.

    Args:
        held: The topics.
        mailbox: Where the events wait for the subscriber.
    """

    __slots__ = ("_audience", "_held", "_mailbox")

    def __init__(self, held: Held, mailbox: Mailbox) -> None:
        self._held = held
        self._mailbox = mailbox
        self._audience = held.fan_out.attach(held.topics, mailbox)

        if all(topic.finished for topic in held.topics):
            mailbox.end()

    def begin(self, subscription: LogSubscription) -> None:
        """Becomes the subscription's phase; first says so, if that was asked for."""
        if subscription.to_mark and not self._mailbox.ended:
            subscription.enter(Marking(self))
        else:
            subscription.enter(self, self._mailbox if type(self._mailbox) is Mailbox else None)

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        mailbox = self._mailbox
        message = mailbox.take()
        if message is not None:
            return message
        if mailbox.lost:
            subscription.seek()
        elif not mailbox.ended:
            await mailbox.wait()
        elif mailbox.error is not None:
            raise mailbox.error
        else:
            raise StopAsyncIteration
        return None

    def leave(self) -> None:
        """See :meth:`Phase.leave`."""
        self._held.fan_out.detach(self._audience, self._mailbox)
        self._held.leave()
        self._mailbox.end()


class Marking:
    """Says that what was missed has been yielded.

    Args:
        live: What follows.
    """

    __slots__ = ("_live",)

    def __init__(self, live: Live) -> None:
        self._live = live

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        subscription.to_mark = False
        self._live.begin(subscription)
        return SSEMessage(CaughtUp([*subscription.tags]), CAUGHT_UP, subscription.cursor)

    def leave(self) -> None:
        """See :meth:`Phase.leave`."""
        self._live.leave()


class Over:
    """Yields the last events of topics that are finished, once more to a client that has had them already.

    Args:
        opening: What comes before.
        topics: The topics.
        place: Where they end.
    """

    __slots__ = ("_ready",)

    def __init__(self, opening: list[SSEMessage], topics: Iterable[str], place: str) -> None:
        self._ready = deque([*opening, *(with_id(end_of(topic), place) for topic in topics)])

    async def next(self, subscription: LogSubscription) -> SSEMessage | None:
        """See :meth:`Phase.next`."""
        if self._ready:
            return self._ready.popleft()
        raise StopAsyncIteration

    def leave(self) -> None:
        """See :meth:`Phase.leave`; it holds nothing."""


def _places(
    wanted: Mapping[str, Position | None], extents: Mapping[str, Extent], *, valid: bool
) -> tuple[dict[str, Position], dict[str, Why], list[str]]:
    """Returns where topics begin, why others can't be resumed, and those that the client did not know.

    Args:
        wanted: Where the client was.
        extents: What is stored.
        valid: Whether what the client sent was an ID of ours, or none.
    """
    places: dict[str, Position] = {}
    lost: dict[str, Why] = {}
    new: list[str] = []
    for topic, place in wanted.items():
        extent = extents[topic]
        if place is not None and extent.lost is None:
            places[topic] = place if place.seq else extent.oldest
        elif place is not None or not valid:
            lost[topic] = extent.lost or "unknown"
        else:
            new.append(topic)
    return places, lost, new


def tags_of(topics: Iterable[str]) -> dict[str, bytes]:
    """Returns what stands for each topic in a cursor, in the order of their names.

    Raises:
        InvalidFieldError: One is no topic, or there are too many, or none.
    """
    tags = {topic: tag(topic) for topic in sorted({check_topic(topic) for topic in topics})}
    if not 1 <= len(tags) <= MAX_TOPICS:
        raise InvalidFieldError("topics", f"must be from 1 to {MAX_TOPICS}, not {len(tags)}")
    return tags


def check_start(field: str, value: Any) -> Start:
    """Returns where to start; raises ``InvalidFieldError`` for what says nothing of the kind."""
    if isinstance(value, (Last, Since)) or (isinstance(value, str) and value in ("oldest", "latest")):
        return value  # type: ignore[return-value]
    raise InvalidFieldError(field, f"must be 'oldest', 'latest', Last(...) or Since(...), not {value!r:.40}")


def name_of(start: Start) -> Literal["oldest", "latest", "last", "since"]:
    """Returns what a reset calls it."""
    if isinstance(start, str):
        return start
    return "last" if isinstance(start, Last) else "since"
