"""How soon the headers come, with no event behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("probe_headers",)

NAME = "headers"
DELAY = 4.0
"""Seconds that the first event comes after the headers."""


async def probe_headers(patient: Patient) -> Finding:
    """Tells whether an ``EventSource`` is opened before there is an event."""
    async with patient.deployment.stream("silent", delay=DELAY, heartbeats=False) as reading:
        await reading.until(lambda: reading.head, patient.patience)
        after = reading.headers_after
    if after is None:
        return found(NAME, Fault.HEADERS_HELD, f"the headers have not come within {patient.patience:g} s", is_note=True)
    if reading.head is None or reading.head.status_code != 200:
        return unknown(NAME, "the stream was refused")
    if after > DELAY * 0.9:
        says = f"the headers wait for the first event: {after:.2f} s, where that came after {DELAY:g} s"
        return found(NAME, Fault.HEADERS_HELD, says, {"seconds": round(after, 3)}, is_note=True)
    return healthy(NAME, f"the headers come after {after:.3f} s, before any event", {"seconds": round(after, 3)})
