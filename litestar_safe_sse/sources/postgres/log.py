"""An event log in PostgreSQL, for any number of processes."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from litestar_safe_sse.config import check_integer
from litestar_safe_sse.exceptions import InvalidFieldError, MissingExtraError, SourceUnavailableError
from litestar_safe_sse.sources._cursor import cursor, record, tag
from litestar_safe_sse.sources._door import Door
from litestar_safe_sse.sources._fan_out_log import FanOutLog
from litestar_safe_sse.sources._lives import FORGET_KEYS_AFTER, Lives
from litestar_safe_sse.sources._stored import Renderer, check_key, check_topic, end_of
from litestar_safe_sse.sources.postgres import _asyncpg
from litestar_safe_sse.sources.postgres._appender import Appender, arguments_of, positions_of
from litestar_safe_sse.sources.postgres._errors import translate
from litestar_safe_sse.sources.postgres._log_reader import LogReader
from litestar_safe_sse.sources.postgres._presence import PostgresAttendance
from litestar_safe_sse.sources.postgres._rows import Queries
from litestar_safe_sse.sources.postgres._tables import append_query, tables
from litestar_safe_sse.sources.postgres.connections import Connector, PostgresConnections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncpg import Connection
    from asyncpg.pool import PoolConnectionProxy

    from litestar_safe_sse._core.messages import SSEMessage
    from litestar_safe_sse.sources._door import Authorize
    from litestar_safe_sse.sources._presence import Who
    from litestar_safe_sse.sources.event_log import HistoryOf
    from litestar_safe_sse.sources.postgres.connections import PostgresAddress

    Transaction = Connection[Any] | PoolConnectionProxy[Any]

__all__ = ("PostgresEventLog",)

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")

_MAX_RETRY = 2**63 - 1

_CLOSE_TIMEOUT = 2.0
"""Seconds that PostgreSQL has when the application shuts down."""


class PostgresEventLog(FanOutLog):
    """An event log in PostgreSQL: shared by all processes that give the same database and name.

    An append can be part of a transaction of the application's own: then the event is stored and sent if, and when,
    that is committed.

    Whatever the number of streams and topics, a process holds one connection that listens, up to two that read, as many
    as ``connections`` says for its appends, and one for ``presence``, if that is given. While PostgreSQL is away
    streams stay open; when it is back, what was missed is read.

    The tables are made by :meth:`create_tables`, or by whoever runs :attr:`create_tables_sql`. The log is closed by
    :meth:`aclose`: ``Litestar(on_shutdown=[log.aclose])``.

    Args:
        postgres: A DSN as asyncpg takes it, ``postgresql://user:secret@host:5432/database``, or an async function that
            opens a connection of asyncpg's. It must lead to PostgreSQL itself, or to a pooler that keeps sessions.
        name: What the names of tables and functions begin with, and that of the channel.
        connections: Connections that append at the same time, at most.
        max_events: Events kept of each topic, at least; up to a tenth more are, and no more than a hundred.
        expire_after: Seconds after which a topic goes that nobody appends or is subscribed to.
        max_bytes: Bytes that one event may have.
        history: A function that returns what is kept of a topic, where that is something else.
        forget_keys_after: Seconds after which an idempotency key is forgotten; each is a row until then.
        authorize: An async function of the connection and the topics, asked when a stream subscribes. If it raises, or
            returns ``False``, the stream is refused.
        presence: A function of the connection that returns who it is, or ``None`` for one without a name: then
            :meth:`~EventLog.presence` tells who is subscribed.
        enc_hook: Makes something that msgspec encodes of an object that it doesn't; Litestar's own unless given.

    Raises:
        InvalidFieldError: An argument can't be used.
        MissingExtraError: asyncpg is not installed.
    """

    def __init__(
        self,
        postgres: PostgresAddress,
        *,
        name: str = "sse_log",
        connections: int = 4,
        max_events: int = 10_000,
        expire_after: float = 86_400.0,
        max_bytes: int = 1024 * 1024,
        history: HistoryOf | None = None,
        forget_keys_after: float = FORGET_KEYS_AFTER,
        authorize: Authorize | None = None,
        presence: Who | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        if not _asyncpg.IS_INSTALLED:
            raise MissingExtraError("the log in PostgreSQL needs asyncpg: pip install 'litestar-safe-sse[postgres]'")
        check_integer("connections", connections, minimum=1)
        check_integer("max_bytes", max_bytes, minimum=1)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidFieldError("name", f"must be of a-z, 0-9 and _, and at most 40 characters, not {name!r:.60}")
        self._door = Door(authorize, presence)
        self._connector = Connector(_check_address(postgres))
        self._name = name
        self._connections = connections
        self._lives = Lives(max_events, expire_after, history, forget_keys_after)
        self._tables = tables(name, max_events, round(expire_after * 1000), self._lives.keys)
        self._append = append_query(name)
        self._queries = Queries.of(name)
        self._renderer = Renderer(max_bytes, enc_hook)
        self._states: dict[asyncio.AbstractEventLoop, LoopState] = {}

    @property
    def create_tables_sql(self) -> str:
        """The commands that make the tables, unless they are there, and the functions anew; for a migration."""
        return self._tables

    async def create_tables(self) -> None:
        """Makes the tables, unless they are there, and the functions anew; any number of processes may do so at once.

        Raises:
            SourceUnavailableError: PostgreSQL can't be reached.
            SourceRefusedError: The permission is missing.
        """
        _running_loop()
        connection = await self._connector.open()
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", self._name)
                await connection.execute(self.create_tables_sql)
        except _asyncpg.ERRORS as error:
            raise translate(error) from error
        finally:
            connection.terminate()

    async def append(
        self, topic: str, message: object, *, idempotency_key: str | None = None, connection: Transaction | None = None
    ) -> str:
        """See :meth:`EventLog.append`.

        Args:
            topic: The topic.
            message: The message.
            idempotency_key: A name for this event.
            connection: A connection of asyncpg's, in a transaction: the event is stored and sent if that is committed,
                and the ID that is returned resumes from then on. Appends to this topic by others wait until it ends,
                so this should come late in it; one that appends to several topics should do so in an order that is the
                same for all. Unless given, a connection of the log's own is used.
        """
        check_topic(topic)
        rendered = self._renderer.render(message)
        return (await self._store(topic, [rendered], idempotency_key, connection))[-1]

    async def append_many(
        self,
        topic: str,
        messages: Iterable[object],
        *,
        idempotency_key: str | None = None,
        connection: Transaction | None = None,
    ) -> list[str]:
        """See :meth:`EventLog.append_many`, and :meth:`append` for the connection."""
        check_topic(topic)
        rendered = self._renderer.render_all(messages)
        return await self._store(topic, rendered, idempotency_key, connection) if rendered else []

    async def finish(self, topic: str, *, connection: Transaction | None = None) -> str:
        """See :meth:`EventLog.finish`, and :meth:`append` for the connection."""
        return (await self._store(check_topic(topic), [end_of(topic)], None, connection))[-1]

    async def delete(self, topic: str) -> None:
        """See :meth:`EventLog.delete`."""
        self._check_topics(check_topic(topic))
        state = self._state()
        await state.appends.delete(topic)
        state.reader.distrust(topic)

    async def _store(
        self, topic: str, messages: Sequence[SSEMessage], key: str | None, connection: Transaction | None
    ) -> list[str]:
        self._check_topics(topic)
        self._lives.learn((topic,))
        for message in messages:
            _check_message(message)
        _check_storable("idempotency_key", key := check_key(key))
        state = self._state()  # as it is now: if it is closed meanwhile, it is not to be made anew
        try:
            if connection is None:
                places = await state.appends.submit(topic, messages, key)
            else:
                arguments = arguments_of(topic, messages, key, self._lives)
                places = positions_of(await connection.fetch(self._append, *arguments))
        except _asyncpg.ERRORS as error:
            raise translate(error) from error
        state.reader.tally.appended += len(places)
        return [cursor([record(tag(topic), place)]) for place in places]

    async def aclose(self) -> None:
        """Ends what is subscribed in this event loop, and closes its connections, within two seconds."""
        try:
            loop = _running_loop()
        except SourceUnavailableError:  # where nothing can have been opened
            return
        state = self._states.pop(loop, None)
        if state is not None:
            try:
                with anyio.move_on_after(_CLOSE_TIMEOUT):
                    await state.attendance.aclose()
                    await state.reader.aclose()
                    await state.appends.aclose()
            finally:
                state.attendance.abort()
                state.reader.abort()
                state.appends.abort()

    def _check_topics(self, *topics: object) -> None:
        for topic in topics:
            _check_storable("topic", topic)

    def _fan_out(self) -> LogReader:
        return self._state().reader

    def _attendance(self) -> PostgresAttendance:
        return self._state().attendance

    def _state(self) -> LoopState:
        loop = _running_loop()
        state = self._states.get(loop)
        if state is None:
            for gone in [known for known in self._states if known.is_closed()]:
                del self._states[gone]
            reader = LogReader(self._connector, self._name, self._queries, self._lives)
            writes = PostgresConnections(self._connector, self._connections)
            attendance = PostgresAttendance(PostgresConnections(self._connector, 1), self._name)
            state = self._states[loop] = LoopState(reader, Appender(writes, self._name, self._lives), attendance)
        return state


class LoopState:
    """What one event loop holds."""

    def __init__(self, reader: LogReader, appends: Appender, attendance: PostgresAttendance) -> None:
        self.reader = reader
        self.appends = appends
        self.attendance = attendance


def _check_address(postgres: Any) -> Any:
    """Returns where PostgreSQL is; raises ``InvalidFieldError`` for what can't be used."""
    if callable(postgres):
        return postgres
    if not isinstance(postgres, str) or not postgres.startswith(("postgresql://", "postgres://")):
        raise InvalidFieldError(
            "postgres", "must be a DSN (postgresql://user:secret@host:5432/database), or a function that connects"
        )
    try:
        urlsplit(postgres).port  # noqa: B018
    except ValueError as error:
        if "," not in postgres:  # several hosts are asyncpg's to read
            raise InvalidFieldError("postgres", f"must be a DSN that can be read ({error})") from error
    return postgres


def _check_message(message: SSEMessage) -> None:
    for field in ("data", "event", "comment"):
        _check_storable(field, getattr(message, field))
    if message.retry is not None and message.retry > _MAX_RETRY:
        raise InvalidFieldError("retry", f"must be at most {_MAX_RETRY}, the largest number PostgreSQL stores")


def _check_storable(field: str, text: object) -> None:
    if isinstance(text, str) and "\0" in text:
        raise InvalidFieldError(field, "must be without null characters, which PostgreSQL can't store")


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise SourceUnavailableError("asyncpg needs a running asyncio loop; it has no support for trio") from error
