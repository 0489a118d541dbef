"""What is measured of streams, whatever it is measured with: counts by addition, and one timer for each event loop."""

from __future__ import annotations

from collections import Counter
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.statistics import Observer
from litestar_safe_sse._runtime.current import current_key, current_runtime

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from litestar_safe_sse._core.statistics import ObservedStream
    from litestar_safe_sse._runtime.base import Runtime, Timer

__all__ = ("INSTRUMENTS", "Instrument", "Instruments", "Source", "StreamMetrics")

TICK = 1.0
"""Seconds after which what has been counted is handed on, while streams are open."""

LOOK_FOR_BLOCKED = 5
"""Every how many ticks all streams are looked at, for those that are blocked."""

BLOCKED = 1.0
"""Seconds after which a ``send()`` counts as blocked."""

REFUSALS = {
    "the server is shutting down": "shutdown",
    "too many streams are open": "max_streams",
    "too many streams are open for this client": "per_key",
}
"""The value of ``reason`` for why a stream is refused."""

DURATION = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Instrument(NamedTuple):
    """One thing that is measured.

    Attributes:
        name: Its name for Prometheus, where a counter has ``_total`` added.
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        about: What it is.
        otel: Its name for OpenTelemetry.
        labels: What its figures are told apart by.
        unit: Its unit.
        buckets: The bounds of a histogram.
        across: How Prometheus takes the gauges of several processes together.
    """

    name: str
    kind: str
    about: str
    otel: str
    labels: tuple[str, ...] = ("handler",)
    unit: str = ""
    buckets: tuple[float, ...] = ()
    across: str = "livesum"


REASON = ("handler", "reason")

INSTRUMENTS = (
    Instrument("sse_streams_open", "gauge", "Streams that have not cleaned up yet.", "sse.streams.open"),
    Instrument("sse_streams_opened", "counter", "Streams that were admitted.", "sse.streams.opened"),
    Instrument("sse_streams_closed", "counter", "Streams that have ended, by reason.", "sse.streams.closed", REASON),
    Instrument("sse_streams_refused", "counter", "Streams not admitted, by reason.", "sse.streams.refused", REASON),
    Instrument("sse_events_sent", "counter", "Events and comments that servers have taken.", "sse.events.sent"),
    Instrument("sse_bytes_sent", "counter", "Bytes that servers have taken.", "sse.bytes.sent", unit="{byte}"),
    Instrument("sse_heartbeats", "counter", "Heartbeats that servers have taken.", "sse.heartbeats"),
    Instrument(
        "sse_stream_duration_seconds", "histogram", "From admission to the end.", "sse.stream.duration",
        unit="s", buckets=DURATION,
    ),
    Instrument(
        "sse_first_event_seconds", "histogram", "From admission to the first event.", "sse.first_event",
        unit="s", buckets=LATENCY,
    ),
    Instrument(
        "sse_cleanup_seconds", "histogram", "From the end of the body to the end of its cleanups.", "sse.cleanup",
        unit="s", buckets=LATENCY,
    ),
    Instrument("sse_cleanup_failures", "counter", "Bodies and cleanups that failed to end.", "sse.cleanup.failures"),
    Instrument("sse_sends_blocked", "gauge", "Streams whose client takes nothing.", "sse.sends.blocked"),
)  # fmt: skip

SOURCE_INSTRUMENTS = tuple(
    Instrument(
        f"sse_source_{field}",
        kind,
        about,
        f"sse.source.{field}",
        ("source",),
        across="livemax" if field == "lag" else "livesum",
    )
    for field, kind, about in (
        ("subscribers", "gauge", "Subscriptions of a source."),
        ("topics", "gauge", "Topics of a source that are in use."),
        ("backlog", "gauge", "Messages that subscribers of a source have not taken yet."),
        ("lag", "gauge", "Messages that the slowest subscriber of a source has not taken yet."),
        ("replaying", "gauge", "Subscribers of a source that are being sent what they had missed."),
        ("waiting", "gauge", "Streams that wait for an item of a queue."),
        ("in_hand", "gauge", "Items of a queue that streams have, and that may go back."),
        ("reconnects", "counter", "Connections that a source has made again."),
        ("gaps", "counter", "Gaps that a source has told its subscribers of."),
        ("dropped", "counter", "Messages that a source has dropped for subscribers that were too slow."),
        ("overflows", "counter", "Subscribers of a source that were ended since they were too slow."),
        ("appended", "counter", "Messages that were appended to a source."),
        ("replayed", "counter", "Messages that a source has sent to subscribers that had missed them."),
        ("delivered", "counter", "Items of a queue that were delivered."),
        ("returned", "counter", "Items that went back to a queue."),
    )
)


class Instruments(Protocol):
    """What figures are handed to."""

    def add(self, name: str, amount: float, labels: tuple[str, ...]) -> None:
        """Adds to a counter or a gauge."""

    def record(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        """Adds a value to a histogram."""


class Source(Protocol):
    """A source that tells its figures."""

    def statistics(self) -> object: ...


class Tally:
    """What has been counted of one handler in one event loop, and not been handed on yet."""

    __slots__ = ("blocked", "bytes", "events", "heartbeats", "labels")

    def __init__(self, handler: str) -> None:
        self.labels = (handler,)
        self.events = self.bytes = self.heartbeats = 0
        self.blocked = 0
        """Streams that were blocked when they were looked at."""


class Record:
    """What is kept of one stream."""

    __slots__ = ("ended", "is_silent", "opened", "stream", "tally")

    def __init__(self, stream: ObservedStream, tally: Tally) -> None:
        self.stream = stream
        self.tally = tally
        self.opened = monotonic()
        self.ended: float | None = None
        self.is_silent = True


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


class SourceFigures:
    """What the figures of sources were in one event loop when they were looked at last."""

    __slots__ = ("runtime", "told")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.told: Counter[tuple[str, Instrument]] = Counter()


class StreamMetrics(Observer):
    """Measures streams.

    Args:
        instruments: What the figures are handed to.
        sources: Sources to be measured too, by name.
    """

    def __init__(self, instruments: Instruments, sources: Mapping[str, Source] | None) -> None:
        self._instruments = instruments
        self._sources = dict(sources or {})
        self._told: dict[Hashable, SourceFigures] = {}
        self._records: dict[str, Record] = {}
        self._loops: dict[Hashable, LoopFigures] = {}

    def stream_opened(self, stream: ObservedStream) -> None:
        loop = self._loop()
        tally = loop.tallies.get(stream.handler)
        if tally is None:
            tally = loop.tallies[stream.handler] = Tally(stream.handler)
        self._records[stream.id] = loop.records[stream.id] = Record(stream, tally)
        self._instruments.add("sse_streams_opened", 1, tally.labels)
        self._instruments.add("sse_streams_open", 1, tally.labels)
        if loop.timer is None:
            self._set_timer(loop)

    def stream_refused(self, handler: str, why: str) -> None:
        self._instruments.add("sse_streams_refused", 1, (handler, REFUSALS.get(why, "other")))

    def stream_sent(self, stream: ObservedStream, size: int, events: int, heartbeats: int) -> None:
        record = self._records.get(stream.id)
        if record is None:
            return
        tally = record.tally
        tally.bytes += size
        tally.events += events
        tally.heartbeats += heartbeats
        if record.is_silent and events:
            record.is_silent = False
            self._instruments.record("sse_first_event_seconds", monotonic() - record.opened, tally.labels)

    def stream_ended(self, stream: ObservedStream) -> None:
        record = self._records.get(stream.id)
        if record is not None and record.ended is None:
            record.ended = monotonic()

    def stream_closed(self, stream: ObservedStream) -> None:
        record = self._records.pop(stream.id, None)
        if record is None:
            return
        self._close(record, stream.close_reason or CloseReason.CLOSED)
        loop = self._loops.get(current_key())
        if loop is not None:
            loop.records.pop(stream.id, None)
            if not loop.records:
                self._forget(loop)

    def _close(self, record: Record, reason: CloseReason) -> None:
        now, tally, instruments = monotonic(), record.tally, self._instruments
        self._hand_on(tally)
        instruments.add("sse_streams_open", -1, tally.labels)
        instruments.add("sse_streams_closed", 1, (*tally.labels, str(reason)))
        instruments.record("sse_stream_duration_seconds", now - record.opened, tally.labels)
        if record.ended is not None:
            instruments.record("sse_cleanup_seconds", now - record.ended, tally.labels)
        if record.stream.failures:
            instruments.add("sse_cleanup_failures", record.stream.failures, tally.labels)

    def _loop(self) -> LoopFigures:
        key = current_key()
        loop = self._loops.get(key)
        if loop is None:
            for other in tuple(self._loops.values()):
                if other.runtime.is_gone():  # without an end of its streams
                    self._abandon(other)
            self._forget_sources()
            loop = self._loops[key] = LoopFigures(key, current_runtime())
        return loop

    def _abandon(self, loop: LoopFigures) -> None:
        loop.timer = None
        for id, record in tuple(loop.records.items()):
            self._records.pop(id, None)
            self._close(record, CloseReason.CLOSED)
        self._forget(loop)

    def _forget(self, loop: LoopFigures) -> None:
        """Lets go of a loop that has no streams."""
        if loop.timer is not None:
            loop.timer.cancel()
        for tally in loop.tallies.values():
            self._hand_on(tally)
            self._tell_blocked(tally, 0)
        self._measure_sources()
        self._loops.pop(loop.key, None)

    def _set_timer(self, loop: LoopFigures) -> None:
        loop.timer = loop.runtime.call_later(TICK, partial(self._tick, loop))

    def _tick(self, loop: LoopFigures) -> None:
        for tally in loop.tallies.values():
            self._hand_on(tally)
        if loop.ticks % LOOK_FOR_BLOCKED == 0:
            blocked = Counter(record.tally for record in loop.records.values() if record.stream.blocked_for >= BLOCKED)
            for tally in loop.tallies.values():
                self._tell_blocked(tally, blocked[tally])
        loop.ticks += 1
        self._measure_sources()
        self._set_timer(loop)

    def _hand_on(self, tally: Tally) -> None:
        if tally.events:
            self._instruments.add("sse_events_sent", tally.events, tally.labels)
        if tally.bytes:
            self._instruments.add("sse_bytes_sent", tally.bytes, tally.labels)
        if tally.heartbeats:
            self._instruments.add("sse_heartbeats", tally.heartbeats, tally.labels)
        tally.events = tally.bytes = tally.heartbeats = 0

    def _tell_blocked(self, tally: Tally, blocked: int) -> None:
        if blocked != tally.blocked:
            self._instruments.add("sse_sends_blocked", blocked - tally.blocked, tally.labels)
            tally.blocked = blocked

    def _measure_sources(self) -> None:
        if not self._sources:
            return
        figures = self._told.get(current_key())
        if figures is None:
            figures = self._told[current_key()] = SourceFigures(current_runtime())
        for name, source in self._sources.items():
            found = source.statistics()
            for instrument in SOURCE_INSTRUMENTS:
                now = getattr(found, instrument.name.removeprefix("sse_source_"), None)
                if isinstance(now, int):
                    self._tell_source(figures, name, instrument, now)

    def _tell_source(self, figures: SourceFigures, source: str, instrument: Instrument, now: int) -> None:
        before = figures.told[source, instrument]
        if instrument.kind == "counter" and now < before:
            before = 0  # the source has begun anew
        figures.told[source, instrument] = now
        if now != before:
            self._instruments.add(instrument.name, now - before, (source,))

    def _forget_sources(self) -> None:
        """Takes back what sources have in loops that are gone; what was counted there stays."""
        for key, figures in tuple(self._told.items()):
            if figures.runtime.is_gone():
                del self._told[key]
                for (source, instrument), told in figures.told.items():
                    if told and instrument.kind == "gauge":
                        self._instruments.add(instrument.name, -told, (source,))
