"""Commands on one connection, for any number of callers.

What is asked while replies are still to come is sent together once they are there. Replies are read to their end
whatever becomes of those who asked: so no connection is ever left in the middle of a reply, no command is sent twice,
and thousands of streams that leave at once share one connection to say so.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.redis._calls import Call, first_error
from litestar_safe_sse.sources.redis._commands import pack
from litestar_safe_sse.sources.redis._errors import code_of, needs_new_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from litestar_safe_sse.sources.redis._commands import Argument, Command
    from litestar_safe_sse.sources.redis._errors import Failure
    from litestar_safe_sse.sources.redis._scripts import Script
    from litestar_safe_sse.sources.redis._wire import Wire
    from litestar_safe_sse.sources.redis.connection import RedisConnection

__all__ = ("RedisLink",)

_BATCH = 256
"""Calls that are sent before the first reply is read."""

_RENEWAL = 1.0
"""Seconds between two connections that are given up since their server can't do the work."""

_CHECK_TIMEOUT = 1.0
"""Seconds that Redis has to give a sign of life on a connection that was idle."""

_AGAIN = 0.01
"""Seconds between two attempts to interrupt a command."""

_CLOSED = "the connection to Redis has been closed"
_NO_ANSWER = "Redis does not answer; is it overloaded, or the network gone?"

_PING = pack(("PING",))


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
    """Commands on one connection, which is opened when it is needed.

    Args:
        connector: Where connections come from.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._wire: Wire | None = None
        self._client_id: int | None = None
        self._calls: deque[Call] = deque()
        """What has not been sent yet."""
        self._sent: deque[Call] = deque()
        """What has been, and is not answered yet."""
        self._replies: list[Any] = []
        """Those that are there to the first of these."""
        self._timer: asyncio.TimerHandle | None = None
        self._fires = math.inf
        """When that does, which uvloop's can't be asked: at the next deadline, or before."""
        self._opening: asyncio.Task[None] | None = None
        self._renewed = -math.inf
        self._renew = False
        self._known_scripts: set[str] = set()
        """Those that the server has been sent on this connection."""
        self._closed = False

    def submit(self, *command: Argument, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends a command at most once, in the order of the calls.

        Args:
            *command: The command and its arguments.
            wait: Seconds that the command has Redis wait.

        Returns:
            The future of its reply. To cancel it is to ignore the reply.

        Raises:
            InvalidFieldError: An argument can't be sent.
        """
        return self._ask([pack(command)], wait)

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
        return self._ask([pack(command) for command in commands], wait, each=each)

    def submit_script(self, script: Script, *arguments: Argument) -> asyncio.Future[Any]:
        """Sends a script by its digest; and whole if this connection has not sent it yet, or the server forgot it.

        Args:
            script: The script.
            *arguments: The number of keys, the keys, and what else it is given.

        Returns:
            The future of its reply.

        Raises:
            InvalidFieldError: An argument can't be sent.
        """
        return self._ask([pack((script.call, *arguments))], 0.0, script=script, arguments=arguments)

    def _ask(self, packed: list[bytes], wait: float, **how: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        call = Call(packed, reply, loop.time() + wait + self._connector.reply_timeout, **how)
        if self._closed:
            call.fail(SourceUnavailableError(_CLOSED))
            return reply
        self._calls.append(call)
        self._watch(call.deadline)
        self._send()
        return reply

    def renew(self) -> None:
        """Has the next command sent on a new connection: the one there is may lead to a server of the past."""
        self._renew = True

    async def interrupt(self) -> None:
        """Has the command that makes Redis wait answered now, as if its time was up (``CLIENT UNBLOCK``)."""
        while (self._sent or self._calls) and self._client_id is not None:
            try:
                if await self._connector.execute("CLIENT", "UNBLOCK", self._client_id):
                    return
                await asyncio.sleep(_AGAIN)  # it has not reached Redis yet, or its reply is on its way already
            except (SourceUnavailableError, SourceRefusedError):
                return  # it will be answered when its time is up

    async def aclose(self) -> None:
        """Waits for the replies that are still to come, then closes the connection."""
        self._closed = True
        if outstanding := [*self._sent, *self._calls]:
            # Waits behind them all: what was asked is carried out even if nobody waits for it any more.
            last: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._calls.append(Call([_PING], last, max(call.deadline for call in outstanding)))
            await asyncio.wait([last])
        self.abort()

    def abort(self) -> None:
        """Closes the connection without waiting for replies."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        self._drop(SourceUnavailableError(_CLOSED))
        self._fail_calls(SourceUnavailableError(_CLOSED))
        self._stop_timer()

    def _send(self) -> None:
        """Sends what waits, unless replies are still to come."""
        if self._sent or not self._calls or self._opening is not None:
            return
        if self._wire is None or self._renew or not self._wire.is_fresh:
            self._opening = spawn(self._open(), "SSE commands to Redis")
            self._opening.add_done_callback(self._opened, context=contextvars.Context())
            return
        self._write(self._wire)

    def _write(self, wire: Wire) -> None:
        while self._calls and len(self._sent) < _BATCH:
            call = self._calls.popleft()
            if call.script is not None and call.script.digest not in self._known_scripts:
                self._known_scripts.add(call.script.digest)
                call = call.with_whole(call.script)
            self._sent.append(call)
        wire.write([packed for call in self._sent for packed in call.packed])

    def _receive(self, reply: Any) -> None:
        """Takes a reply; what is wrong with it is one caller's affair alone."""
        if not self._sent:
            self._drop(SourceUnavailableError("Redis has answered what it was not asked"))
            return
        call = self._sent[0]
        self._replies.append(reply)
        if len(self._replies) < len(call.packed):
            return
        replies, self._replies = self._replies, []
        self._sent.popleft()
        error = first_error(replies)
        if error is not None and call.script is not None and code_of(error) == "NOSCRIPT":
            self._send_again(call, call.script)
        else:
            call.answer(replies, error)
        if error is not None and needs_new_connection(error) and monotonic() - self._renewed >= _RENEWAL:
            self._renewed = monotonic()
            self._renew = True
        if self._sent:
            self._watch(self._sent[0].deadline)  # which may have passed while others were waited for
        else:
            self._send()

    def _send_again(self, call: Call, script: Script) -> None:
        """Has a call sent again that has not been carried out, ahead of what has not been sent at all."""
        self._known_scripts.discard(script.digest)
        waiting = sum(1 for _ in takewhile(lambda other: other.is_again, self._calls))
        self._calls.insert(waiting, call._replace(is_again=True))

    def _lose(self, error: Failure) -> None:
        """Goes on without the connection, which is lost."""
        self._drop(error)
        if self._closed:
            self._fail_calls(error)
        self._send()

    def _drop(self, error: Failure) -> None:
        """Gives the connection up, and with it what has been sent."""
        wire, self._wire = self._wire, None
        sent, self._sent = self._sent, deque()
        self._replies = []
        self._client_id = None
        self._known_scripts.clear()
        if wire is not None:
            wire.abort()
        _fail(sent, error)

    async def _open(self) -> None:
        """Makes sure of a connection that can be used, for what waits."""
        if self._wire is not None and (self._renew or not await self._is_alive(self._wire)):
            self._drop(SourceUnavailableError(_NO_ANSWER))
        if self._wire is None:
            self._renew = False
            await self._connect()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        """Sends what waits, unless the task has failed, or been cancelled, maybe before it had begun."""
        self._opening = None
        error = asyncio.CancelledError() if opening.cancelled() else opening.exception()
        if error is not None:
            failure = SourceUnavailableError(
                f"the connection to Redis has been closed ({type(error).__name__}: {error})"
            )
            failure.__cause__ = error
            self._fail_calls(failure)
        elif self._closed and not self._calls:
            self.abort()  # it has been before, and the task's cancellation was lost
        elif self._wire is not None and self._calls:
            self._write(self._wire)
        else:
            self._send()

    async def _is_alive(self, wire: Wire) -> bool:
        """Returns whether a connection can be used; one that was idle for long is asked for a sign of life.

        A firewall, a NAT or a load balancer may have forgotten it without a word.
        """
        if wire.is_fresh:
            return True
        loop = asyncio.get_running_loop()
        sign: asyncio.Future[Any] = loop.create_future()
        self._sent.append(Call([_PING], sign, loop.time() + _CHECK_TIMEOUT))
        wire.write([_PING])
        await asyncio.wait([sign], timeout=_CHECK_TIMEOUT)
        return self._wire is wire and not self._sent  # whatever the answer is

    async def _connect(self) -> None:
        """Opens a connection; fails the calls that wait if there is none to be had."""
        asked = {id(call): call for call in self._calls}  # who asks later is not answered by what was tried before
        connection: RedisConnection | None = None
        try:
            connection = await self._connector.connect()
            self._client_id = await self._ask_for_client_id(connection)
            self._wire = connection.hand_over(self._receive, self._lose)
        except (SourceUnavailableError, SourceRefusedError) as error:
            if self._closed:
                self._fail_calls(error)
            _fail(asked.values(), error)
            self._calls = deque(call for call in self._calls if id(call) not in asked)
        finally:
            if connection is not None and self._wire is None:
                await connection.aclose()

    async def _ask_for_client_id(self, connection: RedisConnection) -> int | None:
        """Returns what :meth:`interrupt` needs; ``None`` where the permission is missing."""
        with anyio.move_on_after(self._connector.reply_timeout):
            await connection.send([pack(("CLIENT", "ID"))])
            reply = await connection.receive()
            return reply if isinstance(reply, int) else None
        raise SourceUnavailableError(_NO_ANSWER)

    def _fail_calls(self, error: Failure) -> None:
        calls, self._calls = self._calls, deque()
        _fail(calls, error)

    def _watch(self, deadline: float) -> None:
        """Has it noticed that a deadline has passed."""
        if self._fires <= deadline:
            return
        self._stop_timer()
        self._fires = deadline
        # In a context of its own: that of a caller would be held as long as there are calls.
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire, context=contextvars.Context())

    def _expire(self) -> None:
        """Fails the calls whose time is up; a connection on which the next reply is late is given up.

        What is before a call may take its time: if that has been sent, its reply is still to be read.
        """
        now = asyncio.get_running_loop().time()
        self._fires = math.inf
        failure = SourceUnavailableError(_NO_ANSWER)
        if self._sent and self._sent[0].deadline <= now:
            self._drop(failure)
        _fail((call for call in (*self._sent, *self._calls) if call.deadline <= now), failure)
        self._calls = deque(call for call in self._calls if call.deadline > now)
        following = [call.deadline for call in (*self._sent, *self._calls) if call.deadline > now]
        if following:
            self._watch(min(following))
        self._send()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._fires = math.inf


def _fail(calls: Iterable[Call], error: Failure) -> None:
    for call in calls:
        call.fail(error)
