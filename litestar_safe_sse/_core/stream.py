"""The stream: what ends it, in what order, and what each of its tasks may do meanwhile.

The laws, and where each is kept:

1. *One owner.* A body is entered, advanced and closed by one task, in one context (``_own``). Contexts that a handler
   enters are entered and left by that same task (``portal.py``).
2. *One cancellation.* A body that waits gets one cancellation; one that is parked at its ``yield`` is closed
   (``_interrupt``). When its time is up it is cancelled again, then left behind and reported (``_insist``).
3. *Cleanups run exactly once*, after the body, in the owner's task, which the cancellations of others cannot reach.
4. *One reason.* ``Lifecycle.decide`` takes the first cause only.
5. *Shutdown is ours*: ``close(SHUTDOWN)`` comes from ``registry.py``, and ``bound_end`` bounds the rest.
6. *Nothing is unbounded.* Bytes: ``buffer.py``. Time: each state that can last has a deadline (``deadline.py``).
7. *The server may lie.* ``receive()``, a failed or blocked ``send()``, and a cancellation each end the stream; a
   heartbeat makes sure that there is a ``send()``.
8. *No side effects on import.*
9. *The fast path stays fast.* An event costs its encoding and an append to a list.
10. *In order.* ``serve`` sends the headers, with all that others do in ``send``, before it starts the owner. Where the
   first event is prefetched, the body is held at it until then (``_prefetch``).
11. *What is given is owned.* ``accept`` takes over the body; ``body.py`` closes it and what it draws from.

Three tasks take part. The *request task* belongs to the server; it writes (``writer.py``), and waits until all is
done, whatever cancellations reach it. The *owner* holds the body (``body.py``) and cleans up. The *listener* waits for
the client to leave (``listener.py``). A stop flows from any of them through ``close()``::

    cause ──> reason ──> action ──> body ended ──> cleanups ──> done
              decide     ACTIONS    _interrupt     _wind_up     _finish
                         (state.py) or closed
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import secrets
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from litestar_safe_sse._core import asyncgens
from litestar_safe_sse._core.body import Body, Position
from litestar_safe_sse._core.buffer import Buffer, BufferState
from litestar_safe_sse._core.cleanup import CleanupRegistry
from litestar_safe_sse._core.deadline import Deadline
from litestar_safe_sse._core.listener import Listener
from litestar_safe_sse._core.portal import Portal
from litestar_safe_sse._core.state import ACTIONS, Action, Cause, CloseReason, Lifecycle, StreamState, check_reason
from litestar_safe_sse._core.statistics import StreamStatistics
from litestar_safe_sse._core.timers import EARLY
from litestar_safe_sse._core.timing import FINAL_SEND_TIMEOUT, SECOND_CANCELLATION, draw_shorter
from litestar_safe_sse._core.writer import Writer
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse._runtime.shielding import wait_shielded
from litestar_safe_sse.exceptions import SSEError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from litestar_safe_sse._core.body import Source
    from litestar_safe_sse._core.buffer import BlockEncoder
    from litestar_safe_sse._core.encoding import Preamble
    from litestar_safe_sse._core.log import StreamLog
    from litestar_safe_sse._core.timers import TimerWheel
    from litestar_safe_sse._core.transport import Transport
    from litestar_safe_sse._core.watch import Watch
    from litestar_safe_sse._runtime.base import OwnedTask, Runtime, Work
    from litestar_safe_sse._servers.connections import Connections
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("Stream", "StreamNames")

T = TypeVar("T")

_UNBOUNDED = (StreamState.NEW, StreamState.OPEN)
"""The states which a shutdown does not bound: a handler's work is the server's to bound, and what is open is ended."""

_BY_ITSELF = (CloseReason.COMPLETED, CloseReason.CLOSED, CloseReason.MAX_LIFETIME)
"""Those for which neither the client nor the server ends a stream: what ``send()`` raises then is none of theirs."""


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
        connections: Where a client that takes nothing is given up.
        config: The settings in force for this stream.
        names: What it is called.
        log: Where what fails at its end is reported.
        watch: Who is notified of what it does, if somebody is.
        on_closed: Called once, when the stream has ended and cleaned up.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_body",
        "_buffer",
        "_closed",
        "_closing",
        "_connections",
        "_deadline",
        "_insisted",
        "_life",
        "_listener",
        "_log",
        "_made",
        "_on_closed",
        "_portal",
        "_started",
        "_watch",
        "_writer",
        "cleanups",
        "config",
        "has_begun",
        "id",
        "names",
        "runtime",
        "transport",
    )

    def __init__(
        self,
        *,
        runtime: Runtime,
        wheel: TimerWheel,
        connections: Connections,
        config: SafeSSEConfig,
        names: StreamNames,
        log: StreamLog,
        watch: Watch | None = None,
        on_closed: Callable[[Stream], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self.names = names
        self.config = config
        self.runtime = runtime
        self.cleanups = CleanupRegistry()
        self._connections = connections
        self._log = log
        self._watch = watch
        self._on_closed = on_closed
        self._made = monotonic()
        self._life = Lifecycle()
        self._asked = False
        """Whether the body has asked to be told, and so has a grace."""
        self._closing: anyio.Event | None = None
        """Set when there is a reason to end; made for the first who waits for it."""
        self._closed = runtime.event()
        """Set when all has been given back."""
        # The three tasks
        self._buffer = Buffer(runtime)
        self._body = Body(self._buffer, self._life, self.cleanups, runtime)
        self._portal: Portal | None = None
        self._started = False
        """Whether the owner may go on to the body."""
        self.has_begun = False
        """Whether the headers have been sent."""
        self.transport: Transport | None = None
        """The way to the client, while the stream is being served."""
        self._writer: Writer | None = None
        self._listener: Listener | None = None
        self._deadline = Deadline(wheel, self)
        self._insisted = False
        """Whether what is under way has had its second cancellation."""

    # What goes on

    @property
    def _owner(self) -> OwnedTask | None:
        return self._body.task

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
    def bytes_sent(self) -> int:
        """Bytes that the server has taken; counted for who observes the stream."""
        return 0 if self._watch is None else self._watch.bytes

    @property
    def events_sent(self) -> int:
        """Events and comments that the server has taken, without heartbeats."""
        return self._buffer.written - self.heartbeats_sent

    @property
    def heartbeats_sent(self) -> int:
        """Heartbeats that the server has taken."""
        return self._buffer.heartbeats_written

    @property
    def failures(self) -> int:
        """How much of what it had to end or to clean up has failed."""
        return len(self.cleanups.failures)

    @property
    def blocked_for(self) -> float:
        """Seconds since a ``send()`` began that is still under way; 0 if there is none."""
        return 0.0 if self._writer is None else self._writer.blocked_for

    def statistics(self) -> StreamStatistics:
        return StreamStatistics(
            id=self.id,
            handler=self.handler,
            state=self.state,
            close_reason=self.close_reason,
            age=monotonic() - self._made,
            events=self._buffer.events,
            bytes_pending=self._buffer.pending,
            heartbeats=self._buffer.heartbeats,
            cleanups=len(self.cleanups),
        )

    async def flush(self) -> None:
        await self._buffer.flush()

    async def send(self, item: object) -> None:
        """Sends an item beside what the body yields; each has to wait for room before it."""
        if self._life.state is StreamState.NEW:
            raise SSEError("send() must be called while the body runs; what a handler has to say first, it can yield")
        await self._buffer.wait_for_room()
        is_body = self._owner is not None and self._owner.is_current()
        if self._life.is_body_done or self._buffer.state is BufferState.DROPPED:
            if is_body and not self._life.is_body_done:  # on its way out, where what it yields is dropped too
                await checkpoint()  # in which one that would go on for ever can be cancelled
                return
            raise StreamClosedError("the client is gone, or the stream has ended; nothing more can be sent")
        if self._buffer.put(item):
            await (self._buffer.pause() if is_body else self._buffer.let_write())

    def accept(self, content: object, encoder: BlockEncoder, config: SafeSSEConfig) -> object:
        """Takes over a body, which is closed from now on even if it is never started.

        Args:
            content: The body.
            encoder: Makes the bytes of events.
            config: The settings in force for this stream.

        Returns:
            The body that it replaces, or ``None``.
        """
        self.config = config
        self._buffer.configure(encoder, config.buffer_size)
        return self._body.accept(content, config.cleanup_timeout)

    # What ends it

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
        self._decide(check_reason(reason))
        if reason.client_gone:
            self._hang_up()
        elif reason is CloseReason.REVOKED:
            self._silence()
        self._act(Cause.of(reason))

    def fail(self, failure: BaseException) -> None:
        """Ends the stream by a failure, which is raised to the server if it is the first cause."""
        if self._life.reason is None:
            self._life.error = failure
        self.close(CloseReason.ERROR)

    def lose_connection(self, failure: Exception) -> None:
        """Ends the stream by a failure of the server, after which nothing more is sent."""
        self.fail(failure)
        self._hang_up()

    async def aclose(self, reason: CloseReason = CloseReason.CLOSED) -> None:
        """Ends the stream and waits until it has cleaned up; called by the body or a cleanup, it does not wait.

        Raises:
            InvalidFieldError: If the reason is not a ``CloseReason``.
        """
        self.close(reason)
        if self._life.state is not StreamState.NEW and not (self._owner is not None and self._owner.is_current()):
            await self._closed.wait()

    async def discard(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Makes sure that a stream has ended, also one that no response has taken."""
        if self._decide(reason):
            self._life.error = failure
        if self._life.state is StreamState.NEW:
            self._end()
            self._start_owner()
        await wait_shielded(self._closed)
        self._life.error = None

    def bound_end(self, grace_until: float, latest: float) -> None:
        """Bounds all that is still to come, by times of the loop's clock (``timers.py``).

        Args:
            grace_until: Until when a body may say farewell. It has longer where it needs less time to clean up.
            latest: When everything has to be over.
        """
        self._deadline.bound(max(grace_until, latest - self.config.cleanup_timeout), latest)
        if self._life.state not in _UNBOUNDED:
            self._deadline.apply_bound(is_ending=self._life.is_ending)

    def _decide(self, reason: CloseReason) -> bool:
        first = self._life.decide(reason)
        if first:
            if self._closing is not None:
                self._closing.set()
            self._body.notify_sources()
        return first

    def _act(self, cause: Cause) -> None:
        """Does what the table says for a cause in this state."""
        action = ACTIONS.get((self._life.state, cause), Action.NOTHING)
        if action is Action.GRACE and self._asked and self.config.shutdown_grace > 0:
            self._life.move(StreamState.CLOSING)
            self._deadline.wheel.watch()
            self._deadline.begin_grace(self.config.shutdown_grace)
        elif action is not Action.NOTHING:
            self._end()
            self._start_owner()  # the headers may be blocked, and must not hold up the end

    def _end(self) -> None:
        if self._life.state is not StreamState.CLOSING:
            self._deadline.wheel.watch()
        self._life.move(StreamState.ENDING)
        self._deadline.begin(self.config.cleanup_timeout)
        self._buffer.end()
        self._interrupt()

    def _interrupt(self) -> None:
        """Delivers the one cancellation to a body that waits; one that is parked is closed instead."""
        if self._owner is None or self._body.position is not Position.WAITING:
            return
        if self._owner.is_current():  # it would otherwise hit the next `await`, be it in a `finally`
            self.runtime.call_soon(self._interrupt)
        else:
            self._owner.cancel(self._interrupt, self._body.content)

    def _hang_up(self) -> None:
        """Sends nothing more."""
        if self._writer is None:
            self._buffer.drop()
        else:
            self._writer.hang_up()

    def _silence(self) -> None:
        """Sends nothing more but the end, and not even that to a client that takes nothing."""
        if self._writer is None:
            self._buffer.drop()
        else:
            self._writer.silence(self.config.send_timeout or self.config.cleanup_timeout)

    # The request task writes the response

    async def serve(self, transport: Transport, preamble: Preamble | None = None, *, prefetch: float = 0) -> None:
        """Sends the response, and returns when the stream has ended and cleaned up.

        Args:
            transport: The way to the client.
            preamble: What the stream begins with that no body has yielded.
            prefetch: Seconds that the headers wait for the first event at most; 0 for not at all.

        Raises:
            BaseException: What the body raised, what the server raised other than an ``OSError``, or the cancellation
                of this task; in each case after the cleanups, and ahead of the headers if the body failed while they
                waited for it.
        """
        if self._life.state is not StreamState.NEW:
            raise StreamClosedError("the stream has been answered with already; make a response for each request")
        if preamble is not None:
            self._buffer.begin(preamble)
        self.transport = transport
        writer = Writer(
            transport,
            buffer=self._buffer,
            life=self._life,
            connections=self._connections,
            wheel=self._deadline.wheel,
            watch=self._watch,
        )
        self._writer = writer
        try:
            with anyio.CancelScope() as writer.cancel_scope:
                if await self._begin(transport, writer, prefetch):
                    await writer.write()
        except OSError:
            self.close(CloseReason.CLIENT_DISCONNECTED)
        except Exception as exc:
            self._fail_to_send(exc, transport)
        except GeneratorExit:  # the loop is gone, and nothing can be awaited any more
            raise
        except BaseException:
            if self._deadline.is_bounded:  # a shutdown, which is learnt of before the server cancels (registry.py)
                await self._write_on(writer)
            self.close(CloseReason.CLIENT_DISCONNECTED)
            await self._join(writer)
            raise
        await self._join(writer)
        if self._life.error is not None:
            error, self._life.error = self._life.error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def _fail_to_send(self, failure: Exception, transport: Transport) -> None:
        """Ends the stream by what ``send()`` raised, be it of a hook or middleware: nobody else would tell of it."""
        if isinstance(failure, RuntimeError) and not transport.connection.is_open:  # as uvloop says that it is closed
            self.close(CloseReason.CLIENT_DISCONNECTED)
            return
        self.fail(failure)
        if self._life.error is None and self._life.reason in _BY_ITSELF:
            self._life.error = failure

    async def _begin(self, transport: Transport, writer: Writer, prefetch: float) -> bool:
        """Sends the headers and starts the body.

        Returns:
            Whether there is a response. There is none, yet, if the body failed ahead of its first event.
        """
        self._open(transport)
        if not self.runtime.starts_in_order:
            await self.runtime.turn()  # the listener looks first
        if prefetch and not await self._prefetch(prefetch):
            return False
        await writer.start()
        self.has_begun = True
        if self._watch is not None:
            self._watch.answered(self)
        self._start_owner()
        if prefetch:
            self._buffer.release(self.config.buffer_size)
        for _ in range(1 if self.runtime.starts_in_order else 2):  # an event that is ready follows the headers at once
            await self.runtime.turn()
        return True

    async def _prefetch(self, seconds: float) -> bool:
        """Lets the body run up to its first event, where it is held until the headers have been sent.

        Returns:
            Whether it has not failed on its way there.
        """
        self._buffer.hold()
        self._start_owner()
        with self._deadline.wheel.move_on_after(seconds):
            await self._buffer.wait_for_event()
        return self._life.error is None or self._buffer.events > 0

    def _open(self, transport: Transport) -> None:
        if self._life.reason is not None:  # the handler closed it
            self._end()
        else:
            self._life.move(StreamState.OPEN)
            if self.config.max_lifetime is not None:
                self._deadline.begin_lifetime(draw_shorter(self.config.max_lifetime, self.config.jitter))
        self._listener = Listener(self, transport, self.runtime, self.names.listener_task)
        self._deadline.look_again(self._look_at_writer(monotonic()))

    async def _write_on(self, writer: Writer) -> None:
        try:
            if self.has_begun:
                await writer.write_on()
        except OSError:
            writer.hang_up()
        except Exception as exc:
            self.fail(exc)

    async def _join(self, writer: Writer) -> None:
        """Waits for everyone else, whatever cancellations arrive."""
        writer.close()
        if self._life.state is StreamState.CLOSED:
            self._end_alarm()
        self._start_owner()
        try:
            await wait_shielded(self._closed)
        finally:
            if self._watch is not None and self._closed.is_set():  # or the loop is gone
                self._watch.closed(self)
            self._writer = self.transport = None
            listener, self._listener = self._listener, None
            if listener is not None:
                await listener.stop()

    # The owner holds the body, ends it and cleans up

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enters a context; it may be called in a thread."""
        if self._owner is not None and self._owner.is_current():
            return self.cleanups.enter_context(manager)
        return self.cleanups.enter_context_apart(manager)

    async def enter_async_context(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters a context in the task that will leave it, where that can be."""
        entering = self.cleanups.enter_async_context(manager)
        if self._life.state is not StreamState.NEW or not self.runtime.can_hold_contexts:
            return await entering
        if self._portal is None:
            self._portal = Portal(self.runtime)
            self._spawn_owner(self._own, contextvars.Context())  # which the portal fills
        return await self._portal.enter(entering)

    def attach(self, source: Source, notify: Callable[[], None]) -> None:
        """Has a source of the body ended with it, and notified when the stream begins to close."""
        self._asked = True
        self._body.attach(source, notify)

    def detach(self, source: Source) -> None:
        """Forgets a source that has ended."""
        self._body.detach(source)

    def report(self, name: str, failure: BaseException | None) -> None:
        """Reports a failure of what ends with the body, if it is one."""
        self._body.report(name, failure)

    def _start_owner(self) -> None:
        if self._started:
            return
        self._started = True
        if self._portal is not None:
            self._portal.shut()
        else:
            self._spawn_owner(self._own)

    def _spawn_owner(self, work: Work, context: contextvars.Context | None = None) -> None:
        asyncgens.install(self._deadline.wheel)  # that of its application in this loop
        if self._owner is not None:
            context = self._owner.context  # a successor's is its predecessor's
        self._body.task = self.runtime.spawn(work, self.names.body_task, context)

    async def _own(self, task: OwnedTask) -> None:
        asyncgens.keep_in_this_context(self._body)
        try:
            failure = None
            if self._portal is not None:
                failure = await self._portal.serve(task, task.capture)
                self._portal = None
            self.cleanups.follow_threads()
            if self._watch is not None:
                self._watch.owned(self)
            if not self._life.is_ending:
                failure = failure or await task.capture(self._body.run(self.handler))
                self._check_owner(task)
                if isinstance(failure, Interrupted):  # the loop holds for this turn what the body has left
                    await task.capture(self._pass_turn())
                    self._check_owner(task)
                self._body_done(failure)
            await self._wind_up(task)
        except _LeftBehind:
            pass
        except Exception as exc:
            self._owner_failed(task, exc)

    def _owner_failed(self, task: OwnedTask, error: Exception) -> None:
        """Has a successor clean up behind an object that answers what none should, or a mistake of this package's."""
        if self._owner is not task:
            raise error
        self.cleanups.fail("the stream", error)
        if self._decide(CloseReason.ERROR):
            self._life.error = error
        self._act(Cause.BODY_ENDED)
        if self._life.state is not StreamState.CLOSED:
            self._spawn_owner(self._take_over)

    async def _take_over(self, task: OwnedTask) -> None:
        """Goes on where an owner was left behind, or has failed."""
        asyncgens.keep_in_this_context(self._body)
        with contextlib.suppress(_LeftBehind):
            await self._wind_up(task)

    async def _wind_up(self, task: OwnedTask) -> None:
        """Closes the body, cleans up, and closes what the cleanups have left half-way."""
        self._check_owner(task)  # it may have entered a context for the handler until now
        if self._life.state is StreamState.ENDING:
            await self._close_body(task)
            self._begin_cleaning()
        if self._watch is not None:
            self._watch.ended(self)
        error = self._life.error
        if error is None and self._life.reason is not CloseReason.COMPLETED:
            error = self.runtime.stray_cancellation()
        is_closed = False
        while not is_closed:
            await self.cleanups.unwind(error, partial(self._capture_in_time, task))
            await self._close_body(task)
            is_closed = self.cleanups.close()
        self._finish()

    async def _pass_turn(self) -> None:
        await self.runtime.turn()

    def _check_owner(self, task: OwnedTask) -> None:
        if self._owner is not task:  # it was left behind, and a successor has taken over
            raise _LeftBehind

    async def _capture_in_time(self, task: OwnedTask, work: Coroutine[Any, Any, object]) -> BaseException | None:
        self._insisted = False
        self._deadline.begin(self.config.cleanup_timeout)
        outcome = await task.capture(work)
        self._check_owner(task)
        return outcome

    def _body_done(self, failure: BaseException | None) -> None:
        if failure is None:
            self._decide(CloseReason.COMPLETED)
        elif self._decide(CloseReason.ERROR):
            self._life.error = error = _as_error(failure)
            if self.config.on_error is not None and self.has_begun and isinstance(error, Exception):
                self._tell(error, self.config.on_error)
        elif not isinstance(failure, Interrupted) or self._insisted:
            self._body.report("the body", failure)
        self._act(Cause.BODY_ENDED)

    def _tell(self, error: Exception, on_error: Callable[[Exception], object]) -> None:
        """Tells the client of an error by a last event, and what keeps it from that by the report."""
        try:
            event = on_error(error)
            if event is not None:
                self._buffer.put(event)
                self._life.is_told = True
        except BaseException as exc:  # the owner has still to clean up
            self.cleanups.fail("on_error", exc)

    async def _close_body(self, task: OwnedTask) -> None:
        while (closing := self._body.take_closing()) is not None:
            self._body.report("the body", await self._capture_in_time(task, closing))

    def _begin_cleaning(self) -> None:
        self._life.move(StreamState.CLEANING)
        self._buffer.end()
        if self._writer is not None and self._writer.is_open:  # what the body left is still sent, not at any price
            seconds = self.config.cleanup_timeout
            if self._life.reason is CloseReason.SHUTDOWN and self.has_begun:
                seconds = min(seconds, FINAL_SEND_TIMEOUT)
            self._writer.set_final_timeout(self._deadline.within(seconds))
            self._deadline.look_again(self._look_at_writer(monotonic()))

    def _finish(self) -> None:
        self._life.move(StreamState.CLOSED)
        self._deadline.lift()
        if self._writer is None or not self._writer.is_open:
            self._end_alarm()
        self._body.task = None
        report = self.cleanups.report()
        try:
            if report is not None:
                self._log.warn(self, report)
        finally:
            if self._watch is not None and self._writer is None:  # nobody serves it, who would tell when all is sent
                self._watch.closed(self)
            self._on_closed(self)
            self._closed.set()

    # Time: heartbeats, and the deadline of what the stream is at

    def on_time(self) -> None:
        """Does what is due; called by the alarm."""
        now = monotonic() + EARLY
        if now >= self._deadline.at:
            self._deadline.lift()
            self._on_deadline()
        if self._writer is not None and self._writer.has_lost_client(now, self.config):
            self.close(CloseReason.CLIENT_DISCONNECTED)
        self._deadline.look_again(self._look_at_writer(now))

    def _end_alarm(self) -> None:
        self._deadline.clear()
        self._deadline.wheel.unwatch()

    def _on_deadline(self) -> None:
        if self._life.state is StreamState.OPEN:
            self.close(CloseReason.MAX_LIFETIME)
        elif self._life.state is StreamState.CLOSING:
            self._act(Cause.GRACE_OVER)
        else:
            self._insist()

    def _insist(self) -> None:
        """Cancels once more what has used up its time; what still does not end is left behind."""
        if self._cancel_again():
            self._deadline.begin(SECOND_CANCELLATION)
            return
        name = self.cleanups.running or "the body"
        self.cleanups.fail(name, TimeoutError("did not end though cancelled twice, and was left behind"))
        self._body.leave_behind()
        if self._owner is not None:
            self._owner.let_go()
        self._spawn_owner(self._take_over)

    def _cancel_again(self) -> bool:
        if self._owner is None:
            return False
        if self._insisted:
            return self._owner.hurry()
        self._insisted = True
        self._owner.cancel()
        return True

    def _look_at_writer(self, now: float) -> float:
        """Sends the heartbeat that is due, and gives up a client that takes nothing; returns when to look again."""
        if self._writer is None:
            return math.inf
        again = self._writer.look(now, self.config)
        if again is None:
            self.close(CloseReason.SEND_TIMEOUT)
            self._writer.give_up(self.config.send_timeout or self.config.cleanup_timeout)
            return math.inf
        return again


def _as_error(failure: BaseException) -> BaseException:
    if isinstance(failure, (Exception, KeyboardInterrupt)):
        return failure
    error = SSEError(f"the body ended itself by {failure!r}")
    error.__cause__ = failure
    return error
