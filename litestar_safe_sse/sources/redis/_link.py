"""Commands on one connection, for any number of callers.

Each command runs in the task of a ``RedisLink``, which reads the reply to its end whatever becomes of the one who
asked: so no connection is ever left in the middle of a reply, no command is sent twice, and thousands of streams that
leave at once share one connection to say so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from litestar_safe_sse.sources.redis.connection import Command, RedisConnection
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("RedisLink",)

_BATCH = 256
"""Commands that are sent before the first reply is read."""


class _Call(NamedTuple):
    commands: Sequence[Command]
    reply: asyncio.Future[Any]
    timeout: float


class RedisLink:
    """Commands on one connection, opened when it is needed, by a task that lives while there is something to do.

    Args:
        plugin: Where connections come from.
    """

    def __init__(self, plugin: RedisPlugin) -> None:
        self._plugin = plugin
        self._connection: RedisConnection | None = None
        self._client_id: int | None = None
        self._calls: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, *command: str | bytes | float, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends a command at most once, in the order of the calls.

        Args:
            *command: The command and its arguments.
            wait: Seconds that the command has Redis wait.

        Returns:
            The future of its reply. To cancel it is to ignore the reply.
        """
        return self.submit_all([command], wait=wait)

    def submit_all(self, commands: Sequence[Command], *, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends commands one after the other, with no other in between.

        Returns:
            The future of the last one's reply; if an earlier one is refused, that is what it raises.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_notice)
        if self._closed:
            reply.set_exception(SourceUnavailableError("the connection to Redis has been closed"))
            return reply
        self._calls.append(_Call(commands, reply, wait + self._plugin.reply_timeout))
        if self._task is None:
            self._task = spawn(self._work(), "SSE commands to Redis")
        return reply

    async def interrupt(self) -> None:
        """Has the command that makes Redis wait answered now, as if its time was up (``CLIENT UNBLOCK``)."""
        while self._task is not None and self._client_id is not None:
            try:
                # 0: it has not reached Redis yet, or its reply is on its way already.
                if await self._plugin.execute("CLIENT", "UNBLOCK", self._client_id):
                    return
            except (SourceUnavailableError, SourceRefusedError):
                return  # it will be answered when its time is up

    async def aclose(self) -> None:
        """Waits for the replies that are still to come, then closes the connection."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._drop()

    def abort(self) -> None:
        """Closes the connection without waiting for replies."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._calls:
                batch = [self._calls.popleft() for _ in range(min(len(self._calls), _BATCH))]
                try:
                    await self._carry_out(batch)
                except (SourceUnavailableError, SourceRefusedError) as error:
                    await self._drop()
                    self._fail(batch, error)
                except BaseException as error:
                    await self._drop()
                    self._fail([*batch, *self._calls], error)
                    self._calls.clear()
                    raise
        finally:
            self._task = None

    async def _carry_out(self, batch: list[_Call]) -> None:
        try:
            connection = await self._connected()
            with anyio.fail_after(self._plugin.reply_timeout):
                await connection.send([command for call in batch for command in call.commands])
            for call in batch:
                with anyio.fail_after(call.timeout):
                    await self._answer(call, connection)
        except TimeoutError as error:
            raise SourceUnavailableError("Redis does not answer; is it overloaded, or the network gone?") from error

    async def _answer(self, call: _Call, connection: RedisConnection) -> None:
        reply: Any = None
        refusal: SourceRefusedError | None = None
        for _ in call.commands:
            try:
                reply = await connection.receive()
            except SourceRefusedError as error:
                refusal = refusal or error
        if refusal is not None:
            self._fail([call], refusal)
        elif not call.reply.done():
            call.reply.set_result(reply)

    async def _connected(self) -> RedisConnection:
        if self._connection is not None and self._connection.is_gone:
            await self._drop()
        if self._connection is None:
            connection = await self._plugin.connect()
            self._connection = connection
            self._client_id = None
            with anyio.fail_after(self._plugin.reply_timeout):
                await connection.send([("CLIENT", "ID")])
                try:
                    self._client_id = await connection.receive()
                except SourceRefusedError:  # no permission: what waits can't be interrupted then
                    self._client_id = None
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _fail(self, calls: Iterable[_Call], error: BaseException) -> None:
        for call in calls:
            if call.reply.done():
                continue
            if isinstance(error, (SourceUnavailableError, SourceRefusedError)):
                failure: Exception = type(error)(*error.args)  # one for each: a traceback has one home
                failure.__cause__ = error.__cause__
            else:
                failure = SourceUnavailableError("the connection to Redis was closed with the event loop")
            call.reply.set_exception(failure)


def _notice(reply: asyncio.Future[Any]) -> None:
    """Looks at a failure that nobody may be waiting for any more."""
    if not reply.cancelled():
        reply.exception()
