"""Whether events arrive as they are sent, or in clumps."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import Struct

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.plans import TICK_INTERVAL, TICKS
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient
    from litestar_safe_sse._doctor.reading import Reading

__all__ = ("probe_delivery",)

NAME = "delivery"
PATIENCE = 5.0
"""Seconds that the last event may take."""
TOO_LATE = 1.5
"""Seconds of lateness that no network explains."""
LATE = 0.1


class Delivery(Struct, frozen=True, kw_only=True):
    """How the events of one stream have come."""

    arrived: int
    clumps: int
    worst: float
    usual: float
    headers: dict[str, str]
    ended_after: float | None

    @property
    def is_held(self) -> bool:
        return self.arrived < TICKS or self.worst > TOO_LATE

    @property
    def is_cut(self) -> bool:
        return self.ended_after is not None and 0 < self.arrived < TICKS and self.worst <= TOO_LATE

    @property
    def hint(self) -> str:
        if not self.headers:
            return "no headers have come"
        return "has arrived" if "x-accel-buffering" in self.headers else "has not arrived"

    def as_evidence(self) -> dict[str, Any]:
        return {
            "arrived": f"{self.arrived} of {TICKS}",
            "reads": self.clumps,
            "worst_lateness": round(self.worst, 3),
            "usual_lateness": round(self.usual, 3),
            "X-Accel-Buffering": self.hint,
        }


async def probe_delivery(patient: Patient) -> Finding:
    """Watches ticks arrive, as a browser asks for them and uncompressed."""
    results: dict[str, Delivery] = {}
    refused: list[int] = []

    async def watch(encoding: str) -> None:
        async with patient.deployment.stream("ticks", accept_encoding=encoding, heartbeats=False) as reading:
            await reading.until(lambda: len(reading.arrivals) == TICKS, TICKS * TICK_INTERVAL + PATIENCE)
            if reading.head is not None and reading.head.status_code != 200:
                refused.append(reading.head.status_code)
            results[encoding] = measure(reading)

    async with anyio.create_task_group() as tasks:
        for encoding in ("gzip", "identity"):
            tasks.start_soon(watch, encoding)
    if refused:
        return unknown(NAME, f"the stream was refused with {refused[0]}")
    return judge(patient, results["gzip"], results["identity"])


def measure(reading: Reading) -> Delivery:
    offsets = [arrival.offset for arrival in reading.arrivals]
    lateness = [offset - min(offsets) for offset in offsets]
    return Delivery(
        arrived=len(offsets),
        clumps=len({arrival.at for arrival in reading.arrivals}),
        worst=max(lateness, default=0.0),
        usual=median(lateness) if lateness else 0.0,
        headers={} if reading.head is None else dict(reading.head.headers),
        ended_after=reading.ended_after,
    )


def judge(patient: Patient, usual: Delivery, plain: Delivery) -> Finding:
    evidence = usual.as_evidence()
    if usual.is_cut:
        says = f"events come as they are sent, but the stream is cut after {usual.ended_after:.1f} s"
        return unknown(NAME, says, evidence)
    if usual.is_held and not plain.is_held:
        return found(NAME, Fault.COMPRESSION, "events come in clumps when compressed, and at once when not", evidence)
    if usual.is_held:
        return judge_held(patient, usual, evidence)
    if usual.usual > LATE:
        says = f"events come as they are sent, but late by {usual.usual:.2f} s"
        return found(NAME, Fault.BUFFERING, says, is_note=True, evidence=evidence)
    return healthy(NAME, f"events come as they are sent, {usual.worst:.3f} s late at worst", evidence)


def judge_held(patient: Patient, held: Delivery, evidence: dict[str, Any]) -> Finding:
    says = "events come in clumps" if held.arrived else f"of {TICKS} events none has come"
    arrives = held.hint == "has arrived"
    evidence["proxies in X-Forwarded-For"] = patient.seen.forwarded
    if not arrives and patient.seen.forwarded > 1:
        says += ": of several proxies one in front buffers, where X-Accel-Buffering does not arrive"
        return found(NAME, Fault.OUTER_BUFFERING, says, evidence)
    says += ": a proxy buffers" if not arrives else ": a proxy buffers that does not know X-Accel-Buffering"
    return found(NAME, Fault.BUFFERING, says, evidence)
