"""What is published to the topics in use, over one connection.

A channel has the name of the topic's key. Where Redis has sharded channels (7.0 and later) they are those, so that on a
cluster a message goes to one node: https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

import anyio

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.redis._commands import pack
from litestar_safe_sse.sources.redis._errors import translate

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator
    from typing import Any

    from litestar_safe_sse.sources.redis.connection import RedisConnection
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("Ears", "Listener", "together")

_HEARTBEAT = 10.0
"""Seconds after which Redis is asked for a sign of life."""

_AT_ONCE = 512
"""Channels that are subscribed to by one write."""


class Listener(Protocol):
    """Who is told what is heard."""

    def wants(self, topic: str) -> bool:
        """Returns whether a topic is in use."""
        ...

    def begin(self, topic: str) -> None:
        """Called when all that is published to a topic from now on is heard; what came before may not have been."""
        ...

    async def hear(self, topic: str, payload: bytes) -> None:
        """Called with what was published."""
        ...


class Ears:
    """Listens to the channels of the topics in use.

    Args:
        redis: Where connections come from.
        prefix: What the names of the channels begin with.
        listener: Who is told.
    """

    def __init__(self, redis: RedisPlugin, prefix: str, listener: Listener) -> None:
        self._redis = redis
        self._prefix = prefix.encode()
        self._listener = listener
        self._sharded = True
        self._asked: set[str] = set()
        """The topics that Redis was asked for last, and not asked to be silent about."""
        self._changed: dict[str, None] = {}
        """Those that came into use, or went, since then."""
        self._pending: deque[tuple[str, bool]] = deque()
        """The commands whose replies are still to come: topics, and whether they were asked for."""
        self._wake = asyncio.Event()
        self._connected = False

    @property
    def listens(self) -> bool:
        """Whether all that is published to the topics in use is heard."""
        return self._connected and not self._changed and not self._pending

    def change(self, topic: str) -> None:
        """Notes that a topic came into use, or went."""
        if self._connected:
            self._changed[topic] = None
            self._wake.set()

    async def listen(self, topics: Iterable[str]) -> None:
        """Listens until the connection is lost, or it is cancelled; hears nothing if it is not allowed to.

        Args:
            topics: Those in use.

        Raises:
            SourceUnavailableError: The connection is lost.
            SourceRefusedError: Redis doesn't let us in.
        """
        connection = await self._redis.connect()
        try:
            may = await self._may_subscribe(connection)
            self._asked.clear()
            self._pending.clear()
            self._changed = dict.fromkeys(topics)
            self._connected = True
            await (together(self._ask(connection), self._hear(connection)) if may else self._be_deaf())
        finally:
            self._connected = False
            await connection.aclose()

    async def _be_deaf(self) -> None:
        while True:
            self._wake.clear()
            topics, self._changed = [*self._changed], {}
            for topic in topics:
                self._listener.begin(topic)  # it is read now, and whenever it is polled
            await self._wake.wait()

    async def _may_subscribe(self, connection: RedisConnection) -> bool:
        """Returns whether we may, and finds out how: by a channel that no topic has."""
        for self._sharded in (True, False):
            with anyio.move_on_after(self._redis.reply_timeout):
                await connection.send([pack((self._command(True), self._prefix))])
                reply = await connection.receive()
                if not isinstance(reply, Exception):
                    return True
                error = translate(reply)
                if isinstance(error, SourceUnavailableError):
                    raise error from reply
                continue
            raise SourceUnavailableError("Redis does not answer; is it overloaded, or the network gone?")
        return False

    def _command(self, begin: bool) -> str:
        return ("S" if self._sharded else "") + ("SUBSCRIBE" if begin else "UNSUBSCRIBE")

    async def _ask(self, connection: RedisConnection) -> None:
        """Asks Redis for the topics that come into use, and to be silent about those that go."""
        while True:
            self._wake.clear()
            topics, self._changed = [*self._changed], {}
            for start in range(0, len(topics), _AT_ONCE):
                if questions := [*self._questions(topics[start : start + _AT_ONCE])]:
                    await self._send(connection, questions)
            with anyio.move_on_after(_HEARTBEAT) as quiet:
                await self._wake.wait()
            if quiet.cancelled_caught:
                await self._send(connection, [pack(("PING",))])

    def _questions(self, topics: Iterable[str]) -> Iterator[bytes]:
        for topic in topics:
            wanted, asked = self._listener.wants(topic), topic in self._asked
            if wanted and asked:
                self._listener.begin(topic)  # it went, and came back: what was heard in between was heard by nobody
            elif wanted or asked:
                (self._asked.add if wanted else self._asked.discard)(topic)
                self._pending.append((topic, wanted))
                yield pack((self._command(wanted), self._prefix + topic.encode()))

    async def _send(self, connection: RedisConnection, packed: list[bytes]) -> None:
        try:
            with anyio.fail_after(self._redis.reply_timeout):
                await connection.send(packed)
        except TimeoutError as error:
            raise SourceUnavailableError("Redis takes no commands") from error

    async def _hear(self, connection: RedisConnection) -> None:
        while True:
            try:
                with anyio.fail_after(_HEARTBEAT + self._redis.reply_timeout):
                    reply = await connection.receive()
            except TimeoutError as error:
                raise SourceUnavailableError("Redis gives no sign of life") from error
            kind = reply[0] if isinstance(reply, list) else reply
            if kind == b"smessage" or kind == b"message":
                await self._listener.hear(self._topic(reply[1]), reply[2])
            elif isinstance(reply, list) and isinstance(kind, bytes) and kind.endswith(b"subscribe"):
                self._answered(self._topic(reply[1]), begin=not kind.endswith(b"unsubscribe"))
            elif isinstance(reply, Exception):
                self._refused(reply)

    def _topic(self, channel: bytes) -> str:
        return bytes(channel)[len(self._prefix) :].decode(errors="replace")

    def _answered(self, topic: str, *, begin: bool) -> None:
        if not self._pending or self._pending.popleft() != (topic, begin):  # the slot has moved to another node
            raise SourceUnavailableError("Redis has ended a subscription of its own accord")
        if begin:
            self._listener.begin(topic)

    def _refused(self, reply: Exception) -> None:
        """Takes a channel that we may not listen to for one of which nothing is heard."""
        error = translate(reply)
        if isinstance(error, SourceUnavailableError) or not self._pending:
            raise error from reply
        self._listener.begin(self._pending.popleft()[0])  # it is read now, and whenever it is polled


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Runs what belongs together until one of them ends or fails, then ends the others."""
    tasks = {spawn(work, "SSE event log on Redis") for work in works}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
