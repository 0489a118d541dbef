"""All probes of a deployment, and of what is behind its proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse._doctor.contract import PROBES
from litestar_safe_sse._doctor.findings import Fault, Finding, Report, Verdict
from litestar_safe_sse._doctor.probes._probe import Patient, found
from litestar_safe_sse._doctor.probes.abort import probe_abort
from litestar_safe_sse._doctor.probes.buffers import probe_buffers
from litestar_safe_sse._doctor.probes.delivery import probe_delivery
from litestar_safe_sse._doctor.probes.headers import probe_headers
from litestar_safe_sse._doctor.probes.idle import probe_idle
from litestar_safe_sse._doctor.probes.protocol import probe_protocol
from litestar_safe_sse._doctor.probes.response import probe_response
from litestar_safe_sse._doctor.probes.restart import probe_restart
from litestar_safe_sse._doctor.probes.resuming import probe_resuming
from litestar_safe_sse._doctor.probes.stall import probe_stall
from litestar_safe_sse._doctor.remedies import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    Probe = Callable[[Patient], Awaitable[Finding]]

__all__ = ("AFTERWARDS", "TOGETHER", "examine")

TOGETHER: dict[str, Probe] = {
    "response": probe_response,
    "headers": probe_headers,
    "delivery": probe_delivery,
    "buffers": probe_buffers,
    "protocol": probe_protocol,
    "last-event-id": probe_resuming,
    "abort": probe_abort,
    "idle": probe_idle,
}
"""What disturbs nobody."""

AFTERWARDS: dict[str, Probe] = {"stall": probe_stall, "restart": probe_restart}
"""What would be seen by the others."""


async def examine(patient: Patient, direct: Patient | None, chosen: Collection[str]) -> Report:
    """Examines a deployment.

    Args:
        patient: The deployment, as clients reach it.
        direct: What is behind its proxy, to compare with.
        chosen: The names of the probes.
    """
    results: dict[bool, dict[str, Finding]] = {True: {}, False: {}}

    async def run_all(patient: Patient, *, is_direct: bool) -> None:
        results[is_direct] = await run(patient, [name for name in chosen if not (is_direct and name == "restart")])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run_all(patient, is_direct=False))
        if direct is not None:
            tasks.start_soon(lambda: run_all(direct, is_direct=True))
    findings = [compare(results[False][name], results[True].get(name)) for name in PROBES if name in chosen]
    return Report(
        url=patient.deployment.url,
        direct=None if direct is None else direct.deployment.url,
        findings=[agree(finding, findings) for finding in findings],
    )


async def run(patient: Patient, chosen: Collection[str]) -> dict[str, Finding]:
    """Runs probes, and returns what each has found."""
    results: dict[str, Finding] = {}

    async def note(name: str, probe: Probe) -> None:
        results[name] = await probe(patient)

    async with anyio.create_task_group() as tasks:
        for name, probe in TOGETHER.items():
            if name in chosen:
                tasks.start_soon(note, name, probe)
    for name, probe in AFTERWARDS.items():
        if name in chosen:
            await note(name, probe)
    return results


def compare(finding: Finding, direct: Finding | None) -> Finding:
    """Adds to a finding what the same probe says past the proxy."""
    if direct is None:
        return finding
    if finding.fault is Fault.BUFFERING and direct.verdict is Verdict.OK and took_header_off(finding, direct):
        finding = found(
            finding.probe,
            Fault.OUTER_BUFFERING,
            "events come in clumps: the proxy at the direct URL takes X-Accel-Buffering off, and one in front buffers",
            finding.evidence,
        )
    return finding.replace(direct=direct)


def agree(finding: Finding, findings: Sequence[Finding]) -> Finding:
    """Has a probe that only sees that something holds events name the same as the one that sees what."""
    if finding.fault is Fault.BUFFERING:
        for fault in (Fault.OUTER_BUFFERING, Fault.COMPRESSION):
            if any(other.fault is fault for other in findings):
                return finding.replace(fault=fault, remedies=dict(REMEDIES[fault]))
    return finding


def took_header_off(finding: Finding, direct: Finding) -> bool:
    return "X-Accel-Buffering" in finding.evidence and direct.evidence.get("X-Accel-Buffering") == "has not arrived"
