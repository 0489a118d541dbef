"""An event log on Redis Streams, for any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse.config import check_duration, check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError
from litestar_safe_sse.sources._cursor import cursor, record, tag
from litestar_safe_sse.sources._log_subscription import LogSubscription, SubscribeOptions
from litestar_safe_sse.sources._stored import Renderer, check_topic
from litestar_safe_sse.sources.event_log import EventLog, OnReset, StartAt
from litestar_safe_sse.sources.redis._entries import APPEND, as_fields, new_nonce, new_secret, to_position
from litestar_safe_sse.sources.redis._log_reader import LogReader, secret_key
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar_safe_sse.sources._subscription import Key, Overflow
    from litestar_safe_sse.sources.redis.connection import RedisAddress
    from litestar_safe_sse.sources.statistics import EventLogStatistics

__all__ = ("RedisEventLog",)

IDEMPOTENCY = 600.0
"""Seconds for which an idempotency key is known."""


class RedisEventLog(EventLog):
    """An event log on Redis Streams: shared by all processes that give the same Redis, prefix and name.

    Whatever the number of streams and topics, a process holds two connections for it: one on which it hears of events,
    and the one that all sources share for short commands. While Redis is away streams stay open; when it is back,
    what was missed is fetched.

    An append stores its event, and publishes it to a channel of the topic's own, so that an event costs those who are
    subscribed to it, whatever the number of topics. What a process has not heard it reads from where it is stored.

    Who subscribes needs ``PING``, ``TIME``, ``GET``, ``XRANGE``, ``XREVRANGE``, ``XREAD``, ``SSUBSCRIBE`` and
    ``SUNSUBSCRIBE``, and who appends needs ``PING``, ``EVAL``, ``EVALSHA``, ``TIME``, ``GET``, ``SET``, ``DEL``,
    ``XADD``, ``XREVRANGE``, ``PEXPIRE`` and ``SPUBLISH``. Before Redis 7.0 the last ones are ``SUBSCRIBE``,
    ``UNSUBSCRIBE`` and ``PUBLISH``. Where they are not allowed, events come a second late, or more if there are more
    than 1,000 topics in a process.
    To subscribe writes nothing, except that it makes the log's secret if nobody has appended yet, and keeps the topics
    that it reads from expiring; both are left out where the permission is missing.

    Args:
        redis: A ``RedisPlugin``, or whatever one can be made of: a URL, a client, or a function that makes one.
        name: Part of the keys: ``{sse}:log:<topic>``, so that there can be several logs.
        max_events: Events kept of each topic, at least; up to a hundred more are (``XADD`` with ``MAXLEN ~``).
        expire_after: Seconds after which a topic goes that nobody appends or is subscribed to.
        max_bytes: Bytes that one event may have.
        enc_hook: Makes something that msgspec encodes of an object that it doesn't; Litestar's own unless given.

    Raises:
        InvalidFieldError: An argument can't be used.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        redis: RedisPlugin | RedisAddress,
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
            raise InvalidFieldError(
                "expire_after", f"must be 1 s or more, so that it can be refreshed, not {expire_after}"
            )
        check_integer("max_bytes", max_bytes, minimum=1)
        if not check_text("name", name) or ":" in name:
            raise InvalidFieldError("name", f"must be a name without a colon, not {name!r:.40}")
        self._redis = RedisPlugin.of(redis)
        self._name = name
        self._max_events = max_events
        self._expire = round(expire_after * 1000)
        self._renderer = Renderer(max_bytes, enc_hook)

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`. Appends that coincide share a round trip."""
        keys = [self._redis.key(self._name, check_topic(topic)), secret_key(self._redis, self._name)]
        fields = as_fields(self._renderer.render(message))
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key)
            keys.append(self._redis.key(f"{self._name}.once", f"{len(topic)}", topic, idempotency_key))
        settings = self._max_events, self._expire, new_nonce(), round(IDEMPOTENCY * 1000), new_secret()
        try:
            answer = await self._redis.run(APPEND, len(keys), *keys, *settings, *fields)
        except SourceRefusedError as error:
            raise SourceRefusedError(f"topic {topic!r}: {error}") from error
        self._reader().tally.appended += 1
        identity, _, nonce = bytes(answer).rpartition(b"-")
        return cursor([record(tag(topic), to_position(identity, nonce))])

    def subscribe(
        self,
        *topics: str,
        after: str | None = None,
        start: StartAt = "latest",
        on_reset: OnReset | None = None,
        buffer: int = 256,
        overflow: Overflow = "close",
        key: Key | None = None,
    ) -> LogSubscription:
        """See :meth:`EventLog.subscribe`."""
        options = SubscribeOptions(start, on_reset, buffer, overflow, key)
        return LogSubscription(self._reader, topics, after, options)

    def statistics(self) -> EventLogStatistics:
        """See :meth:`EventLog.statistics`."""
        return self._reader().statistics()

    def _reader(self) -> LogReader:
        def make() -> LogReader:
            return LogReader(self._redis, self._name, self._expire)

        return self._redis.share(("event log", self._name, self._expire), make)
