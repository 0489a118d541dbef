"""What is measured of streams and sources, and what the figures are handed to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("INSTRUMENTS", "SOURCE_INSTRUMENTS", "Instrument", "Instruments")

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
    """What figures are handed to, in any thread."""

    def add(self, name: str, amount: float, labels: tuple[str, ...]) -> None:
        """Adds to a counter or a gauge."""

    def recorder(self, name: str, labels: tuple[str, ...]) -> Callable[[float], object]:
        """Returns what adds a value to a histogram."""
        ...
