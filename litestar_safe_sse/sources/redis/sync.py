"""An event log on Redis for code that has no event loop: a Celery task, a script, a shell. It appends, and no more."""

from __future__ import annotations

import math
from contextlib import nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.exceptions import InvalidFieldError, MissingExtraError
from litestar_safe_sse.sources._lives import FORGET_KEYS_AFTER, Lives
from litestar_safe_sse.sources.redis import _redis_py
from litestar_safe_sse.sources.redis._appending import APPEND, DELETE, Appending, Keys, ids, last_id, refusal
from litestar_safe_sse.sources.redis._commands import plain
from litestar_safe_sse.sources.redis._errors import code_of, needs_new_connection, translate
from litestar_safe_sse.sources.redis.connection import take_idle_limit
from litestar_safe_sse.sources.redis.plugin import REPLY_TIMEOUT, check_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from redis import Redis
    from typing_extensions import Self

    from litestar_safe_sse.sources.event_log import HistoryOf
    from litestar_safe_sse.sources.redis._commands import Argument
    from litestar_safe_sse.sources.redis._scripts import Script

__all__ = ("SyncRedisEventLog",)


class SyncRedisEventLog:
    """Appends to the topics of a :class:`RedisEventLog` of the same Redis, prefix and name, without an event loop.

    What it appends is streamed, resumed and kept as what the other one appends. It may be used by several threads, and
    is made after a fork or before. Where Redis says that it is no longer the one to append to, as after a fail-over
    behind one address, idle connections are given up, so that the next call may get to the one that is.

    Args:
        redis: A URL, or a client of redis-py, which is the application's own to close, and whose retries are its own,
            too: with them a ``message`` should have an ``idempotency_key``.
        prefix: As in :class:`RedisPlugin`.
        name: As in :class:`RedisEventLog`, and so are the others.
        max_events: Events kept of each topic, at least.
        expire_after: Seconds after which a topic goes that nobody appends or is subscribed to.
        max_bytes: Bytes that one event may have.
        history: A function that returns what is kept of a topic, where that is something else.
        forget_keys_after: Seconds after which an idempotency key is forgotten; each is a key in Redis until then.
        enc_hook: Makes something that msgspec encodes of an object that it doesn't.
        **options: Passed on to ``redis.Redis.from_url``. A connection that has been idle for ``health_check_interval``
            seconds, 5 unless given, is made anew.

    Raises:
        InvalidFieldError: An argument can't be used.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        redis: str | Redis = "redis://localhost:6379/0",
        *,
        prefix: str = "sse",
        name: str = "log",
        max_events: int = 10_000,
        expire_after: float = 86_400.0,
        max_bytes: int = 1024 * 1024,
        history: HistoryOf | None = None,
        forget_keys_after: float = FORGET_KEYS_AFTER,
        enc_hook: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        if not _redis_py.IS_INSTALLED:
            raise MissingExtraError("sources on Redis need redis-py: pip install 'litestar-safe-sse[redis]'")
        check_prefix(prefix)
        if options and not isinstance(redis, str):
            raise InvalidFieldError("redis", "must be a URL where options are given; a client has its own")
        lives = Lives(max_events, expire_after, history, forget_keys_after)
        self._appending = Appending(Keys(prefix, name), lives, max_bytes, enc_hook)
        self._closes_client = isinstance(redis, str)
        self._client: Any = _client(redis, options)

    def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
        """Stores one event; see :meth:`EventLog.append`."""
        return last_id(topic, self._run(topic, APPEND, self._appending.append(topic, message, idempotency_key)))

    def append_many(self, topic: str, messages: Iterable[object], *, idempotency_key: str | None = None) -> list[str]:
        """Stores several events together; see :meth:`EventLog.append_many`."""
        rendered = self._appending.render_all(messages)
        arguments = self._appending.append_many(topic, rendered, idempotency_key)
        return ids(topic, self._run(topic, APPEND, arguments)) if rendered else []

    def finish(self, topic: str) -> str:
        """Ends a topic; see :meth:`EventLog.finish`."""
        return last_id(topic, self._run(topic, APPEND, self._appending.finish(topic)))

    def delete(self, topic: str) -> None:
        """Deletes all that is stored of a topic; see :meth:`EventLog.delete`."""
        self._run(topic, DELETE, self._appending.delete(topic))

    def queue_append(self, pipeline: Any, topic: str, message: object, *, idempotency_key: str | None = None) -> None:
        """Has one event stored by a pipeline; see :meth:`RedisEventLog.queue_append`."""
        self._appending.queue(pipeline, topic, message, idempotency_key)

    def close(self) -> None:
        """Closes its connections, unless they are those of a client that was handed in."""
        if self._closes_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, topic: str, script: Script, arguments: Sequence[Argument]) -> Any:
        try:
            return self._send(script, arguments)
        except (_redis_py.errors.RedisError, OSError) as error:
            if needs_new_connection(error):
                _give_up_connections(self._client)
            raise refusal(topic, translate(error), error) from error

    def _send(self, script: Script, arguments: Sequence[Argument]) -> Any:
        try:
            return self._client.execute_command("EVALSHA", script.digest, *plain(arguments))
        except _redis_py.errors.ResponseError as error:
            if code_of(error) != "NOSCRIPT":
                raise
        return self._client.execute_command("EVAL", script.text, *plain(arguments))


def _give_up_connections(client: Any) -> None:
    """Has a client connect anew, since its connections may lead to a server of the past.

    Those that other threads use are left to them: who uses one of them here is told the same, and comes here too.
    """
    from redis import BlockingConnectionPool, RedisCluster

    if isinstance(client, RedisCluster):  # which asks the cluster where to go
        return
    pool = client.connection_pool
    if isinstance(pool, BlockingConnectionPool):  # older releases of which give up all, or none
        with pool.pool.mutex:
            for connection in filter(None, pool.pool.queue):
                connection.disconnect()
    else:
        pool.disconnect(inuse_connections=False)
    if client.connection is not None:  # its only one, which is never idle
        with getattr(client, "single_connection_lock", nullcontext()):  # of newer releases
            client.connection.disconnect()


def _client(redis: Any, options: dict[str, Any]) -> Any:
    """Returns a client that sends nothing twice, if it is ours to make."""
    from redis import Redis, RedisCluster
    from redis.retry import Retry

    if isinstance(redis, str):
        limits = {"socket_timeout": REPLY_TIMEOUT, "socket_connect_timeout": REPLY_TIMEOUT}
        once = {"retry": Retry(_redis_py.NoBackoff(), 0)}
        try:
            return _fresh(Redis.from_url(redis, **{**limits, **once, **options}))
        except (ValueError, TypeError) as error:
            raise InvalidFieldError("redis", f"must be a URL as redis-py takes it ({error})") from error
    if isinstance(redis, (Redis, RedisCluster)):
        return redis
    raise InvalidFieldError("redis", f"must be a URL, or a client of redis-py, not {type(redis).__name__}")


def _fresh(client: Any) -> Any:
    """Has a client connect anew where a connection has been idle for long: it may be forgotten, without a word.

    To ask it for a sign of life first, as redis-py does, would need a second attempt, which it makes for commands too.
    """
    pool = client.connection_pool
    limit = take_idle_limit(pool.connection_kwargs)
    base: Any = pool.connection_class

    class FreshConnection(base):  # type: ignore[misc]
        used = -math.inf

        def connect(self) -> None:  # called by the pool ahead of each use
            if monotonic() - self.used >= limit:
                self.disconnect()
            self.used = monotonic()
            super().connect()

    pool.connection_class = FreshConnection
    return client
