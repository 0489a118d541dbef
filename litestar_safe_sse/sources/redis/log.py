"""An event log on Redis Streams, for any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources._door import Door
from litestar_safe_sse.sources._fan_out_log import FanOutLog
from litestar_safe_sse.sources._lives import FORGET_KEYS_AFTER, Lives
from litestar_safe_sse.sources.redis._appending import APPEND, DELETE, Appending, Keys, ids, last_id, refusal
from litestar_safe_sse.sources.redis._log_reader import LogReader
from litestar_safe_sse.sources.redis._presence import RedisAttendance
from litestar_safe_sse.sources.redis.plugin import RedisPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from litestar_safe_sse.sources._door import Authorize
    from litestar_safe_sse.sources._presence import Who
    from litestar_safe_sse.sources.event_log import HistoryOf
    from litestar_safe_sse.sources.redis._commands import Argument
    from litestar_safe_sse.sources.redis._scripts import Script
    from litestar_safe_sse.sources.redis.connection import RedisAddress

__all__ = ("RedisEventLog",)


class RedisEventLog(FanOutLog):
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
    that it reads from expiring; both are left out where the permission is missing. With ``presence`` who subscribes
    needs ``EVAL``, ``EVALSHA``, ``ZADD``, ``ZREM``, ``ZREMRANGEBYSCORE`` and ``PEXPIRE`` as well, and who asks for it
    ``ZRANGE``.

    Args:
        redis: A ``RedisPlugin``, or whatever one can be made of: a URL, a client, or a function that makes one.
        name: Part of the keys: ``{sse}:log:<topic>``, so that there can be several logs.
        max_events: Events kept of each topic, at least; up to a hundred more are (``XADD`` with ``MAXLEN ~``).
        expire_after: Seconds after which a topic goes that nobody appends or is subscribed to.
        max_bytes: Bytes that one event may have.
        history: A function that returns what is kept of a topic, where that is something else.
        forget_keys_after: Seconds after which an idempotency key is forgotten; each is a key in Redis until then.
        authorize: An async function of the connection and the topics, asked when a stream subscribes. If it raises, or
            returns ``False``, the stream is refused.
        presence: A function of the connection that returns who it is, or ``None`` for one without a name: then
            :meth:`~EventLog.presence` tells who is subscribed.
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
        history: HistoryOf | None = None,
        forget_keys_after: float = FORGET_KEYS_AFTER,
        authorize: Authorize | None = None,
        presence: Who | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        self._door = Door(authorize, presence)
        self._redis = RedisPlugin.of(redis)
        self._keys = Keys(self._redis.prefix, name)
        self._lives = Lives(max_events, expire_after, history, forget_keys_after)
        self._appending = Appending(self._keys, self._lives, max_bytes, enc_hook)
        self._shared = "event log", self._keys.secret, self._lives.identity

    async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """See :meth:`EventLog.append`. Appends that coincide share a round trip."""
        arguments = self._appending.append(topic, message, idempotency_key)
        return last_id(topic, await self._append(topic, arguments, 1))

    async def append_many(
        self, topic: str, messages: Iterable[object], *, idempotency_key: str | None = None
    ) -> list[str]:
        """See :meth:`EventLog.append_many`."""
        rendered = self._appending.render_all(messages)
        arguments = self._appending.append_many(topic, rendered, idempotency_key)
        return ids(topic, await self._append(topic, arguments, len(rendered))) if rendered else []

    async def finish(self, topic: str) -> str:
        """See :meth:`EventLog.finish`."""
        return last_id(topic, await self._append(topic, self._appending.finish(topic), 1))

    def queue_append(self, pipeline: Any, topic: str, message: object, *, idempotency_key: str | None = None) -> None:
        """Has one event stored by a pipeline, with whatever else that does: all of it or nothing, by ``MULTI``.

        The pipeline is the caller's, of any client of redis-py's, for asyncio or not, and goes to the Redis of the log;
        on a cluster its other keys have to be in the slot of the log's prefix. What its reply says is for nobody. A
        topic that is finished makes the pipeline raise redis-py's ``ResponseError``, and nothing is stored; the other
        commands of the transaction are carried out.

        Args:
            pipeline: A pipeline, which is not executed here.
            topic: The topic.
            message: The message, as for :meth:`append`.
            idempotency_key: As for :meth:`append`.

        Raises:
            InvalidFieldError: It is no pipeline, or the topic or the message can't be stored.
        """
        self._appending.queue(pipeline, topic, message, idempotency_key)

    async def delete(self, topic: str) -> None:
        """See :meth:`EventLog.delete`."""
        await self._run(topic, DELETE, self._appending.delete(topic))
        self._fan_out().distrust(topic)

    async def _append(self, topic: str, arguments: Sequence[Argument], many: int) -> Any:
        reply = await self._run(topic, APPEND, arguments)
        self._fan_out().tally.appended += many
        return reply

    async def _run(self, topic: str, script: Script, arguments: Sequence[Argument]) -> Any:
        try:
            return await self._redis.run(script, *arguments)
        except SourceRefusedError as error:
            raise refusal(topic, error, error.__cause__) from error

    def _fan_out(self) -> LogReader:
        return self._redis.share(self._shared, self._make_reader)

    def _make_reader(self) -> LogReader:
        return LogReader(self._redis, self._keys, self._lives)

    def _attendance(self) -> RedisAttendance:
        key = self._keys.present
        return self._redis.share(("presence", key), lambda: RedisAttendance(self._redis, key))
