"""What the doctor and the route that it asks have to agree on."""

from __future__ import annotations

from msgspec import Struct

__all__ = ("FLOOD", "MAX_LIFETIME", "PATH", "PROBES", "SECRET_HEADER", "SIZES", "SIZES_INTERVAL", "Seen", "VisitReport")

PROBES = (
    *("response", "headers", "delivery", "buffers", "protocol", "last-event-id", "abort", "idle"),
    *("stall", "restart"),
)
"""The names of all probes, in the order in which they are told."""

PATH = "/_sse/doctor"
"""Where the route is, below the root of the application."""

SECRET_HEADER = "X-SSE-Doctor"

SIZES = (0, 4, 8, 16, 64, 256)
"""KiB that have been sent by each event of the plan ``sizes``, the first of which is small."""

SIZES_INTERVAL = 1.5
"""Seconds between these events."""

FLOOD = 64 * 1024 * 1024
"""Bytes that a client which reads nothing is sent at most: more than the sockets of three proxies hold."""

MAX_LIFETIME = 3600.0
"""Seconds after which a stream of the route ends, whatever it was asked for."""


class Seen(Struct, frozen=True, kw_only=True):
    """What the application sees of a request.

    Attributes:
        doctor: What tells the route from a page that happens to be there.
        ping_interval: Seconds between heartbeats, by the application's configuration.
        http_version: What the nearest proxy speaks to the server.
        forwarded: Addresses in ``X-Forwarded-For``: the proxies that write there.
        via: The header ``Via``.
    """

    doctor: int = 1
    ping_interval: float | None
    http_version: str
    forwarded: int
    via: str | None


class VisitReport(Struct, frozen=True, kw_only=True):
    """What the body of a stream has seen, as far as the process that is asked knows it.

    Attributes:
        known: Whether the stream was one of this process.
        ended: Seconds since the body's stream has cleaned up; ``None`` while it has not.
        reason: Why it ended.
        size: Bytes that a flood has made.
    """

    known: bool = False
    ended: float | None = None
    reason: str | None = None
    size: int = 0
