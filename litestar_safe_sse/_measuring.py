"""What is measured of streams, whatever it is measured with.

A stream is looked at once a second, and at its end: what it sends costs nothing here, and what it begins and ends by
are additions. What has been counted is handed on by one timer for each event loop, and to whoever asks.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.statistics import Observer
from litestar_safe_sse._instruments import INSTRUMENTS
from litestar_safe_sse._measuring_sources import SourceMetrics
from litestar_safe_sse._runtime.current import current_key, current_runtime

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from litestar_safe_sse._core.statistics import ObservedStream
    from litestar_safe_sse._instruments import Instruments
    from litestar_safe_sse._measuring_sources import Source
    from litestar_safe_sse._runtime.base import Runtime, Timer

__all__ = ("StreamMetrics",)

TICK = 1.0
"""Seconds after which what has been counted is handed on, while streams are open."""

LOOK_FOR_BLOCKED = 5
"""Every how many ticks it is asked which streams are blocked."""

BLOCKED = 1.0
"""Seconds after which a ``send()`` counts as blocked."""

REFUSALS = {
    "the server is shutting down": "shutdown",
    "too many streams are open": "max_streams",
    "too many streams are open for this client": "per_key",
}
"""The value of ``reason`` for why a stream is refused."""

GAUGES = {instrument.name for instrument in INSTRUMENTS if instrument.kind == "gauge"}


class Tally:
    """What has been counted of one handler in one event loop, and what of it has been told.

    Args:
        handler: The name of the handler.
        instruments: What is told.
    """

    __slots__ = (
        "blocked", "bytes", "closed", "events", "failures", "heartbeats", "labels", "opened",
        "record_cleanup", "record_duration", "record_first_event", "told",
    )  # fmt: skip

    def __init__(self, handler: str, instruments: Instruments) -> None:
        self.labels = labels = (handler,)
        self.opened = self.events = self.bytes = self.heartbeats = self.failures = 0
        self.closed: Counter[CloseReason] = Counter()
        self.blocked = 0
        """Streams that were blocked when they were looked at."""
        self.told: dict[tuple[str, tuple[str, ...]], int] = {}
        self.record_duration = instruments.recorder("sse_stream_duration_seconds", labels)
        self.record_first_event = instruments.recorder("sse_first_event_seconds", labels)
        self.record_cleanup = instruments.recorder("sse_cleanup_seconds", labels)

    def changes(self) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """Yields by how much each figure has changed since it was told, with its instrument and labels."""
        for key, now in self._figures():
            told = self.told.get(key)
            change = now - (told or 0)
            # What another thread adds up while a chunk is being counted may be short of what it was.
            if told is None or change > 0 or (change and key[0] in GAUGES):
                self.told[key] = now
                yield key[0], change, key[1]

    def _figures(self) -> Iterator[tuple[tuple[str, tuple[str, ...]], int]]:
        labels = self.labels
        closed = self.closed.copy()
        yield ("sse_streams_opened", labels), self.opened
        for reason, count in closed.items():
            yield ("sse_streams_closed", (*labels, str(reason))), count
        yield ("sse_streams_open", labels), self.opened - closed.total()
        yield ("sse_events_sent", labels), self.events
        yield ("sse_bytes_sent", labels), self.bytes
        yield ("sse_heartbeats", labels), self.heartbeats
        yield ("sse_cleanup_failures", labels), self.failures
        yield ("sse_sends_blocked", labels), self.blocked


class Record:
    """What is kept of one stream."""

    __slots__ = ("bytes", "ended", "events", "heartbeats", "loop", "opened", "stream", "tally")

    def __init__(self, stream: ObservedStream, tally: Tally, loop: LoopFigures) -> None:
        self.stream = stream
        self.tally = tally
        self.loop = loop
        self.opened = monotonic()
        self.ended: float | None = None
        self.events = self.bytes = self.heartbeats = 0

    def look(self) -> None:
        """Adds to the tally what has been sent since the stream was looked at last."""
        stream, tally = self.stream, self.tally
        size = stream.bytes_sent
        if size == self.bytes:
            return
        events, heartbeats = stream.events_sent, stream.heartbeats_sent
        tally.bytes += size - self.bytes
        tally.events += events - self.events
        tally.heartbeats += heartbeats - self.heartbeats
        self.bytes, self.events, self.heartbeats = size, events, heartbeats


class LoopFigures:
    """What is kept of one event loop."""

    __slots__ = ("key", "records", "runtime", "tallies", "ticks", "timer")

    def __init__(self, key: Hashable, runtime: Runtime) -> None:
        self.key = key
        self.runtime = runtime
        self.records: dict[str, Record] = {}
        self.tallies: dict[str, Tally] = {}
        self.timer: Timer | None = None
        self.ticks = 0

    def look_for_blocked(self) -> None:
        """Counts the streams whose client takes nothing."""
        blocked = Counter(record.tally for record in self.records.values() if record.stream.blocked_for >= BLOCKED)
        for tally in self.tallies.values():
            tally.blocked = blocked[tally]


class StreamMetrics(Observer):
    """Measures streams.

    Args:
        instruments: What the figures are handed to.
        sources: Sources to be measured too, by name.
    """

    def __init__(self, instruments: Instruments, sources: Mapping[str, Source] | None) -> None:
        self._instruments = instruments
        self._sources = SourceMetrics(instruments, sources or {})
        self._records: dict[str, Record] = {}
        self._loops: dict[Hashable, LoopFigures] = {}
        self._lock = RLock()
        """Held while figures are added up and handed on, which whoever asks for them does in a thread of its own."""

    def hand_on(self) -> None:
        """Hands on what has been counted of streams until now; may be called in any thread."""
        for loop in tuple(self._loops.values()):
            self._hand_on(loop)

    def stream_opened(self, stream: ObservedStream) -> None:
        loop = self._loop()
        tally = loop.tallies.get(stream.handler)
        if tally is None:
            tally = loop.tallies[stream.handler] = Tally(stream.handler, self._instruments)
        tally.opened += 1
        self._records[stream.id] = loop.records[stream.id] = Record(stream, tally, loop)
        if loop.timer is None:
            self._set_timer(loop)

    def stream_refused(self, handler: str, why: str) -> None:
        self._instruments.add("sse_streams_refused", 1, (handler, REFUSALS.get(why, "other")))

    def stream_begun(self, stream: ObservedStream) -> None:
        record = self._records.get(stream.id)
        if record is not None:
            record.tally.record_first_event(monotonic() - record.opened)

    def stream_ended(self, stream: ObservedStream) -> None:
        record = self._records.get(stream.id)
        if record is not None and record.ended is None:
            record.ended = monotonic()

    def stream_closed(self, stream: ObservedStream) -> None:
        record = self._records.pop(stream.id, None)
        if record is None:
            return
        loop, reason = record.loop, stream.close_reason or CloseReason.CLOSED
        self._close(record, reason)
        if reason is CloseReason.SHUTDOWN and not loop.records:
            self._hand_on(loop)  # there may be no later

    def streams_drained(self) -> None:
        loop = self._loops.get(current_key())
        if loop is not None:
            self._tell(loop)

    def _close(self, record: Record, reason: CloseReason) -> None:
        now, stream, tally = monotonic(), record.stream, record.tally
        with self._lock:
            record.look()
            tally.failures += stream.failures
            tally.closed[reason] += 1
        record.loop.records.pop(stream.id, None)
        tally.record_duration(now - record.opened)
        if record.ended is not None:
            tally.record_cleanup(now - record.ended)

    def _loop(self) -> LoopFigures:
        key = current_key()
        loop = self._loops.get(key)
        if loop is None:
            for other in tuple(self._loops.values()):
                if other.runtime.is_gone():  # without an end of its streams
                    self._abandon(other)
            self._sources.forget_gone()
            loop = self._loops[key] = LoopFigures(key, current_runtime())
        return loop

    def _abandon(self, loop: LoopFigures) -> None:
        loop.timer = None
        for id, record in tuple(loop.records.items()):
            self._records.pop(id, None)
            self._close(record, CloseReason.CLOSED)
        self._hand_on(loop)
        self._loops.pop(loop.key, None)

    def _set_timer(self, loop: LoopFigures) -> None:
        loop.timer = loop.runtime.call_later(TICK, partial(self._tick, loop))

    def _tick(self, loop: LoopFigures) -> None:
        loop.timer = None
        if loop.ticks % LOOK_FOR_BLOCKED == 0:
            loop.look_for_blocked()
        loop.ticks += 1
        self._tell(loop)
        if loop.records:
            self._set_timer(loop)

    def _tell(self, loop: LoopFigures) -> None:
        """Hands on all that is known of the event loop that is running, and lets go of it if it has no streams."""
        if not loop.records:
            loop.look_for_blocked()  # of which there is none
            if loop.timer is not None:
                loop.timer.cancel()
                loop.timer = None
        self._hand_on(loop)
        self._sources.measure()
        if not loop.records:
            self._loops.pop(loop.key, None)

    def _hand_on(self, loop: LoopFigures) -> None:
        with self._lock:
            for record in tuple(loop.records.values()):
                record.look()
            for tally in tuple(loop.tallies.values()):
                for name, amount, labels in tally.changes():
                    self._instruments.add(name, amount, labels)
