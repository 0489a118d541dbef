"""Commands on one connection, for any number of callers.

Each command runs in the task of a ``RedisLink``, which reads the reply to its end whatever becomes of the one who
asked: so no connection is ever left in the middle of a reply, no command is sent twice, and thousands of streams that
leave at once share one connection to say so.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._answers import copy_of, fail
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.redis._errors import needs_new_connection, translate
from litestar_safe_sse.sources.redis.connection import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from litestar_safe_sse.sources.redis._scripts import Script
    from litestar_safe_sse.sources.redis.connection import Command, RedisConnection

__all__ = ("RedisLink",)

_BATCH = 256
"""Calls that are sent before the first reply is read."""

_RENEWAL = 1.0
"""Seconds between two connections that are given up since their server can't do the work."""

_NO_ANSWER = "Redis does not answer; is it overloaded, or the network gone?"


class Call(NamedTuple):
    """Commands that somebody waits for.

    Attributes:
        packed: The commands, as they are sent.
        reply: The last one's reply, or those of all.
        deadline: By when it has to be there, by the loop's clock.
        each: Whether it is those of all.
    """

    packed: list[bytes]
    reply: asyncio.Future[Any]
    deadline: float
    each: bool

    def answer(self, replies: Sequence[Any]) -> Exception | None:
        """Gives the caller what is for it; returns the error of Redis that it is, if it is one."""
        error = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if not self.reply.done():
            if self.each:
                self.reply.set_result([_read(reply) for reply in replies])
            elif error is None:
                self.reply.set_result(replies[-1])
            else:
                self.reply.set_exception(_read(error))
        return error

    def fail(self, error: SourceUnavailableError | SourceRefusedError) -> None:
        """Gives the caller an error of its own."""
        fail(self.reply, copy_of(error))


class Connector(Protocol):
    """Where connections come from."""

    @property
    def reply_timeout(self) -> float:
        """Seconds that Redis has to answer, beyond those that a command itself waits."""
        ...

    async def connect(self) -> RedisConnection: ...

    async def execute(self, *command: str | bytes | float) -> Any:
        """Sends a command on another connection than the link's own."""


class RedisLink:
    """Commands on one connection, opened when it is needed, by a task that lives while there is something to do.

    Args:
        connector: Where connections come from.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: RedisConnection | None = None
        self._client_id: int | None = None
        self._calls: deque[Call] = deque()
        """What has not been sent yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewed = -math.inf
        self._renew = False
        self._known_scripts: set[str] = set()
        """Those that the server has been sent on this connection."""
        self._closed = False

    def submit(self, *command: str | bytes | float, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends a command at most once, in the order of the calls.

        Args:
            *command: The command and its arguments.
            wait: Seconds that the command has Redis wait.

        Returns:
            The future of its reply. To cancel it is to ignore the reply.

        Raises:
            InvalidFieldError: An argument can't be sent.
        """
        return self.submit_all([command], wait=wait)

    def submit_all(self, commands: Sequence[Command], *, wait: float = 0.0, each: bool = False) -> asyncio.Future[Any]:
        """Sends commands one after the other, with none of other callers in between.

        Args:
            commands: The commands.
            wait: Seconds that they have Redis wait.
            each: Whether the replies of all are asked for, the errors of ours among them.

        Returns:
            The future of the last one's reply, or of a list of all; if an earlier one than the last is refused, that
            is what it raises.

        Raises:
            InvalidFieldError: An argument can't be sent; nothing of it has been.
        """
        packed = [pack(command) for command in commands]
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        reply.add_done_callback(_look_at)
        if self._closed:
            reply.set_exception(SourceUnavailableError("the connection to Redis has been closed"))
            return reply
        call = Call(packed, reply, loop.time() + wait + self._connector.reply_timeout, each)
        self._calls.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._expire)
        if self._task is None:
            self._task = spawn(self._work(), "SSE commands to Redis")
        return reply

    def submit_script(
        self, script: Script, *arguments: str | bytes | float, whole: bool = False
    ) -> asyncio.Future[Any]:
        """Sends a script by its digest, and whole if this connection has not sent it yet.

        Args:
            script: The script.
            *arguments: The number of keys, the keys, and what else it is given.
            whole: Whether it is to be sent whole, since the server has forgotten it.

        Returns:
            The future of its reply.

        Raises:
            InvalidFieldError: An argument can't be sent.
        """
        if whole or script.digest not in self._known_scripts:
            reply = self.submit("EVAL", script.text, *arguments)
            self._known_scripts.add(script.digest)
            return reply
        return self.submit("EVALSHA", script.digest, *arguments)

    def renew(self) -> None:
        """Has the next command sent on a new connection: the one there is may lead to a server of the past."""
        self._renew = True

    async def interrupt(self) -> None:
        """Has the command that makes Redis wait answered now, as if its time was up (``CLIENT UNBLOCK``)."""
        while self._task is not None and self._client_id is not None:
            try:
                # 0: it has not reached Redis yet, or its reply is on its way already.
                if await self._connector.execute("CLIENT", "UNBLOCK", self._client_id):
                    return
            except (SourceUnavailableError, SourceRefusedError):
                return  # it will be answered when its time is up

    async def aclose(self) -> None:
        """Waits for the replies that are still to come, then closes the connection."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])
        self._stop_timer()
        await self._drop()

    def abort(self) -> None:
        """Closes the connection without waiting for replies."""
        self._closed = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()

    def _expire(self) -> None:
        """Fails the calls whose time is up before they were sent: whatever is sent before them may take its time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting = deque(call for call in self._calls if call.deadline > now)
        expired = [call for call in self._calls if call.deadline <= now]
        self._calls = waiting
        self._timer = None
        if waiting:
            self._timer = loop.call_at(min(call.deadline for call in waiting), self._expire)
        self._fail(expired, SourceUnavailableError(_NO_ANSWER))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _work(self) -> None:
        sent: list[Call] = []
        try:
            while self._calls:
                connection = await self._connected()
                if connection is not None and self._calls:
                    sent = [self._calls.popleft() for _ in range(min(len(self._calls), _BATCH))]
                    await self._carry_out(sent, connection)
        except BaseException as error:
            await self._drop()
            failure = SourceUnavailableError(
                f"the connection to Redis has been closed ({type(error).__name__}: {error})"
            )
            failure.__cause__ = error
            self._fail([*sent, *self._calls], failure)
            self._calls.clear()
            raise
        finally:
            self._task = None

    async def _carry_out(self, calls: list[Call], connection: RedisConnection) -> None:
        """Sends calls and reads their replies; what is wrong with one of them is that caller's affair alone."""
        renew = False
        try:
            with anyio.CancelScope(deadline=min(call.deadline for call in calls)) as scope:
                await connection.send([packed for call in calls for packed in call.packed])
                for call in calls:
                    scope.deadline = call.deadline
                    replies = [await connection.receive() for _ in call.packed]
                    error = call.answer(replies)
                    renew = renew or (error is not None and needs_new_connection(error))
            if scope.cancelled_caught:
                raise SourceUnavailableError(_NO_ANSWER)
        except (SourceUnavailableError, SourceRefusedError) as error:
            await self._drop()
            self._fail(calls, error)
        if renew and monotonic() - self._renewed >= _RENEWAL:
            self._renewed = monotonic()
            await self._drop()

    async def _connected(self) -> RedisConnection | None:
        """Returns the connection, opened if need be; ``None`` if it can't be, which fails the calls that wait."""
        if self._connection is not None and (self._renew or not await self._connection.is_alive()):
            await self._drop()
        if self._connection is None:
            asked = {id(call): call for call in self._calls}  # who asks later is not answered by what was tried before
            try:
                self._connection = await self._connector.connect()
                self._client_id = await self._ask_for_client_id(self._connection)
            except (SourceUnavailableError, SourceRefusedError) as error:
                await self._drop()
                self._fail(asked.values(), error)
                self._calls = deque(call for call in self._calls if id(call) not in asked)
        return self._connection

    async def _ask_for_client_id(self, connection: RedisConnection) -> int | None:
        """Returns what :meth:`interrupt` needs; ``None`` where the permission is missing."""
        with anyio.move_on_after(self._connector.reply_timeout):
            await connection.send([pack(("CLIENT", "ID"))])
            reply = await connection.receive()
            return reply if isinstance(reply, int) else None
        raise SourceUnavailableError(_NO_ANSWER)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._renew = False
        self._known_scripts.clear()
        if connection is not None:
            await connection.aclose()

    def _fail(self, calls: Iterable[Call], error: SourceUnavailableError | SourceRefusedError) -> None:
        for call in calls:
            call.fail(error)


def _read(reply: Any) -> Any:
    """Returns a reply as it is, or the error of ours that it is."""
    if not isinstance(reply, Exception):
        return reply
    error = translate(reply)
    error.__cause__ = reply
    return error


def _look_at(reply: asyncio.Future[Any]) -> None:
    """Looks at a failure that nobody may be waiting for any more."""
    if not reply.cancelled():
        reply.exception()
