"""Whether the application learns that a client has stopped reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.contract import FLOOD
from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("probe_stall",)

NAME = "stall"
SEND_TIMEOUT = 3.0
"""Seconds that the stream lets itself be blocked."""
MIB = 1024 * 1024


async def probe_stall(patient: Patient) -> Finding:
    """Stops reading a flood, and asks how its body has ended."""
    stream = patient.deployment.stream
    async with stream("flood", accept_encoding="identity", send_timeout=SEND_TIMEOUT) as reading:
        reading.stall()
        visit, after = await patient.deployment.outcome(reading.key, patient.patience + SEND_TIMEOUT)
    if not visit.known:
        return unknown(NAME, "none of the processes that were asked knows the stream")
    mib = round(visit.size / MIB, 1)
    evidence = {"mib": mib, "seconds": round(after, 2), "reason": visit.reason}
    if visit.reason == "SEND_TIMEOUT":
        says = f"a client that reads nothing is given up: {mib} MiB were taken for it, then none for {SEND_TIMEOUT:g} s"
        return healthy(NAME, says, evidence)
    if visit.size >= FLOOD:
        says = f"{FLOOD // MIB} MiB were taken for a client that reads nothing, and it is never noticed"
        return found(NAME, Fault.STALL_UNNOTICED, says, evidence)
    if visit.ended is None:
        says = f"a client that reads nothing is not given up, {after:.0f} s after {mib} MiB"
        return found(NAME, Fault.STALL_UNNOTICED, says, evidence)
    return healthy(NAME, f"a client that reads nothing has lost its stream after {mib} MiB ({visit.reason})", evidence)
