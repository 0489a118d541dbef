"""Whether silence is survived, and what the shortest idle time-out on the way is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient
    from litestar_safe_sse._doctor.reading import Reading

__all__ = ("probe_idle",)

NAME = "idle"
MARGIN = 1.0
"""Seconds by which two silences have to differ before one counts as longer."""


async def probe_idle(patient: Patient) -> Finding:
    """Leaves two streams in silence, one with the application's heartbeats and one without any."""
    readings: dict[bool, Reading] = {}

    async def watch(heartbeats: bool) -> None:
        lifetime = patient.idle + 60
        async with patient.deployment.stream("silent", heartbeats=heartbeats, lifetime=lifetime) as reading:
            readings[heartbeats] = reading
            await reading.until(lambda: False, patient.idle)

    async with anyio.create_task_group() as tasks:
        for heartbeats in (True, False):
            tasks.start_soon(watch, heartbeats)
    return judge(patient, kept=readings[True], bare=readings[False])


def judge(patient: Patient, *, kept: Reading, bare: Reading) -> Finding:
    if (
        any(reading.head is not None and reading.head.status_code != 200 for reading in (kept, bare))
        and not kept.arrivals
    ):
        return unknown(NAME, "the stream was refused")
    if not kept.arrivals and kept.ended_after is None:
        return unknown(NAME, "nothing has come of the stream, so that its silence tells nothing")
    ping = patient.seen.ping_interval
    limit = f"{bare.ended_after:.1f} s" if bare.ended_after is not None else f"more than {patient.idle:g} s"
    evidence = {"ping_interval": ping, "heartbeats": kept.heartbeats, "shortest_idle_timeout": limit}
    if kept.ended_after is not None and silence(bare, patient.idle) > silence(kept, patient.idle) + MARGIN:
        says = (
            f"a stream is cut after {kept.ended_after:.1f} s, with a heartbeat every {ping} s, where a longer silence "
            "is survived: it may not last longer, whatever it says"
        )
        return found(NAME, Fault.LIMITED_DURATION, says, evidence)
    if kept.ended_after is not None:
        says = f"a silent stream is cut after {kept.ended_after:.1f} s, with a heartbeat every {ping} s"
        return found(NAME, Fault.IDLE_TIMEOUT, says, evidence)
    if ping is None and bare.ended_after is not None:
        return found(
            NAME, Fault.IDLE_TIMEOUT, f"a silent stream is cut after {limit}, and heartbeats are off", evidence
        )
    if bare.ended_after is not None and ping is not None and ping * 2 > bare.ended_after:
        says = f"a silent stream is cut after {limit}, which leaves a heartbeat every {ping} s little room"
        return found(NAME, Fault.IDLE_TIMEOUT, says, is_note=True, evidence=evidence)
    return healthy(
        NAME, f"{patient.idle:g} s of silence are survived; shortest idle time-out on the way: {limit}", evidence
    )


def silence(reading: Reading, watched: float) -> float:
    """Returns for how many seconds a stream has said nothing, when it was cut or was watched no more."""
    return (watched if reading.ended_after is None else reading.ended_after) - reading.heard_after
