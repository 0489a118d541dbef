"""Whether the application learns that a client has left, and after how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("probe_abort",)

NAME = "abort"
PING = 1.0
"""Seconds between the heartbeats of the stream, by which proxies learn that their client has left."""
LATE = 5.0
OPENING = 5.0
"""Seconds that the first event may take; a client can leave without it."""


async def probe_abort(patient: Patient) -> Finding:
    """Leaves a silent stream, and asks when its body has ended."""
    lifetime = patient.patience + OPENING + 60
    async with patient.deployment.stream("silent", ping_interval=PING, lifetime=lifetime) as reading:
        await reading.first(OPENING)
    visit, after = await patient.deployment.outcome(reading.key, patient.patience)
    if not visit.known:
        return unknown(NAME, "none of the processes that were asked knows the stream")
    if visit.ended is None:
        says = f"a client has left, and its stream goes on after {patient.patience:g} s with a heartbeat each second"
        return found(NAME, Fault.ABORT_UNNOTICED, says, {"seconds": f"more than {patient.patience:g}"})
    evidence = {"seconds": round(after, 2), "reason": visit.reason}
    own = patient.seen.ping_interval
    if after > LATE and own:
        late = f"{after:.1f} heartbeats, here {after * own:.0f} s"
        says = f"a client's leaving reaches the body after {late}"
        return found(NAME, Fault.ABORT_LATE, says, is_note=True, evidence=evidence)
    return healthy(
        NAME, f"a client's leaving reaches the body after {after:.2f} s, at a heartbeat each second", evidence
    )
