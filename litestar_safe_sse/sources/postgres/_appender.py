"""The appends of one event loop.

Those to the same topic go one after the other, as they would have to in PostgreSQL, in the order of the calls. What
waits meanwhile goes together: many that coincide take few transactions. None fails for the sake of another: those of
which PostgreSQL refuses one are stored each by itself, and each has its own time, from when it was called.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources._answers import copy_of, fail
from litestar_safe_sse.sources._cursor import Position
from litestar_safe_sse.sources._pages import size_of
from litestar_safe_sse.sources._stored import FINISHED
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.postgres._rows import columns_of
from litestar_safe_sse.sources.postgres._tables import append_query, delete_query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from litestar_safe_sse._core.messages import SSEMessage
    from litestar_safe_sse.sources._lives import Lives
    from litestar_safe_sse.sources.postgres.connections import PostgresConnections

__all__ = ("Appender", "arguments_of", "positions_of")

_TOGETHER = 256
"""Events that are stored by one transaction, at most."""

_BYTES_TOGETHER = 1024 * 1024
"""Bytes that they may have; a call with more goes alone."""

_APART = 0.1
"""The part of the time for an answer by which they may have been called one after the other: they share what is left
of the first one's."""


class Call(NamedTuple):
    """An append that somebody waits for.

    Attributes:
        messages: What is to be stored.
        key: Its name.
        until: When the answer has to be there.
        answer: The places.
    """

    messages: Sequence[SSEMessage]
    key: str | None
    until: float
    answer: asyncio.Future[list[Position]]


class Appender:
    """Has events stored.

    Args:
        connections: Where by.
        name: The log's.
        lives: How many events topics keep, and how long they last.
    """

    def __init__(self, connections: PostgresConnections, name: str, lives: Lives) -> None:
        self._connections = connections
        self._query = append_query(name)
        self._delete = delete_query(name)
        self._lives = lives
        self._waiting: dict[str, deque[Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, topic: str, messages: Sequence[SSEMessage], key: str | None) -> asyncio.Future[list[Position]]:
        """Has messages stored at most once; to cancel the future is to ignore the answer."""
        answer: asyncio.Future[list[Position]] = asyncio.get_running_loop().create_future()
        if topic not in self._waiting:
            self._waiting[topic] = deque()
            task = spawn(self._work(topic), "SSE appends to PostgreSQL")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waiting[topic].append(Call(messages, key, self._connections.deadline(), answer))
        return answer

    def delete(self, topic: str) -> asyncio.Future[list[Record]]:
        """Deletes a topic."""
        return self._connections.submit(self._delete, topic, self._lives.lasts(topic))

    async def aclose(self) -> None:
        """Waits for the answers that are still to come, then closes the connections."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._connections.aclose()

    def abort(self) -> None:
        """Closes the connections without waiting for answers."""
        self._connections.abort()

    async def _work(self, topic: str) -> None:
        waiting = self._waiting[topic]
        try:
            while waiting:
                await self._try(topic, _next(waiting, _APART * self._connections.reply_timeout))
        finally:
            del self._waiting[topic]

    async def _try(self, topic: str, calls: Sequence[Call]) -> None:
        """Stores calls together, or, if that is refused, each by itself."""
        try:
            await self._store(topic, calls)
        except SourceUnavailableError as error:  # of those that went together nobody knows more
            for call in calls:
                fail(call.answer, copy_of(error))
        except Exception as error:
            if len(calls) == 1:
                fail(calls[0].answer, error)
            else:
                for call in calls:
                    await self._try(topic, [call])

    async def _store(self, topic: str, calls: Sequence[Call]) -> None:
        messages = [message for call in calls for message in call.messages]
        arguments = arguments_of(topic, messages, calls[0].key, self._lives)
        stored = positions_of(await self._connections.submit(self._query, *arguments, until=calls[0].until))
        for call in calls:
            many = len(call.messages) if call.key is None else len(stored)  # those that it has stored before
            own, stored = stored[:many], stored[many:]
            if not call.answer.done():
                call.answer.set_result(own)


def arguments_of(topic: str, messages: Sequence[SSEMessage], key: str | None, lives: Lives) -> list[object]:
    """Returns what the query that appends is given."""
    return [topic, *columns_of(messages), key, *lives.of(topic), lives.keys]


def positions_of(rows: Sequence[Record]) -> list[Position]:
    """Returns the places of the events that were appended."""
    ((epoch, first, nonces),) = rows
    return [Position(epoch, first + number, nonce) for number, nonce in enumerate(nonces)]


def _next(waiting: deque[Call], apart: float) -> list[Call]:
    """Returns the calls that go together, of which one with a key goes alone.

    Args:
        waiting: Those that are to be stored.
        apart: Seconds between two that go together, at most.
    """
    calls = [waiting.popleft()]
    many, size = len(calls[0].messages), sum(map(size_of, calls[0].messages))
    while waiting and calls[0].key is None and waiting[0].key is None and not _ends([calls[-1], waiting[0]]):
        many += len(waiting[0].messages)
        size += sum(map(size_of, waiting[0].messages))
        if many > _TOGETHER or size > _BYTES_TOGETHER or waiting[0].until > calls[0].until + apart:
            break
        calls.append(waiting.popleft())
    return calls


def _ends(calls: Sequence[Call]) -> bool:
    """Returns whether one of them is to be a topic's last."""
    return any(message.event == FINISHED for call in calls for message in call.messages)
