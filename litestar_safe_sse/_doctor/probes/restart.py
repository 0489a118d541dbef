"""What a restart of the application does to an open stream, and to its client that comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient
    from litestar_safe_sse._doctor.reading import Reading

__all__ = ("probe_restart",)

NAME = "restart"
RETRY = 0.25
"""Seconds between two tries to come back."""


async def probe_restart(patient: Patient) -> Finding:
    """Waits until somebody restarts the application, then comes back as an ``EventSource`` would."""
    lifetime = patient.restart + 60
    async with patient.deployment.stream("silent", ping_interval=1, lifetime=lifetime) as reading:
        await reading.until(lambda: False, patient.restart)
    if reading.ended_after is None:
        return unknown(NAME, f"nobody has restarted the application within {patient.restart:g} s")
    refusals = await come_back(patient)
    return judge(reading, refusals)


async def come_back(patient: Patient) -> list[int] | None:
    """Asks again and again, and returns the statuses of refusals; ``None`` if it was never let in."""
    refusals: list[int] = []
    with anyio.move_on_after(patient.restart):
        while True:
            async with patient.deployment.stream("silent", ping_interval=1) as reading:
                await reading.first(patient.patience)
                if reading.arrivals:
                    return refusals
                if reading.head is not None and reading.head.status_code != 200:
                    refusals.append(reading.head.status_code)
            await anyio.sleep(RETRY)
    return None


def judge(reading: Reading, refusals: list[int] | None) -> Finding:
    ended = "cut" if reading.failure is not None else "ended properly"
    evidence = {"stream": ended, "failure": repr(reading.failure) if reading.failure else None, "refusals": refusals}
    if refusals is None:
        return found(NAME, Fault.REFUSED_AT_RESTART, f"the stream was {ended}, and none can be opened since", evidence)
    if refusals:
        says = (
            f"the stream was {ended}; its client met {sorted(set(refusals))}, at which an EventSource gives up for good"
        )
        return found(NAME, Fault.REFUSED_AT_RESTART, says, evidence)
    if reading.failure is not None:
        return found(
            NAME,
            Fault.CUT_AT_RESTART,
            "the stream was cut; its client could come back",
            is_note=True,
            evidence=evidence,
        )
    return healthy(NAME, "the stream was ended properly, and its client came back", evidence)
