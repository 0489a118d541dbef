"""Redis Pub/Sub: what is published reaches those who listen at that moment, over one connection per process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple

import anyio
import msgspec

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._subscription import TURN, Key, Mailbox, Overflow, Subscription, give_turn, make_mailbox
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn
from litestar_safe_sse.sources.redis._commands import pack
from litestar_safe_sse.sources.redis._errors import translate
from litestar_safe_sse.sources.redis._items import encode_item
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litestar_safe_sse.sources.redis._commands import Command
    from litestar_safe_sse.sources.redis.connection import RedisAddress, RedisConnection
    from litestar_safe_sse.sources.statistics import SourceStatistics

__all__ = ("GAP", "Gap", "PubSubMessage", "PubSubSubscription", "RedisPubSub")

GAP = "gap"
"""The type of the event that says that messages before it may be missing; its data is a :class:`Gap`."""

_HEARTBEAT = 10.0
"""Seconds after which Redis is asked for a sign of life."""

_LINGER = 1.0
"""Seconds that the connection is kept when nobody is subscribed."""


class Gap(msgspec.Struct, frozen=True):
    """What the data of a ``gap`` event says, as JSON.

    Args:
        seconds: For how long Redis was not heard of, from the last thing that came; what was published meanwhile may
            be lost.
    """

    seconds: float


class PubSubMessage(SSEMessage, frozen=True, kw_only=True):
    """A message of a channel; yielded to a stream, it is an event of its data.

    Args:
        channel: The channel it was published to.
        pattern: The pattern by which it was received, if it was.
    """

    channel: str = ""
    pattern: str | None = None


class RedisPubSub:
    """Channels of Redis, subscribed to by any number of streams over one connection per process.

    Delivery is at most once, as Redis has it: nobody learns of what was published while he was not subscribed. While
    Redis is away streams stay open; when it is back, each is sent a ``gap`` event, before which messages may be
    missing. Where none may be missing, take ``RedisEventLog``.

    Channels are named as they are; others publish to them.

    Args:
        redis: A :class:`RedisPlugin`, or what one can be made of.

    Raises:
        MissingExtraError: redis-py is not installed.
    """

    def __init__(self, redis: RedisPlugin | RedisAddress) -> None:
        self._redis = RedisPlugin.of(redis)

    async def publish(self, channel: str, message: object) -> int:
        """Publishes a message.

        Args:
            channel: The channel.
            message: Text and bytes as they are, anything else as JSON.

        Returns:
            How many connections received it; on a cluster, of one node.

        Raises:
            InvalidFieldError: The message can't be sent.
            SourceUnavailableError: Redis can't be reached; the message may have been published all the same.
            SourceRefusedError: The permission is missing.
        """
        payload = encode_item("message", message)
        return int(await self._redis.execute("PUBLISH", check_text("channel", channel), payload))

    def subscribe(
        self,
        *channels: str,
        patterns: Iterable[str] = (),
        buffer: int = 256,
        overflow: Overflow = "drop_oldest",
        key: Key | None = None,
    ) -> PubSubSubscription:
        """Makes a subscription for one stream: the content of a response, or for a body to iterate over.

        It begins when it is first iterated over, or entered as a context manager, which waits until Redis has
        confirmed it: what is published from then on is received.

        Args:
            *channels: Channels, by name.
            patterns: Channels, by patterns as ``PSUBSCRIBE`` takes them. A message comes once for each of a
                subscription's channels and patterns that it matches.
            buffer: Messages that wait for a subscriber that is slow.
            overflow: What happens when there are more: ``"close"``, ``"drop_oldest"`` or ``"latest"``.
            key: With ``overflow="latest"``, a function of channel and message; of those for which it returns the
                same, only the newest is kept. By default the channel.

        Returns:
            An async iterator of :class:`PubSubMessage`, and of events of the types ``gap`` and ``dropped``.

        Raises:
            InvalidFieldError: An argument can't be used.
            SourceRefusedError: While iterating: the permission is missing.
            SourceUnavailableError: While iterating: what reads from Redis has failed, or has been closed.
        """
        names = [_Name("subscribe", check_text("channel", channel).encode()) for channel in channels]
        if isinstance(patterns, str) or not isinstance(patterns, Iterable):
            raise InvalidFieldError("patterns", f"must be a list of patterns, not {type(patterns).__name__}")
        names += [_Name("psubscribe", check_text("patterns", pattern).encode()) for pattern in patterns]
        if not names:
            raise InvalidFieldError("channels", "must be given, or patterns")
        make = partial(make_mailbox, buffer, overflow, key)
        make()
        return PubSubSubscription(self._reader, tuple(dict.fromkeys(names)), make)

    def statistics(self) -> SourceStatistics:
        """Returns the figures in this event loop of all who listen by way of the same plugin."""
        return self._reader().statistics()

    def _reader(self) -> PubSubReader:
        return self._redis.share(PubSubReader, lambda: PubSubReader(self._redis))


class PubSubSubscription(Subscription):
    """A subscription to channels; made by :meth:`RedisPubSub.subscribe`."""

    def __init__(
        self, find: Callable[[], PubSubReader], names: tuple[_Name, ...], make_mailbox: Callable[..., Mailbox]
    ) -> None:
        self._find_reader = find
        self._names = names
        self._make_mailbox = make_mailbox
        self._reader: PubSubReader | None = None
        self._listener: _Listener | None = None

    async def __aenter__(self) -> PubSubSubscription:
        """Waits until Redis has confirmed the subscription, however long it is away."""
        listener = self._join()
        try:
            await listener.live.wait()
        except BaseException:
            self._close()
            raise
        return self

    async def _next(self) -> SSEMessage:
        return await self._take_from(self._join().mailbox)

    def _join(self) -> _Listener:
        if self._listener is None:
            self.live_here()
            self._reader = self._find_reader()
            self._listener = _Listener(self._make_mailbox(tally=self._reader.tally), self._names)
            self._reader.join(self._listener)
        return self._listener

    def _release(self) -> None:
        if self._reader is not None and self._listener is not None:
            self._reader.leave(self._listener)
            self._listener.mailbox.end()


class _Name(NamedTuple):
    command: Literal["subscribe", "psubscribe"]
    name: bytes


class _Question:
    """A command whose reply is still to come."""

    def __init__(self, command: str, name: _Name | None = None) -> None:
        self.command = command
        self.name = name

    def __call__(self) -> Command:
        return (self.command,) if self.name is None else (self.command, self.name.name)


class _Listener:
    """What the reader knows of a subscription: not the subscription, so that one which is dropped is let go."""

    def __init__(self, mailbox: Mailbox, names: tuple[_Name, ...]) -> None:
        self.mailbox = mailbox
        self.names = names
        self.live = anyio.Event()
        """Set once Redis has confirmed all names, or there is an end."""
        self.lost_at: float | None = None
        """Since when messages may be missing."""

    def end(self, error: Exception | None) -> None:
        self.mailbox.end(error)
        self.live.set()


class PubSubReader:
    """The one connection, and who listens to what."""

    def __init__(self, redis: RedisPlugin) -> None:
        self._redis = redis
        self._listeners: dict[_Name, dict[_Listener, None]] = {}
        self._asked: dict[_Name, _Question] = {}
        """What Redis has been asked to send, by the last command for each name."""
        self._confirmed: set[_Name] = set()
        self._pending: deque[_Question] = deque()
        """The commands whose replies are still to come."""
        self._heard = 0.0
        """When Redis has last been heard of."""
        self._passed_on = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.tally = redis.tally(PubSubReader)
        self._outage = Outage("Pub/Sub", self.tally)

    def join(self, listener: _Listener) -> None:
        if self._closing:
            raise SourceUnavailableError("the connection to Redis has been closed")
        for name in listener.names:
            self._listeners.setdefault(name, {})[listener] = None
        self._look_whether_live(listener)
        self._wake.set()
        if self._task is None:
            self._task = spawn(self._work(), "SSE Pub/Sub of Redis")

    def leave(self, listener: _Listener) -> None:
        for name in listener.names:
            listeners = self._listeners.get(name)
            if listeners is not None:
                listeners.pop(listener, None)
                if not listeners:
                    del self._listeners[name]
        self._wake.set()

    async def aclose(self) -> None:
        """Ends every subscription, and the connection."""
        self._closing = True
        for listener in self._everybody():
            listener.end(None)
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def statistics(self) -> SourceStatistics:
        return self.tally.of_source(self._listeners, [listener.mailbox for listener in self._everybody()])

    def _everybody(self) -> list[_Listener]:
        return list(dict.fromkeys(listener for listeners in self._listeners.values() for listener in listeners))

    async def _work(self) -> None:
        backoff = Backoff()
        try:
            while self._listeners:
                try:
                    await self._connect_and_listen(backoff)
                except SourceUnavailableError as error:
                    self._outage.begin(error)
                    await backoff.wait()
                except SourceRefusedError as error:
                    self._end_everybody(error)
        except Exception as error:
            self._end_everybody(error)
        finally:  # whoever subscribes from now on is given another reader
            self._end_everybody(SourceUnavailableError("the connection to Redis has been closed"))
            self._task = None
            self._redis.forget(PubSubReader, self)

    def _end_everybody(self, error: Exception) -> None:
        for listener in self._everybody():
            if isinstance(error, (SourceRefusedError, SourceUnavailableError)):
                listener.end(type(error)(*error.args))  # one for each: a traceback has one home
            else:
                failure = SourceUnavailableError(f"what reads from Redis has failed ({type(error).__name__}: {error})")
                failure.__cause__ = error
                listener.end(failure)
            self.leave(listener)

    async def _connect_and_listen(self, backoff: Backoff) -> None:
        connection = await self._redis.connect()
        self._heard = monotonic()
        tasks = {spawn(self._ask(connection), "SSE Pub/Sub of Redis"), spawn(self._listen(connection, backoff), "")}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lose_touch()
            for task in tasks:
                task.cancel()
            await connection.aclose()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _lose_touch(self) -> None:
        self._asked.clear()
        self._confirmed.clear()
        self._pending.clear()
        for listener in self._everybody():
            if listener.live.is_set() and listener.lost_at is None:
                listener.lost_at = self._heard

    async def _ask(self, connection: RedisConnection) -> None:
        """Asks Redis for what is listened to, and only for that; returns when that has been nothing for a while."""
        while True:
            self._wake.clear()
            if questions := self._questions():
                await self._send(connection, questions)
            with anyio.move_on_after(_HEARTBEAT if self._listeners else _LINGER) as quiet:
                await self._wake.wait()
            if quiet.cancelled_caught:
                if not self._listeners:
                    return
                await self._send(connection, [_Question("ping")])

    def _questions(self) -> list[_Question]:
        gone = [name for name in self._asked if name not in self._listeners]
        for name in gone:
            del self._asked[name]
            self._confirmed.discard(name)
        new = {name: _Question(name.command, name) for name in self._listeners if name not in self._asked}
        self._asked.update(new)
        return [*new.values(), *(_Question(_opposite(name), name) for name in gone)]

    async def _send(self, connection: RedisConnection, questions: Sequence[_Question]) -> None:
        self._pending.extend(questions)
        try:
            with anyio.fail_after(self._redis.reply_timeout):
                await connection.send([pack(question()) for question in questions])
        except TimeoutError as error:
            raise SourceUnavailableError("Redis takes no commands") from error

    async def _listen(self, connection: RedisConnection, backoff: Backoff) -> None:
        while True:
            try:
                with anyio.fail_after(_HEARTBEAT + self._redis.reply_timeout):
                    reply = await connection.receive()
            except TimeoutError as error:
                raise SourceUnavailableError("Redis gives no sign of life") from error
            if isinstance(reply, Exception):
                self._refused(reply)
                continue
            backoff.reset()
            self._outage.end()
            self._heard = monotonic()
            kind = reply[0] if isinstance(reply, list) else reply
            if kind == b"message":
                await self._pass_on(_Name("subscribe", reply[1]), reply[1], reply[2], None)
            elif kind == b"pmessage":
                await self._pass_on(_Name("psubscribe", reply[1]), reply[2], reply[3], reply[1])
            else:
                self._answered()

    async def _pass_on(self, name: _Name, channel: bytes, payload: bytes, pattern: bytes | None) -> None:
        listeners = self._listeners.get(name)
        if not listeners:
            return
        topic = channel.decode(errors="replace")
        message = PubSubMessage(
            data=payload.decode(errors="replace"),
            channel=topic,
            pattern=None if pattern is None else pattern.decode(errors="replace"),
        )
        for listener in tuple(listeners):
            listener.mailbox.put(topic, message)
        self._passed_on += 1
        if self._passed_on % TURN == 0:
            await asyncio.sleep(0)  # else replies that are here already keep everybody from running
            await give_turn(listener.mailbox for listener in tuple(listeners))

    def _answered(self) -> None:
        question = self._pending.popleft()
        name = question.name
        if name is None or self._asked.get(name) is not question:  # it has been taken back since
            return
        self._confirmed.add(name)
        for listener in tuple(self._listeners.get(name, ())):
            self._look_whether_live(listener)

    def _refused(self, reply: Exception) -> None:
        error = translate(reply)
        if isinstance(error, SourceUnavailableError):
            raise error from reply
        name = self._pending.popleft().name
        if name is not None:
            for listener in tuple(self._listeners.get(name, ())):
                listener.end(type(error)(*error.args))
                self.leave(listener)
            self._asked.pop(name, None)

    def _look_whether_live(self, listener: _Listener) -> None:
        if not self._confirmed.issuperset(listener.names):
            return
        listener.live.set()
        if listener.lost_at is not None:
            seconds, listener.lost_at = monotonic() - listener.lost_at, None
            self.tally.gaps += 1
            listener.mailbox.put_own(SSEMessage(Gap(round(seconds, 3)), GAP))


def _opposite(name: _Name) -> str:
    return "unsubscribe" if name.command == "subscribe" else "punsubscribe"
