"""The live streams of one application: admission, and the drain at shutdown."""

from __future__ import annotations

import logging
import math
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio

from litestar_safe_sse._core import asyncgens
from litestar_safe_sse._core.access import Access, seconds_left
from litestar_safe_sse._core.admission import Admission, NoPlaceError
from litestar_safe_sse._core.log import StreamLog
from litestar_safe_sse._core.state import CloseReason, check_reason
from litestar_safe_sse._core.statistics import Observer, RegistryStatistics
from litestar_safe_sse._core.stream import Stream, StreamNames
from litestar_safe_sse._core.timers import TimerWheel
from litestar_safe_sse._core.timing import (
    BACKGROUND_MARGIN,
    DRAIN_MARGIN,
    DROP_DELAY,
    FINAL_SEND_TIMEOUT,
    SECOND_CANCELLATION,
    STALL_TIME,
    exit_timeout,
    streams_timeout,
)
from litestar_safe_sse._core.watch import Watch
from litestar_safe_sse._runtime.base import Runtime, Timer
from litestar_safe_sse._runtime.current import current_key, current_runtime
from litestar_safe_sse._runtime.margins import TimerWithMargin
from litestar_safe_sse._runtime.shielding import run_shielded, wait_shielded
from litestar_safe_sse._servers.connections import Connection, Connections
from litestar_safe_sse._servers.shutdown import ShutdownWatch
from litestar_safe_sse.exceptions import InvalidFieldError, SSEError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Hashable, Iterator, Sequence

    from litestar_safe_sse._core.statistics import Observer
    from litestar_safe_sse.config import PerKey, SafeSSEConfig

__all__ = ("StreamRefusedError", "StreamRegistry")


class StreamRefusedError(SSEError):
    """A stream was not admitted.

    Args:
        why: What to tell the client.
        is_shutdown: Whether a shutdown is under way.
        rule: The limit of its key, if it is that which was reached.
    """

    def __init__(self, why: str, *, is_shutdown: bool = False, rule: PerKey | None = None) -> None:
        super().__init__(why)
        self.is_shutdown = is_shutdown
        self.rule = rule


class LaterShutdown:
    """Tells a stream of a shutdown when its time has come.

    Args:
        stream: The stream.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def on_time(self) -> None:
        """Called by the wheel."""
        self._stream.close(CloseReason.SHUTDOWN)


class LoopState:
    """The streams and responses of one event loop, for which a shutdown waits together."""

    def __init__(
        self, runtime: Runtime, watch: ShutdownWatch, logger: Any, on_closed: Callable[[Stream], None]
    ) -> None:
        self.runtime = runtime
        self.wheel = TimerWheel(runtime)
        self.watch = watch
        self.logger = logger
        self.log = StreamLog(logger, runtime.call_later)
        self._on_closed = on_closed
        self.on_stream_closed = self._forget  # made once for all of them
        self.streams: dict[str, Stream] = {}
        self.responses = 0
        """Responses that are not over yet: after its stream each may have background tasks to do."""
        self.background: dict[Callable[[], None], str] = {}
        """What ends the background tasks that are under way, and what these are called."""
        self.has_lifespan = False
        """Whether the end of an application's lifespan waits for the streams."""
        self.draining = False
        self.empty: anyio.Event | None = None
        self.overdue: tuple[Timer, ...] = ()
        """What ends streams, and background tasks, when the time of a drain is over."""
        self.connections = Connections(runtime, drop_delay=DROP_DELAY, stall_time=STALL_TIME)
        self.farewells: list[Connection] = []
        """The connections of the streams that a drain has ended."""

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._on_closed(stream)
        if self.draining:
            if stream.transport is not None:
                self.farewells.append(stream.transport.connection)
            self.drop_if_empty()
        self._finish_if_empty()

    def expect_websocket(self) -> None:
        """Prepares for a stream over a WebSocket, for which not every server waits."""
        self.watch.hold_server()

    def begin_response(self) -> None:
        """Has a drain wait until :meth:`end_response` is called, too."""
        self.responses += 1

    def end_response(self) -> None:
        """Ends what :meth:`begin_response` began."""
        self.responses -= 1
        self._finish_if_empty()

    async def run_background(
        self, work: Coroutine[Any, Any, object], stream: Stream, *, is_cancelled: bool
    ) -> BaseException | None:
        """Runs what a response does after its stream; a shutdown waits for it as long as for the streams.

        Args:
            work: The coroutine.
            stream: The stream.
            is_cancelled: Whether the calling task has been cancelled already.

        Returns:
            What it raised, ``Interrupted`` if it was ended, or ``None``.
        """
        limit, name = stream.config.cleanup_timeout, f"SSE background tasks of {stream.handler}"
        failure = await run_shielded(
            work,
            self.runtime,
            clock=self.wheel,
            limit=limit,
            name=name,
            running=self.background,
            is_cancelled=is_cancelled,
        )
        if failure is not None and is_cancelled:  # nobody else hears of it
            self.logger.warning("%s ended by %r", name, failure)
        return failure

    def bound_by_clock(self, seconds: float) -> None:
        """Bounds what a drain may take, however little of it the loop answers."""
        self.overdue = (
            self.runtime.call_later(seconds, self._hurry),
            TimerWithMargin(self.runtime, seconds, BACKGROUND_MARGIN, self.end_background),
        )

    def _hurry(self) -> None:
        latest = self.wheel.time() + SECOND_CANCELLATION
        for stream in tuple(self.streams.values()):
            stream.bound_end(latest, latest)

    def end_background(self) -> None:
        """Ends what a drain waits for no longer, on servers that would wait for it for ever."""
        for end, name in tuple(self.background.items()):
            self.logger.warning("%s had not ended when the server shut down", name)
            end()

    def drop_if_empty(self) -> None:
        """Sees to it, once a drain has ended every stream, that no client holds up the server's exit."""
        if not self.streams and (self.farewells or self.connections):
            # A server waits at its exit for clients that have stopped reading, be it for their last bytes.
            farewells, self.farewells = self.farewells, []
            self.runtime.call_later(FINAL_SEND_TIMEOUT, lambda: self.connections.drop_all(farewells))

    def _finish_if_empty(self) -> None:
        if self.empty is not None and not self.streams and not self.responses:
            self.empty.set()


class StreamRegistry:
    """The live streams of one application.

    It can be counted and iterated over; both look at this process only. Streams of several event loops may be in it,
    but each is to be closed in its own.

    Args:
        config: The application's settings.
    """

    def __init__(self, config: SafeSSEConfig) -> None:
        self.config = config
        self.logger: Any = None
        """The application's logger, once it is known."""
        self._loops: dict[Hashable, LoopState] = {}
        self._opened = 0
        self._refused = 0
        self._closed: Counter[CloseReason] = Counter()
        self._observers: tuple[Observer, ...] = ()
        self._admission = Admission.of(config)
        if config.drain_spread > config.shutdown_grace:
            raise InvalidFieldError(
                "drain_spread",
                f"must be no more than shutdown_grace ({config.shutdown_grace} s), within which the streams are told, "
                f"not {config.drain_spread}; give less, or a longer grace",
            )

    def __len__(self) -> int:
        return sum(len(loop.streams) for loop in tuple(self._loops.values()))

    def __iter__(self) -> Iterator[Stream]:
        return iter([stream for loop in tuple(self._loops.values()) for stream in tuple(loop.streams.values())])

    def statistics(self) -> RegistryStatistics:
        """Counts, as a value to assert on."""
        return RegistryStatistics(
            open=len(self),
            opened=self._opened,
            refused=self._refused,
            closed=dict(self._closed),
            draining=any(loop.draining for loop in tuple(self._loops.values())),
        )

    async def aclose_all(self, reason: CloseReason = CloseReason.CLOSED) -> None:
        """Ends the streams of this event loop, and waits until they have cleaned up.

        Args:
            reason: The reason they end for.

        Raises:
            InvalidFieldError: If the reason is not a ``CloseReason``.
        """
        await self._aclose(tuple(self._here().streams.values()), reason)

    async def aclose_where(
        self, *, key: Hashable, by: PerKey | None = None, reason: CloseReason = CloseReason.REVOKED
    ) -> int:
        """Ends the streams of this event loop that have a key, and waits until they have cleaned up.

        Args:
            key: What the function of a ``PerKey`` has returned for their connections.
            by: That ``PerKey``; any of the configuration's if ``None``.
            reason: The reason they end for. A stream that is revoked sends nothing more.

        Returns:
            The number of streams.

        Raises:
            InvalidFieldError: If the reason is not a ``CloseReason``, the configuration has no such ``PerKey``, or the
                key can be none.
        """
        rules = tuple(self.config.admission)  # type: ignore[arg-type]
        if self._admission is None or not rules:
            raise InvalidFieldError("admission", "must have the PerKey by which the streams are to be found")
        if by is not None and by not in rules:
            raise InvalidFieldError("by", f"must be a PerKey of the configuration's admission, or None, not {by!r:.60}")
        try:
            hash(key)
        except TypeError as error:
            raise InvalidFieldError("key", f"must be hashable, as keys are ({error})") from error
        runtime = self._here().runtime
        found = [stream for stream in self._admission.find(key, by) if stream.runtime is runtime]
        await self._aclose(found, reason)
        return len(found)

    async def _aclose(self, streams: Collection[Stream], reason: CloseReason) -> None:
        """Ends all of them before it waits for any."""
        check_reason(reason)  # where there are none, too
        for stream in streams:
            stream.close(reason)
        for stream in streams:
            await stream.aclose(reason)

    def keys_of(self, stream: Stream) -> list[tuple[int, Hashable]]:
        """Returns the keys of a live stream, each with the place of its ``PerKey`` in the configuration."""
        return [] if self._admission is None else self._admission.keys_of(stream)

    def admit(self, names: StreamNames, connection: object = None) -> Stream:
        """Makes a stream.

        Args:
            names: What the streams of its handler are called.
            connection: What the keys are of, if the configuration has some.

        Raises:
            StreamRefusedError: If a shutdown is under way, or no place is left.
            InvalidFieldError: If a key cannot be told.
        """
        loop = self._here()
        if loop.draining:
            raise self._refuse(names, StreamRefusedError("the server is shutting down", is_shutdown=True))
        limit = self.config.max_streams
        if limit is not None and self.config.on_refusal != "oldest" and len(self) >= limit:
            raise self._refuse(names, StreamRefusedError("too many streams are open"))
        observers = (*self._observers, loop.log) if loop.log.is_wanted else self._observers
        watch = Watch(observers) if observers else None
        if not loop.has_lifespan:
            loop.watch.hold_server()
        stream = Stream(
            runtime=loop.runtime,
            wheel=loop.wheel,
            connections=loop.connections,
            config=self.config,
            names=names,
            log=loop.log,
            watch=watch,
            on_closed=loop.on_stream_closed,
        )
        victims = () if self._admission is None else self._take_places(stream, self._admission, connection)
        loop.streams[stream.id] = stream
        for victim in victims:
            victim.close(CloseReason.CLOSED)
        self._opened += 1
        if watch is not None:
            watch.opened(stream)
        return stream

    def loop_state(self) -> LoopState:
        """Returns the state of the event loop that is running, which outlives a shutdown for those who have it."""
        return self._here()

    def observe(self, observer: Observer) -> None:
        """Has an observer notified of the streams that are opened from now on.

        Raises:
            InvalidFieldError: It is none.
        """
        methods = [name for name in vars(Observer) if not name.startswith("_")]
        if isinstance(observer, type) or not all(callable(getattr(observer, name, None)) for name in methods):
            raise InvalidFieldError(
                "observer", f"must be an instance of a class that is derived from Observer, not {observer!r:.60}"
            )
        self._observers += (observer,)

    def watch_access(self, stream: Stream, connection: object) -> bool:
        """Has a stream revoked when the right to it ends, as its settings say.

        Args:
            stream: The stream.
            connection: What they are asked about.

        Returns:
            Whether there is a right to begin with.

        Raises:
            InvalidFieldError: If it cannot be told.
        """
        seconds = seconds_left(stream.config, connection)
        if seconds > 0 and (seconds < math.inf or stream.config.reauthorize is not None):
            loop = self._here()
            Access(stream, connection, loop.wheel, loop.logger).begin(seconds)
        return seconds > 0

    def _take_places(self, stream: Stream, admission: Admission, connection: object) -> Sequence[Stream]:
        """Takes places for a stream; returns those that have to make room."""
        keys = admission.keys(connection)
        try:
            return admission.take(stream, keys)
        except NoPlaceError as error:
            why = "too many streams are open" + ("" if error.rule is None else " for this client")
            raise self._refuse(stream.names, StreamRefusedError(why, rule=error.rule)) from None

    def _refuse(self, names: StreamNames, refusal: StreamRefusedError) -> StreamRefusedError:
        self._refused += 1
        for observer in self._observers:
            observer.stream_refused(names.handler, str(refusal))
        return refusal

    def _on_closed(self, stream: Stream) -> None:
        if self._admission is not None:
            self._admission.give_back(stream)
        if stream.close_reason is not None:
            self._closed[stream.close_reason] += 1

    # Shutdown

    @property
    def is_watching(self) -> bool:
        """Whether a shutdown of this event loop is watched for: from :meth:`start` to :meth:`stop`."""
        return current_key() in self._loops

    def start(self) -> None:
        """Begins to watch for a shutdown. Called when the application starts, and by the first stream at the latest."""
        loop = self._loops.get(current_key())
        if loop is not None and loop.draining:  # of a lifespan whose shutdown failed
            self.stop()
        self._here().has_lifespan = True

    def begin_drain(self) -> None:
        """Tells every stream of this event loop that the server is shutting down. Returns at once."""
        loop = self._here()
        if loop.draining:
            return
        loop.draining = True
        now, time = monotonic(), loop.wheel.time()
        streams = tuple(loop.streams.values())
        for number, stream in enumerate(streams):
            stream.bound_end(time + self.config.shutdown_grace, time + streams_timeout(self.config))
            delay = self.config.drain_spread * number / len(streams)
            if delay:
                loop.wheel.set(LaterShutdown(stream), now + delay)
            else:
                stream.close(CloseReason.SHUTDOWN)
        loop.drop_if_empty()
        loop.bound_by_clock(streams_timeout(self.config))

    async def drain(self) -> None:
        """Ends every stream of this event loop, and waits until all responses are over, but not without bound."""
        loop = self._here()
        self.begin_drain()
        if loop.streams or loop.responses:
            loop.empty = anyio.Event()
            overdue = TimerWithMargin(loop.runtime, streams_timeout(self.config), DRAIN_MARGIN, loop.empty.set)
            try:
                await wait_shielded(loop.empty)
            finally:
                overdue.cancel()
        for observer in self._observers:
            observer.streams_drained()
        for stream in tuple(loop.streams.values()):
            loop.logger.warning(
                "SSE stream %s of %s had not ended when the server shut down", stream.id, stream.handler
            )

    def stop(self) -> None:
        """Undoes what :meth:`start` did. Called when the application has shut down."""
        loop = self._loops.pop(current_key(), None)
        if loop is not None:
            for timer in loop.overdue:
                timer.cancel()
            loop.log.tell_all()
            loop.watch.uninstall()
            asyncgens.uninstall(loop.wheel)

    def _here(self) -> LoopState:
        loop = self._loops.get(current_key())
        if loop is None:
            runtime = current_runtime()
            self._forget_gone_loops()
            logger = self.logger or logging.getLogger("litestar_safe_sse")
            delay = exit_timeout(self.config)
            watch = ShutdownWatch(
                self.begin_drain,
                logger,
                drain=self.drain,
                termination_delay=delay,
                has_unawaited=self._has_unawaited,
            )
            loop = self._loops[runtime.key] = LoopState(runtime, watch, logger, self._on_closed)
            watch.install()
        return loop

    def _has_unawaited(self) -> bool:
        loops = tuple(self._loops.values())
        if any((loop.streams or loop.responses) and not loop.has_lifespan for loop in loops):
            return True
        return any(stream.transport is not None and stream.transport.is_websocket for stream in self)

    def _forget_gone_loops(self) -> None:
        """Undoes what was done for loops that ended without telling, as without a lifespan."""
        for key, loop in tuple(self._loops.items()):
            if loop.runtime.is_gone():
                del self._loops[key]
                loop.watch.uninstall()
