"""The stream: one owner of the body, one writer, one receive loop.

The laws, and where each is kept:

1. *One owner.* A body is entered, advanced and closed by one task, in one context (``_own``). Contexts that a handler
   enters are entered and left by that same task.
2. *One cancellation.* A body that waits gets one cancellation; one that is parked at its ``yield`` is closed
   (``_interrupt``). When its time is up it is cancelled again, then left behind and reported (``_insist``).
3. *Cleanups run exactly once*, after the body, in the owner's task, which the cancellations of others cannot reach.
4. *One reason.* ``Lifecycle.settle`` takes the first cause only.
5. *Shutdown is ours*: ``close(SHUTDOWN)`` comes from ``registry.py``, and ``limit`` bounds the rest.
6. *Nothing is unbounded.* Bytes: ``buffer.py``. Time: each state that can last has a deadline, kept by one alarm.
7. *The server may lie.* ``receive()``, a failed or blocked ``send()``, and a cancellation each end the stream; a
   heartbeat makes sure that there is a ``send()``.
8. *No side effects on import.*
9. *The fast path stays fast.* An event costs its encoding and an append to a list.

Three tasks take part. The *request task* belongs to the server; it writes (``writer.py``), and waits until all is
done, whatever cancellations reach it. The *owner* holds the body. The *listener* waits in ``receive()``. A stop flows
from any of them through ``close()``: cause, reason, body ended, cleanups, done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import AsyncGenerator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import anyio
from msgspec import Struct

from litestar_safe_sse._core import asyncgens
from litestar_safe_sse._core.buffer import Buffer
from litestar_safe_sse._core.cleanup import CleanupRegistry
from litestar_safe_sse._core.iteration import aclose, aiterate
from litestar_safe_sse._core.portal import Portal
from litestar_safe_sse._core.state import CloseReason, Lifecycle, StreamState
from litestar_safe_sse._core.timers import EARLY, LATENESS
from litestar_safe_sse._core.writer import Writer
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.shielding import wait_shielded
from litestar_safe_sse.exceptions import SSEError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

    from litestar_safe_sse._core.buffer import BlockEncoder
    from litestar_safe_sse._core.timers import TimerWheel
    from litestar_safe_sse._runtime.base import Event, OwnedTask, Runtime, Wake, Work
    from litestar_safe_sse.config import SafeSSEConfig

    Message = Mapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ("FINAL_SEND_TIMEOUT", "Stream", "StreamNames", "StreamStatistics")

T = TypeVar("T")

_INSISTENCE = 0.1
"""Seconds that a body or cleanup has after its second cancellation, before it is left behind."""

FINAL_SEND_TIMEOUT = 0.5
"""Seconds in which a client has to take what is left when the server shuts down; the process waits for it."""

_REPEATED_ENDS = 16
"""How often a server may say that the request body has ended before it is no longer believed."""


class StreamStatistics(Struct, frozen=True, kw_only=True):
    """One stream at one moment.

    Attributes:
        id: The stream's identifier.
        handler: The name of the handler.
        state: What the stream is doing.
        close_reason: Why it ended or is ending; ``None`` while it is open.
        age: Seconds since it was made.
        events: Events and comments, heartbeats included, that were yielded or made.
        bytes_pending: Bytes that wait for the writer.
        heartbeats: Heartbeats among them.
        cleanups: Registered cleanups that have not run yet.
    """

    id: str
    handler: str
    state: StreamState
    close_reason: CloseReason | None
    age: float
    events: int
    bytes_pending: int
    heartbeats: int
    cleanups: int


class Source(Protocol):
    """What a body draws from, in a task of its own."""

    async def aclose(self) -> None: ...


class _LeftBehind(BaseException):
    """Ends an owner that comes back after a successor has taken over."""


class StreamNames(NamedTuple):
    """What the streams of one handler, and their tasks, are called; made once for all of them."""

    handler: str
    body_task: str
    listener_task: str

    @classmethod
    def of(cls, handler: str) -> StreamNames:
        return cls(handler, f"SSE body of {handler}", f"SSE listener of {handler}")


class Stream:
    """One stream, from the handler's first use of its context until everything is given back.

    Args:
        runtime: The running event loop.
        wheel: The timer of its streams.
        config: The settings in force for this stream.
        names: What it is called.
        logger: The application's logger.
        on_closed: Called once, when the stream has ended and cleaned up.
    """

    __slots__ = (
        "__weakref__",
        "_advancing",
        "_alarm_at",
        "_asked",
        "_body",
        "_buffer",
        "_closed",
        "_closing",
        "_content",
        "_deadline",
        "_ending",
        "_heartbeats",
        "_insisted",
        "_latest",
        "_life",
        "_listener",
        "_listener_done",
        "_logger",
        "_made",
        "_on_closed",
        "_orphans",
        "_owner",
        "_parked",
        "_portal",
        "_slot",
        "_sources",
        "_started",
        "_strays",
        "_strays_gone",
        "_wheel",
        "_writer",
        "cleanups",
        "config",
        "id",
        "names",
        "runtime",
    )

    def __init__(
        self,
        *,
        runtime: Runtime,
        wheel: TimerWheel,
        config: SafeSSEConfig,
        names: StreamNames,
        logger: Any,
        on_closed: Callable[[Stream], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self.names = names
        self.config = config
        self.runtime = runtime
        self.cleanups = CleanupRegistry()
        self._logger = logger
        self._on_closed = on_closed
        self._made = monotonic()
        self._life = Lifecycle()
        self._closing: anyio.Event | None = None
        self._closed = runtime.event()
        self._asked = False
        self._ending = False
        # The owner and the body
        self._owner: OwnedTask | None = None
        self._started = False
        self._portal: Portal | None = None
        self._content: object = None
        self._body: object = None
        self._orphans: list[AsyncGenerator[Any, Any]] = []
        self._sources: dict[Source, Callable[[], None]] = {}
        self._strays: dict[OwnedTask, None] = {}
        self._strays_gone: Wake | None = None
        self._advancing = False
        self._parked = False
        self._insisted = False
        # The writer and the listener
        self._buffer = Buffer(runtime)
        self._writer: Writer | None = None
        self._heartbeats = 0
        self._listener: OwnedTask | None = None
        self._listener_done: Event | None = None
        # The alarm
        self._wheel = wheel
        self._deadline = math.inf
        self._latest = math.inf
        self._alarm_at = math.inf
        self._slot = 0

    # What goes on

    @property
    def handler(self) -> str:
        """The handler's name."""
        return self.names.handler

    @property
    def state(self) -> StreamState:
        return self._life.state

    @property
    def close_reason(self) -> CloseReason | None:
        return self._life.reason

    @property
    def request(self) -> tuple[Send, Message] | None:
        """The ASGI ``send`` and scope, while the stream is being served."""
        return None if self._writer is None else self._writer.request

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            id=self.id,
            handler=self.handler,
            state=self.state,
            close_reason=self.close_reason,
            age=monotonic() - self._made,
            events=self._buffer.events,
            bytes_pending=self._buffer.pending,
            heartbeats=self._heartbeats,
            cleanups=len(self.cleanups),
        )

    async def flush(self) -> None:
        await self._buffer.flush()

    def accept(self, content: object, encoder: BlockEncoder, config: SafeSSEConfig) -> None:
        """Takes over a body, which is closed from now on even if it is never started.

        Args:
            content: The body.
            encoder: Makes the bytes of events.
            config: The settings in force for this stream.
        """
        self._content, self.config = content, config
        self._buffer.configure(encoder, config.buffer_size)

    # Ending

    @property
    def closing(self) -> bool:
        self._asked = True
        return self._life.reason is not None

    async def wait_closing(self) -> None:
        self._asked = True
        if self._closing is None:
            self._closing = anyio.Event()
            if self._life.reason is not None:
                self._closing.set()
        await self._closing.wait()

    def close(self, reason: CloseReason) -> None:
        """Asks the stream to end; the first reason stays. Returns at once, and may be called at any time."""
        first = self._settle(reason)
        if reason.client_gone:
            self._hang_up()
        farewell = reason.allows_farewell and self._asked and self.config.shutdown_grace > 0
        if self._life.state is StreamState.OPEN and first and farewell:
            self._life.move(StreamState.CLOSING)
            self._set_deadline(self.config.shutdown_grace)
        elif self._life.state is StreamState.OPEN or (
            # A client's leaving does not cut the grace short: the body may be in its `finally` already.
            self._life.state is StreamState.CLOSING and not reason.allows_farewell and not reason.client_gone
        ):
            self._end()
            self._interrupt()

    async def aclose(self, reason: CloseReason = CloseReason.CLOSED) -> None:
        """Ends the stream and waits until it has cleaned up; called by the body or a cleanup, it does not wait."""
        self.close(reason)
        if self._life.state is not StreamState.NEW and not (self._owner is not None and self._owner.is_current()):
            await self._closed.wait()

    async def discard(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Makes sure that a stream has ended, also one that no response has taken."""
        if self._settle(reason):
            self._life.error = failure
        if self._life.state is StreamState.NEW:
            self._end()
            self._start_owner()
        await wait_shielded(self._closed)
        self._life.error = None

    def limit(self, at: float) -> None:
        """Bounds all that is still to come, by a time of the monotonic clock."""
        self._latest = min(self._latest, at)
        if self._ending and self._deadline > self._latest:
            self._deadline = self._latest
            self._arm(self._latest)

    def _settle(self, reason: CloseReason) -> bool:
        first = self._life.settle(reason)
        if first:
            if self._closing is not None:
                self._closing.set()
            for notify in self._sources.values():
                notify()
        return first

    def _fail(self, failure: BaseException) -> None:
        if self._life.reason is None:
            self._life.error = failure
        self.close(CloseReason.ERROR)

    def _end(self) -> None:
        self._life.move(StreamState.ENDING)
        self._ending = True
        self._set_deadline(self.config.cleanup_timeout)
        self._buffer.end()

    def _interrupt(self) -> None:
        """Delivers the one cancellation to a body that waits; one that is parked is closed instead."""
        if self._owner is None or not self._advancing or self._parked:
            return
        if self._owner.is_current():  # it would otherwise hit the next `await`, be it in a `finally`
            self.runtime.call_soon(self._interrupt)
        else:
            self._owner.cancel()

    # The request task writes the response

    async def serve(self, scope: Message, receive: Receive, send: Send, *, start: Message, preamble: bytes) -> None:
        """Sends the response, and returns when the stream has ended and cleaned up.

        Args:
            scope: The ASGI scope of the request.
            receive: The ASGI ``receive``.
            send: The ASGI ``send``.
            start: The ``http.response.start`` message.
            preamble: Bytes to send ahead of the first event.

        Raises:
            BaseException: What the body raised, what ``send()`` or ``receive()`` raised other than an ``OSError``, or
                the cancellation of this task; in each case after the cleanups.
        """
        if self._life.state is not StreamState.NEW:
            raise StreamClosedError("the stream has been answered with already; make a response for each request")
        limit = self.config.buffer_size
        life, buffer = self._life, self._buffer
        writer = Writer(send, scope, start, preamble, buffer=buffer, life=life, runtime=self.runtime, limit=limit)
        self._writer = writer
        del start  # the frame would hold it for as long as the stream lasts
        try:
            with anyio.CancelScope() as writer.cancel_scope:
                self._open(receive)
                if not self.runtime.starts_in_order:
                    await self.runtime.turn()  # the listener looks first
                self._start_owner()
                await self.runtime.turn()  # an event that is ready goes with the headers, in one packet
                await writer.write()
        except OSError:
            self.close(CloseReason.CLIENT_DISCONNECTED)
        except Exception as exc:
            self._fail(exc)
        except GeneratorExit:  # the loop is gone, and nothing can be awaited any more
            raise
        except BaseException:
            if self._life.reason is CloseReason.SHUTDOWN:  # of which we hear before the server cancels (registry.py)
                await self._write_on(writer)
            self.close(CloseReason.CLIENT_DISCONNECTED)
            await self._join(writer)
            raise
        await self._join(writer)
        if life.error is not None:
            error, life.error = life.error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    async def _write_on(self, writer: Writer) -> None:
        """Goes on writing though the server, shutting down, has cancelled the request: the client still listens."""
        try:
            with anyio.CancelScope(shield=True) as scope:
                writer.cancel_scope = scope
                # After a send() that was cut off nobody knows what the client has.
                while self._started and not writer.sending and not scope.cancel_called:
                    with contextlib.suppress(asyncio.CancelledError):
                        return await writer.write()
        except OSError:
            writer.hang_up()
        except Exception as exc:
            self._fail(exc)

    async def _join(self, writer: Writer) -> None:
        """Waits for everyone else, whatever cancellations arrive."""
        writer.close()
        self._start_owner()
        try:
            await wait_shielded(self._closed)
        finally:
            self._writer = None
            await self._stop_listening()

    def _open(self, receive: Receive) -> None:
        if self._life.reason is not None:  # the handler closed it
            self._end()
        else:
            self._life.move(StreamState.OPEN)
            if self.config.max_lifetime is not None:
                self._set_deadline(self.config.max_lifetime)
        self._listener_done = self.runtime.event()
        self._listener = self.runtime.spawn(partial(self._listen, receive), self.names.listener_task)
        self._arm(self._look_after(monotonic()))

    def _hang_up(self) -> None:
        """Sends nothing more."""
        if self._writer is None:
            self._buffer.drop()
        else:
            self._writer.hang_up()

    # The listener waits for the client to leave

    async def _listen(self, receive: Receive, task: OwnedTask) -> None:
        failure = await task.capture(self._receive(receive))
        if failure is None or isinstance(failure, OSError):
            self.close(CloseReason.CLIENT_DISCONNECTED)
        elif isinstance(failure, Exception):
            self._fail(failure)
            self._hang_up()
        if self._listener_done is not None:
            self._listener_done.set()

    async def _receive(self, receive: Receive) -> None:
        ends = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            ends += not message.get("more_body", False)
            if ends > _REPEATED_ENDS:
                raise SSEError("receive() keeps repeating that the request's body has ended")
            if ends > 1:
                await self.runtime.turn()

    async def _stop_listening(self) -> None:
        """Cancels the listener, but does not wait for a ``receive()`` that refuses."""
        listener, self._listener = self._listener, None
        if listener is not None and self._listener_done is not None and not self._listener_done.is_set():
            listener.cancel()
            with anyio.move_on_after(_INSISTENCE, shield=True):
                await self._listener_done.wait()

    # The owner holds the body, ends it and cleans up

    async def enter_async_context(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters a context in the task that will leave it, where that can be."""
        entering = self.cleanups.enter_async_context(manager)
        if self._life.state is not StreamState.NEW or not self.runtime.can_hold_contexts:
            return await entering
        if self._portal is None:
            self._portal = Portal(self.runtime)
            self._spawn_owner(self._own)
        return await self._portal.enter(entering)

    def _start_owner(self) -> None:
        if self._started:
            return
        self._started = True
        if self._portal is not None:
            self._portal.shut()
        else:
            self._spawn_owner(self._own)

    def _spawn_owner(self, work: Work) -> None:
        asyncgens.install()
        context = None if self._owner is None else self._owner.context  # a successor's is its predecessor's
        self._owner = self.runtime.spawn(work, self.names.body_task, context)

    async def _own(self, task: OwnedTask) -> None:
        asyncgens.adopt_in_this_context(self)
        if self._portal is not None:
            await self._portal.serve(task, task.capture)
            self._portal = None
        if not self._ending:
            self._advancing = True
            outcome = await task.capture(self._advance())
            if self._owner is not task:  # it was left behind, and a successor has taken over
                return
            self._advancing = False
            self._body_done(outcome)
        outcome = await task.capture(self._close_body())
        if self._owner is not task:
            return
        if outcome is not None:
            self._report_body(outcome)
        await self._clean(task)

    async def _advance(self) -> None:
        put = self._buffer.put
        body = self._body = await aiterate(self._content, self.runtime, self.handler)
        async for item in body:
            if put(item) and not await self._hold(body):
                return

    async def _hold(self, body: AsyncIterator[object]) -> bool:
        """Holds the body at its ``yield`` for as long as it has to be.

        Returns:
            Whether it goes on. If not, it has ended: by itself, or because the stream ends.
        """
        while not self._ending:
            cancelled = await self._pause()
            if cancelled is None:
                if self._ending:
                    break
                return True
            try:
                item = await cast("AsyncGenerator[object, None]", body).athrow(cancelled)
            except StopAsyncIteration:
                return False
            if not self._buffer.put(item):
                return True
        self._advancing = False
        if isinstance(body, AsyncGenerator):  # on trio, its scopes and nurseries are inside this attempt's
            self._body = self._content = None
            await aclose(body)
        return False

    async def _pause(self) -> BaseException | None:
        """Waits, parked at the body's ``yield``, until it may go on.

        Returns:
            A cancellation that is for the body to see there: that of a timeout, scope or task group around its yield.
        """
        self._parked = True
        try:
            await self._buffer.pause()
        except anyio.get_cancelled_exc_class() as cancelled:
            return cancelled
        finally:
            self._parked = False
        return None

    def _body_done(self, failure: BaseException | None) -> None:
        if failure is None:
            self._settle(CloseReason.COMPLETED)
        elif self._settle(CloseReason.ERROR):
            self._life.error = _as_error(failure)
        elif not isinstance(failure, Interrupted) or self._insisted:
            self._report_body(failure)
        if not self._ending:
            self._end()

    def _report_body(self, failure: BaseException) -> None:
        if not _is_closed(failure):
            self.cleanups.fail("the body", failure)

    async def _close_body(self) -> None:
        body = self._content if self._body is None else self._body
        self._body = self._content = None
        try:
            await aclose(body)
        finally:
            del body  # so that the generators it holds are let go, and adopted
            for source in tuple(self._sources):
                await source.aclose()
            while self._orphans:
                await self._orphans.pop().aclose()
            while self._strays:
                self._strays_gone = self.runtime.wake()
                await self._strays_gone.wait()

    def attach(self, source: Source, notify: Callable[[], None]) -> None:
        """Has a source of the body ended with it, and told when the stream begins to close."""
        self._asked = True
        self._sources[source] = notify

    def detach(self, source: Source) -> None:
        self._sources.pop(source, None)

    def adopt(self, generator: AsyncGenerator[Any, Any]) -> bool:
        """Closes an async generator that the body left half-way: in the owner, or at once if the body goes on."""
        if self._owner is None or not self._owner.is_current():
            return False
        if self._ending:
            self._orphans.append(generator)
            return True

        async def close(task: OwnedTask) -> None:
            failure = await task.capture(generator.aclose())
            if failure is not None:
                self.cleanups.fail("a generator of the body", failure)
            del self._strays[task]
            if self._strays_gone is not None:
                self._strays_gone.set()

        self._strays[self.runtime.spawn(close, self.names.body_task)] = None
        return True

    async def _clean(self, task: OwnedTask) -> None:
        self._life.move(StreamState.CLEANING)
        self._buffer.end()
        if self._writer is not None and self._writer.is_open:  # what the body left is still sent, not at any price
            patience = self.config.cleanup_timeout
            if self._life.reason is CloseReason.SHUTDOWN:
                patience = min(patience, FINAL_SEND_TIMEOUT)
            self._writer.limit(self._within(patience))
        await self._unwind(task)

    async def _take_over(self, task: OwnedTask) -> None:
        """Goes on where an owner that does not end was left behind."""
        asyncgens.adopt_in_this_context(self)
        if self._life.state is StreamState.ENDING:
            await self._clean(task)
        else:
            await self._unwind(task)

    async def _unwind(self, task: OwnedTask) -> None:
        async def capture(work: Coroutine[Any, Any, object]) -> BaseException | None:
            self._insisted = False
            self._set_deadline(self.config.cleanup_timeout)
            outcome = await task.capture(work)
            if self._owner is not task:
                raise _LeftBehind
            return outcome

        error = self._life.error
        if error is None and self._life.reason is not CloseReason.COMPLETED:
            error = self.runtime.stray_cancellation()
        try:
            await self.cleanups.unwind(error, capture)
        except _LeftBehind:
            return
        self._finish()

    def _finish(self) -> None:
        self._life.move(StreamState.CLOSED)
        self._disarm()
        self._owner = None
        report = self.cleanups.close()
        try:
            with contextlib.suppress(Exception):  # a logger that fails must not hold up those who wait for the end
                self._log(report)
        finally:
            self._on_closed(self)
            self._closed.set()

    def _log(self, report: Any) -> None:
        is_enabled = getattr(self._logger, "isEnabledFor", None)
        if report is None and is_enabled is not None and not is_enabled(logging.DEBUG):
            return
        name = f"SSE stream {self.id} of {self.handler}"
        if report is not None:
            self._logger.warning(f"{name}: {report}")
        self._logger.debug(
            f"{name} closed: {self.close_reason}, {self._buffer.events} events, {monotonic() - self._made:.3f} s"
        )

    def _insist(self) -> None:
        """Cancels once more what has used up its time; what still does not end is left behind."""
        if self._owner is not None and not self._insisted:
            self._insisted = True
            self._owner.cancel()
            self._deadline = monotonic() + _INSISTENCE
            return
        name = self.cleanups.running or "the body"
        self.cleanups.fail(name, TimeoutError("did not end though cancelled twice, and was left behind"))
        self._advancing = False
        self._spawn_owner(self._take_over)

    # The alarm: heartbeats, and the one deadline that each state has

    def _within(self, seconds: float) -> float:
        return max(min(seconds, self._latest - monotonic()), _INSISTENCE)

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = monotonic() + (self._within(seconds) if self._ending else seconds)
        self._arm(self._deadline)

    def _arm(self, at: float) -> None:
        if at < self._alarm_at:
            self._disarm()
            self._alarm_at = at
            self._slot = self._wheel.set(self, at)

    def _disarm(self) -> None:
        if self._alarm_at < math.inf:
            self._alarm_at = math.inf
            self._wheel.clear(self, self._slot)

    def on_time(self) -> None:
        """Does what is due; called by the wheel."""
        self._alarm_at = math.inf
        now = monotonic() + EARLY
        if now >= self._deadline:
            self._deadline = math.inf
            self._on_deadline()
        if self._life.state is not StreamState.CLOSED:
            self._arm(min(self._look_after(now), self._deadline))

    def _on_deadline(self) -> None:
        if self._life.state is StreamState.OPEN:
            self.close(CloseReason.MAX_LIFETIME)
        elif self._life.state is StreamState.CLOSING:
            self._end()
            self._interrupt()
        else:
            self._insist()

    def _look_after(self, now: float) -> float:
        """Notices a ``send()`` that is blocked, and sends the heartbeat that is due; tells when to look again."""
        writer = self._writer
        if writer is None or not writer.is_open or self._life.is_body_done:
            return math.inf
        send_timeout = self.config.send_timeout or math.inf
        interval = (self.config.ping_interval or math.inf) * (1 - LATENESS)  # so that none is late
        if writer.sending:
            blocked_until = writer.sent_at + send_timeout
            if now < blocked_until:
                return min(blocked_until, now + interval)  # by then it may have ended, and a heartbeat be due
            self.close(CloseReason.SEND_TIMEOUT)
            writer.give_up()
            return math.inf
        if now >= writer.sent_at + interval:
            self._heartbeats += 1
            writer.sent_at = now
            self._buffer.put_heartbeat()
        return min(writer.sent_at + interval, now + send_timeout)


def _is_closed(failure: BaseException) -> bool:
    """Whether a failure is just the ``GeneratorExit`` of a closed body, as a task group around its yield wraps it."""
    inner: tuple[BaseException, ...] = getattr(failure, "exceptions", ())
    return isinstance(failure, GeneratorExit) or (bool(inner) and all(map(_is_closed, inner)))


def _as_error(failure: BaseException) -> BaseException:
    if isinstance(failure, (Exception, KeyboardInterrupt, SystemExit)):
        return failure
    error = SSEError(f"the body ended itself by {failure!r}")
    error.__cause__ = failure
    return error
