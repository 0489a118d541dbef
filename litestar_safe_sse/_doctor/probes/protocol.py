"""The version of HTTP, and how many streams a client can have at once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient
    from litestar_safe_sse._doctor.reading import Reading

__all__ = ("probe_protocol",)

NAME = "protocol"
STREAMS = 7
"""One more than browsers open to one host over HTTP/1.1."""


async def probe_protocol(patient: Patient) -> Finding:
    """Opens seven streams of one client at once."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(patient.deployment.client())
        stream = patient.deployment.stream
        readings = [await stack.enter_async_context(stream("silent", client=client)) for _ in range(STREAMS)]
        with anyio.move_on_after(patient.patience):
            for reading in readings:
                await reading.until(lambda reading=reading: reading.head, patient.patience)  # type: ignore[misc]
        return judge(patient, readings)


def judge(patient: Patient, readings: list[Reading]) -> Finding:
    heads = [reading.head for reading in readings if reading.head is not None]
    opened = [head for head in heads if head.status_code == 200]
    if not opened:
        return unknown(NAME, "no stream could be opened")
    version = opened[0].http_version
    evidence = {"client": version, "application": f"HTTP/{patient.seen.http_version}", "opened": len(opened)}
    if len(opened) < STREAMS:
        says = f"{len(opened)} of {STREAMS} streams of one client could be opened"
        return found(NAME, Fault.STREAMS_LIMITED, says, evidence)
    if patient.seen.http_version == "1.0":
        says = "the proxy speaks HTTP/1.0 to the application: a stream that was cut looks whole"
        return found(NAME, Fault.HTTP_1_0, says, is_note=True, evidence=evidence)
    if version in ("HTTP/1.0", "HTTP/1.1"):
        says = f"{version}: a browser opens six connections to a host, so its seventh tab waits"
        return found(NAME, Fault.SIX_CONNECTIONS, says, is_note=True, evidence=evidence)
    return healthy(NAME, f"{version}: streams share a connection", evidence)
