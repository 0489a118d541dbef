"""Whether ``Last-Event-ID`` reaches the application."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("probe_resuming",)

NAME = "last-event-id"


async def probe_resuming(patient: Patient) -> Finding:
    """Sends an ID, and has the application tell it."""
    sent = secrets.token_hex(8)
    async with patient.deployment.stream("silent", last_event_id=sent, ping_interval=1) as reading:
        first = await reading.first(patient.patience)
    if first is None:
        return unknown(NAME, "no event has come that would tell")
    got = first.data["last_event_id"]
    if got != sent:
        return found(
            NAME, Fault.LAST_EVENT_ID, "Last-Event-ID does not reach the application", {"sent": sent, "got": got}
        )
    return healthy(NAME, "Last-Event-ID reaches the application")
