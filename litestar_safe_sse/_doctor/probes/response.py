"""Status, content type, caching and compression of a stream's response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy

if TYPE_CHECKING:
    import httpx

    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("probe_response",)

NAME = "response"
TOLD = ("content-type", "cache-control", "content-encoding", "x-accel-buffering", "server", "via", "age", "x-cache")


async def probe_response(patient: Patient) -> Finding:
    """Tells what an ``EventSource`` would give up on, and what would keep events from it."""
    async with patient.deployment.stream("silent", ping_interval=1) as reading:
        await reading.until(lambda: reading.head, patient.patience)
        if reading.head is None:
            why = str(reading.failure or f"within {patient.patience:g} s")
            return found(NAME, Fault.BUFFERING, "no headers have come of a stream", {"failure": why})
        return judge(reading.head)


def judge(head: httpx.Response) -> Finding:
    evidence = {name: head.headers[name] for name in TOLD if name in head.headers}
    evidence["status"] = str(head.status_code)
    kind = head.headers.get("content-type", "")
    if head.status_code != 200:
        says = f"status {head.status_code}, at which an EventSource gives up for good"
    elif kind.partition(";")[0].strip().lower() != "text/event-stream":
        says = f"content type {kind or 'none'}, at which an EventSource gives up for good"
    elif "age" in head.headers or not {"no-cache", "no-store"} & directives(head):
        says = "a cache may answer with a stream of the past"
    else:
        return healthy(NAME, f"status 200, text/event-stream, not cached, {compression(head)}", evidence)
    return found(NAME, Fault.RESPONSE, says, evidence)


def directives(head: httpx.Response) -> set[str]:
    return {part.strip().lower() for part in head.headers.get("cache-control", "").split(",")}


def compression(head: httpx.Response) -> str:
    encoding = head.headers.get("content-encoding")
    return f"compressed by {encoding}" if encoding else "not compressed"
