"""An event log on Redis Streams, for any number of processes.

A topic is a stream. Its entries have IDs of ours, ``epoch-number``: the epoch is when the topic was made, in
milliseconds of Redis's clock, and the numbers have no gaps. Each entry has a random nonce, and the nonce of the entry
before it. So it shows when entries are missing, also if Redis has lost its last ones (a crash with ``appendfsync
everysec``, a fail-over) and others have taken their IDs. The first entry, number 0, is no event: it is what makes a
topic that has none last.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_duration, check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._cursor import Position, cursor, record, tag
from litestar_safe_sse.sources._fan_out import PAGE, Extent, Hub, LogSubscription, StoredEvent, SubscribeOptions
from litestar_safe_sse.sources._stored import Renderer, check_topic
from litestar_safe_sse.sources._subscription import Key, Overflow
from litestar_safe_sse.sources.event_log import EventLog, EventLogStatistics, OnReset, StartAt
from litestar_safe_sse.sources.redis.connection import Backoff, RedisLink, RedisPlugin, spawn

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster


__all__ = ("RedisEventLog",)

T = TypeVar("T")

IDEMPOTENCY = 600.0
"""Seconds for which an idempotency key is known."""

_SLICE = 1.0
"""Seconds that Redis waits for an event before it answers that there is none: https://redis.io/commands/xread/"""

_BATCH = 200
"""Entries of a topic that are read at once."""

_CHECK = 128
"""Topics that are looked at by one script."""

_TURN = 8
"""Events after which the subscribers get a turn to take them; less than any sensible buffer."""

_NEWEST = """
local function newest(key)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if entry and entry[2][1] ~= 'nonce' then error('the stream is none of an event log') end
  return entry
end
local function create(key, nonce)
  redis.call('DEL', key)
  local now = redis.call('TIME')
  local epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('XADD', key, epoch .. '-0', 'nonce', nonce)
  return {epoch .. '-0', {'nonce', nonce}}
end
"""

_APPEND = (
    _NEWEST
    + """
local max_events, expire, nonce, remember = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
if KEYS[2] then
  local known = redis.call('GET', KEYS[2])
  if known then return known end
end
local last = newest(KEYS[1]) or create(KEYS[1], nonce)
local epoch, number = string.match(last[1], '(%d+)-(%d+)')
local id = epoch .. '-' .. string.format('%.0f', number + 1)
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', max_events + 1, id, 'nonce', nonce, 'before', last[2][2], unpack(fields))
redis.call('PEXPIRE', KEYS[1], expire)
local answer = id .. '-' .. nonce
if KEYS[2] then redis.call('SET', KEYS[2], answer, 'PX', remember) end
return answer
"""
)
"""KEYS: the topic, and maybe the idempotency key. ARGV: events to keep, milliseconds the topic lasts, the nonce,
milliseconds an idempotency key is known, and the fields. Returns the ID and the nonce."""

_LOOK = (
    _NEWEST
    + """
local expire, nonce = ARGV[1], ARGV[2]
local function look(key, id)
  local last = newest(key) or create(key, nonce)
  redis.call('PEXPIRE', key, expire)
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local asked = id ~= '' and redis.call('XRANGE', key, id, id)[1]
  return {'', first[1], first[2][2], first[2][4] or '', last[1], last[2][2], asked and asked[2][2] or ''}
end
local found = {}
for i, key in ipairs(KEYS) do
  local done, extent = pcall(look, key, ARGV[i + 2])
  found[i] = done and extent or {type(extent) == 'table' and extent.err or tostring(extent)}
end
return found
"""
)
"""KEYS: topics. ARGV: milliseconds they last, a nonce for those that are made, and an ID to ask about for each. Returns
for each an error or ``''``; of the first entry the ID, the nonce and the one before; of the last the ID and the nonce;
and the nonce of the ID asked about, or ``''``."""

_logger = logging.getLogger("litestar_safe_sse")


class RedisEventLog(EventLog):
    """An event log on Redis Streams: shared by all processes that give the same Redis, prefix and name.

    Whatever the number of streams and topics, a process holds two connections for it: one on which it waits for events,
    and the one that all sources share for short commands. While Redis is away streams stay open; when it is back,
    what was missed is fetched.

    Redis has to allow ``PING``, ``EVAL``, ``XADD``, ``XRANGE``, ``XREVRANGE``, ``XREAD``, ``DEL``, ``PEXPIRE``,
    ``GET``, ``SET`` and ``TIME``. It should allow ``CLIENT ID`` and ``CLIENT UNBLOCK``: without them the first live
    event of a topic is up to a second late.

    Args:
        redis: A ``RedisPlugin``, or whatever one can be made of: a URL, a client, or a function that makes one.
        name: Part of the keys: ``{sse}:log:<topic>``, so that there can be several logs.
        max_events: Events kept of each topic, at least; up to a hundred more are (``XADD`` with ``MAXLEN ~``).
        expire_after: Seconds after which a topic goes that nobody appends or is subscribed to.
        max_bytes: Bytes that one event may have.
        enc_hook: Makes something that msgspec encodes of an object that it doesn't; Litestar's own unless given.

    Raises:
        InvalidFieldError: An argument won't do.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        redis: RedisPlugin | str | Redis | RedisCluster | Callable[[], Redis | RedisCluster],
        *,
        name: str = "log",
        max_events: int = 10_000,
        expire_after: float = 86_400.0,
        max_bytes: int = 1024 * 1024,
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        check_integer("max_events", max_events, minimum=1)
        check_duration("expire_after", expire_after)
        if expire_after < 1:
            raise InvalidFieldError("expire_after", f"{expire_after} s is too short to be refreshed; give 1 or more")
        check_integer("max_bytes", max_bytes, minimum=1)
        if not check_text("name", name) or ":" in name:
            raise InvalidFieldError("name", f"{name!r:.40} won't do; give one without a colon")
        self._redis = RedisPlugin.of(redis)
        self._name = name
        self._max_events = max_events
        self._expire = round(expire_after * 1000)
        self._renderer = Renderer(max_bytes, enc_hook)

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`. Appends that coincide share a round trip."""
        keys = [self._redis.key(self._name, check_topic(topic))]
        fields = _fields(self._renderer.render(message))
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key)
            keys.append(self._redis.key(f"{self._name}.once", f"{len(topic)}", topic, idempotency_key))
        settings = self._max_events, self._expire, _nonce(), round(IDEMPOTENCY * 1000)
        try:
            answer = await self._redis.execute("EVAL", _APPEND, len(keys), *keys, *settings, *fields)
        except SourceRefusedError as error:
            raise SourceRefusedError(f"topic {topic!r}: {error}") from error
        identity, _, nonce = bytes(answer).rpartition(b"-")
        return cursor([record(tag(topic), _position(identity, nonce))])

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
        options = SubscribeOptions(start, on_reset, buffer, overflow, key)
        return LogSubscription(self._hub, topics, after, options)

    def statistics(self) -> EventLogStatistics:
        """The log's figures, in this event loop, at this moment."""
        return self._hub().statistics()

    def _hub(self) -> RedisHub:
        def make() -> RedisHub:
            return RedisHub(self._redis, self._name, self._expire)

        return self._redis.hub(("event log", self._name, self._expire), make)


class RedisHub(Hub):
    """One event loop's reader of a log, and what is shared by its subscribers."""

    def __init__(self, redis: RedisPlugin, name: str, expire: int) -> None:
        super().__init__()
        self._redis = redis
        self._prefix = redis.key(name, "")
        self._expire = expire
        self._reader: asyncio.Task[None] | None = None
        self._link: RedisLink | None = None
        """The reader's connection, while it waits."""
        self._interrupt: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._away = False

    async def look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent]:
        """See :meth:`Hub.look`."""
        found = await self._insist(lambda: self._look(wanted))
        for extent in found.values():
            if isinstance(extent, SourceRefusedError):
                raise extent
        return found  # type: ignore[return-value]

    async def page(self, topic: str, after: Position, upto: Position) -> Sequence[StoredEvent]:
        """See :meth:`Hub.page`."""
        first, last = f"{after.epoch}-{after.seq + 1}", f"{upto.epoch}-{upto.seq}"
        command = ("XRANGE", self._prefix + topic, first, last, "COUNT", PAGE)
        entries = await self._insist(lambda: self._redis.execute(*command))
        return [_event(*entry) for entry in entries]

    def on_use(self) -> None:
        """Has the reader read a new topic too, at once."""
        if self._reader is None:
            self._reader = spawn(self._read(), "SSE event log on Redis")
        elif self._link is not None and self._interrupt is None:
            self._interrupt = spawn(self._link.interrupt(), "SSE event log on Redis: a new topic")

    async def aclose(self) -> None:
        """Ends the reader, and all subscriptions."""
        self._closing.set()
        self._lose_all(SourceUnavailableError("the connection to Redis has been closed"))
        if self._link is not None:
            await self._link.interrupt()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again, after pauses, until Redis can be reached."""
        backoff = Backoff()
        while True:
            try:
                return await ask()
            except SourceUnavailableError as error:
                if self._closing.is_set():
                    raise
                self._notify_away(error)
                await backoff.wait(self._closing)

    async def _look(self, wanted: Mapping[str, Position | None]) -> dict[str, Extent | SourceRefusedError]:
        keys = [self._prefix + topic for topic in wanted]
        ids = ["" if place is None else f"{place.epoch}-{place.seq}" for place in wanted.values()]
        found = await self._redis.execute("EVAL", _LOOK, len(keys), *keys, self._expire, _nonce(), *ids)
        return {topic: _extent(topic, wanted[topic], reply) for topic, reply in zip(wanted, found, strict=True)}

    # The reader

    async def _read(self) -> None:
        """Reads while there are topics in use, and for the rest of the slice in which the last one went."""
        link = self._redis.link()
        backoff = Backoff()
        check_at = 0.0
        refused: SourceRefusedError | None = None
        try:
            while self.channels and not self._closing.is_set():
                try:
                    if monotonic() >= check_at:
                        await link.submit("PING")  # connected, it can be interrupted
                        await self._check(refused)
                        check_at = monotonic() + self._expire / 3000
                        refused = None
                    else:
                        await self._pass_on(await self._wait(link))
                    self._notify_back()
                    backoff.reset()
                except SourceUnavailableError as error:
                    self._notify_away(error)
                    check_at = 0.0  # whatever has happened to Redis may have happened to what is stored
                    await backoff.wait(self._closing)
                except SourceRefusedError as error:
                    refused = error
                    check_at = 0.0
        finally:
            self._reader = None  # whoever comes now starts another
            self._stop_interrupt()
            self._lose_all(SourceUnavailableError("the reader of the event log has ended"))
            await link.aclose()

    async def _wait(self, link: RedisLink) -> Any:
        """Waits for entries of the topics in use: https://redis.io/commands/xread/"""
        keys = [self._prefix + topic for topic in self.channels]
        ids = [f"{channel.position.epoch}-{channel.position.seq}" for channel in self.channels.values()]
        self._stop_interrupt()
        self._link = link
        block = min(round(_SLICE * 1000), self._expire // 3)
        try:
            return await link.submit("XREAD", "COUNT", _BATCH, "BLOCK", block, "STREAMS", *keys, *ids, wait=_SLICE)
        finally:
            self._link = None

    async def _pass_on(self, reply: Any) -> None:
        passed_on = 0
        for key, entries in reply or ():
            topic = bytes(key).decode()[len(self._prefix) :]
            for entry in entries:
                self.publish(topic, _event(*entry))
                passed_on += 1
                if passed_on % _TURN == 0:
                    await asyncio.sleep(0)

    async def _check(self, refused: SourceRefusedError | None) -> None:
        """Makes sure that every topic still has the event that was passed on last, and keeps it from expiring.

        Args:
            refused: Why the topics can't be read. One of them may have had the reading of all refused; if none has,
                everyone is told.
        """
        channels = tuple(self.channels.values())
        try:
            for start in range(0, len(channels), _CHECK):
                part = {channel.topic: channel for channel in channels[start : start + _CHECK]}
                found = await self._look({topic: channel.position for topic, channel in part.items()})
                for topic, extent in found.items():
                    if isinstance(extent, SourceRefusedError):
                        self.lose(part[topic], extent)
                    elif not extent.found:
                        self.lose(part[topic])
        except SourceRefusedError as error:
            refused = error
        if refused is not None and not any(channel.lost for channel in channels):
            self._lose_all(refused)

    def _lose_all(self, error: Exception) -> None:
        for channel in tuple(self.channels.values()):
            self.lose(channel, error)

    def _stop_interrupt(self) -> None:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt.cancel()

    def _notify_away(self, error: SourceUnavailableError) -> None:
        if not self._away and not self._closing.is_set():
            self._away = True
            _logger.warning("the event log is waiting for Redis: %s", error)

    def _notify_back(self) -> None:
        if self._away:
            self._away = False
            _logger.warning("the event log reads from Redis again")


def _nonce() -> str:
    return secrets.token_hex(4)


def _position(identity: bytes, nonce: bytes) -> Position:
    epoch, _, seq = identity.partition(b"-")
    return Position(int(epoch), int(seq), int(nonce, 16))


def _extent(topic: str, wanted: Position | None, reply: list[bytes]) -> Extent | SourceRefusedError:
    if reply[0]:
        return SourceRefusedError(f"topic {topic!r}: {reply[0].decode()}")
    _, first, first_nonce, before_first, last, last_nonce, found = reply
    oldest = _position(first, first_nonce)
    if before_first:
        oldest = Position(oldest.epoch, oldest.seq - 1, int(before_first, 16))
    known = wanted is not None and (wanted == oldest or (found != b"" and int(found, 16) == wanted.nonce))
    return Extent(oldest, _position(last, last_nonce), known)


def _fields(message: SSEMessage) -> list[str]:
    named = {"event": message.event, "data": message.data, "retry": message.retry, "comment": message.comment}
    fields: list[str] = []
    for name, value in named.items():
        if value is not None and value is not UNSET:
            fields += name, str(value)
    return fields


def _event(identity: bytes, fields: list[bytes]) -> StoredEvent:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    text = {name: named[name].decode() for name in (b"data", b"event", b"comment") if name in named}
    retry = int(named[b"retry"]) if b"retry" in named else None
    try:
        position = _position(identity, named[b"nonce"])
        before = int(named.get(b"before", b"0"), 16)
        if position.seq == 0:  # the mark of a beginning, which follows nothing
            return StoredEvent(position, before, SSEMessage(""))
        message = SSEMessage(text.get(b"data", UNSET), text.get(b"event"), None, retry, text.get(b"comment"))
    except (KeyError, ValueError) as error:
        raise SourceRefusedError(f"the entry {identity.decode()} is none of an event log") from error
    return StoredEvent(position, before, message)
