"""Connections for short commands: each carries out one at a time, to its end, whatever becomes of the one who asked."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources._answers import fail
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.postgres import _asyncpg
from litestar_safe_sse.sources.postgres._errors import CLOSED, NO_ANSWER, moved_on, translate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncpg import Connection, Record

    PostgresAddress = str | Callable[[], Awaitable[Connection[Any]]]

__all__ = ("Connector", "PostgresConnections", "within")

T = TypeVar("T")

REPLY_TIMEOUT = 5.0
"""Seconds that PostgreSQL has to accept a connection or to answer."""

_IDLE_LIMIT = 5.0
"""Seconds without a command after which a connection is checked before the next."""

_CHECK_TIMEOUT = 1.0
"""Seconds that PostgreSQL has to give that sign of life."""

_OWN_LIMIT = 0.9
"""The part of the time for an answer after which PostgreSQL gives up itself, so that it is known what became of it."""


class Connector:
    """Opens connections.

    Args:
        address: A DSN, or a function that opens one.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self.reply_timeout = REPLY_TIMEOUT

    async def open(self) -> Connection[Any]:
        """Opens a connection whose commands the server itself gives up in time.

        Raises:
            SourceUnavailableError: PostgreSQL can't be reached.
            SourceRefusedError: It doesn't let us in.
        """
        connection: Connection[Any] | None = None
        try:
            with anyio.fail_after(self.reply_timeout):
                connection = await self._connect()
            limit = f"SET statement_timeout = {_own_limit(self.reply_timeout)}"
            await within(self.reply_timeout, connection, connection.execute(limit))
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # two classes before Python 3.11
                raise SourceUnavailableError(NO_ANSWER) from error
            if isinstance(error, (*_asyncpg.ERRORS, ValueError)):
                raise translate(error) from error
            raise
        return connection

    async def _connect(self) -> Connection[Any]:
        if callable(self._address):
            return await self._address()
        return await _asyncpg.connect(self._address, timeout=self.reply_timeout)


class PostgresConnections:
    """As many connections as are needed at the same time, up to a limit.

    Args:
        connector: Where they come from.
        limit: How many.
    """

    def __init__(self, connector: Connector, limit: int) -> None:
        self._connector = connector
        self._idle: list[tuple[float, Connection[Any]]] = []
        self._busy: set[Connection[Any]] = set()
        self._free = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def reply_timeout(self) -> float:
        """Seconds in which an answer has to be there."""
        return self._connector.reply_timeout

    def deadline(self) -> float:
        """Returns when the answer has to be there to what is asked now, by the monotonic clock."""
        return monotonic() + self.reply_timeout

    def submit(self, query: str, *arguments: object, until: float | None = None) -> asyncio.Future[list[Record]]:
        """Has a command carried out, at most once; to cancel the future is to ignore the answer.

        Args:
            query: The command.
            *arguments: What it is given.
            until: The :meth:`deadline`, if it has waited already.

        Raises, when it is awaited:
            SourceUnavailableError: PostgreSQL can't be reached; it may have been carried out all the same.
            SourceRefusedError: PostgreSQL answered with an error.
        """
        answer: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        if self._closed:
            fail(answer, SourceUnavailableError(CLOSED))
            return answer
        until = self.deadline() if until is None else until
        task = spawn(self._answer(answer, until, query, arguments), "SSE command to PostgreSQL")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, answer))
        return answer

    async def aclose(self) -> None:
        """Waits for the answers that are still to come, then closes the connections."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        for _, connection in self._idle:
            with contextlib.suppress(*_asyncpg.ERRORS, TimeoutError, asyncio.TimeoutError):
                await connection.close(timeout=_CHECK_TIMEOUT)  # if it can't be, it is terminated by that
        self._idle.clear()

    def abort(self) -> None:
        """Closes the connections without waiting for answers, those too that are being opened."""
        self._closed = True
        for connection in (*self._busy, *(connection for _, connection in self._idle)):
            connection.terminate()
        self._idle.clear()
        for task in self._tasks:  # after that, or asyncpg would ask the server to cancel what it is at
            task.cancel()

    def _ended(self, answer: asyncio.Future[list[Record]], task: asyncio.Future[None]) -> None:
        """Notes that a task has come to its end, maybe before it had begun."""
        self._tasks.discard(task)
        fail(answer, SourceUnavailableError(CLOSED))

    async def _answer(
        self, answer: asyncio.Future[list[Record]], until: float, query: str, arguments: Sequence[object]
    ) -> None:
        try:
            with anyio.fail_after(until - monotonic()):
                await self._free.acquire()
            try:
                rows = await self._carry_out(await self._connected_in_time(answer, until), until, query, arguments)
            finally:
                self._free.release()
        except TimeoutError as error:
            late = SourceUnavailableError(NO_ANSWER)
            late.__cause__ = error
            fail(answer, late)
        except Exception as error:
            fail(answer, error)
        else:
            if not answer.done():
                answer.set_result(rows)

    async def _carry_out(
        self, connection: Connection[Any], until: float, query: str, arguments: Sequence[object]
    ) -> list[Record]:
        self._busy.add(connection)
        try:
            left = until - monotonic()
            late = left < _OWN_LIMIT * self.reply_timeout
            fetch = _fetch_in_time(connection, left, query, arguments) if late else connection.fetch(query, *arguments)
            return await within(left, connection, fetch)
        except _asyncpg.ERRORS as error:
            if moved_on(error) or not isinstance(error, _asyncpg.PostgresError):
                connection.terminate()
            raise translate(error) from error
        except BaseException:
            connection.terminate()
            raise
        finally:
            self._busy.discard(connection)
            if not connection.is_closed():
                self._idle.append((monotonic(), connection))

    async def _connected_in_time(self, answer: asyncio.Future[list[Record]], until: float) -> Connection[Any]:
        """Returns a connection for a command; one that comes too late for it is kept for others."""
        if monotonic() >= until:
            raise TimeoutError  # before anything is sent
        late = SourceUnavailableError(NO_ANSWER)
        timer = asyncio.get_running_loop().call_later(until - monotonic(), fail, answer, late)
        try:
            connection = await self._connected()
        finally:
            timer.cancel()
        if monotonic() >= until:
            self._idle.append((monotonic(), connection))
            raise TimeoutError
        return connection

    async def _connected(self) -> Connection[Any]:
        while self._idle:
            used, connection = self._idle.pop()
            if connection.is_closed():
                continue
            if monotonic() - used < _IDLE_LIMIT or await _is_alive(connection):
                return connection
        return await self._connector.open()


async def _fetch_in_time(
    connection: Connection[Any], left: float, query: str, arguments: Sequence[object]
) -> list[Record]:
    """Carries out a command that has less time than others: PostgreSQL itself is to give it up."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = {_own_limit(left)}")
        return await connection.fetch(query, *arguments)


def _own_limit(seconds: float) -> int:
    """Returns the milliseconds that PostgreSQL is told it has."""
    return max(1, round(_OWN_LIMIT * 1000 * seconds))


async def within(seconds: float, connection: Connection[Any], command: Awaitable[T]) -> T:
    """Waits for a command, or gives up the connection: to cancel the command would have to be waited for as well.

    Args:
        seconds: How long it may take.
        connection: The connection.
        command: What it is to do.

    Raises:
        SourceUnavailableError: It took longer.
    """
    timer = asyncio.get_running_loop().call_later(max(0.0, seconds), connection.terminate)
    until = monotonic() + seconds
    try:
        return await command
    except Exception as error:
        # Given up between two of its steps, a command of asyncpg's fails by whatever it stumbles over.
        if connection.is_closed() and (monotonic() >= until or not isinstance(error, _asyncpg.ERRORS)):
            raise SourceUnavailableError(NO_ANSWER) from error
        raise
    finally:
        timer.cancel()


async def _is_alive(connection: Connection[Any]) -> bool:
    try:
        await within(_CHECK_TIMEOUT, connection, connection.execute("SELECT 1"))
    except (*_asyncpg.ERRORS, SourceUnavailableError):
        connection.terminate()
        return False
    except BaseException:
        connection.terminate()
        raise
    return True
