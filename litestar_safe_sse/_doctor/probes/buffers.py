"""How much a proxy holds back before it lets anything go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.contract import SIZES, SIZES_INTERVAL
from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.probes._probe import found, healthy, unknown

if TYPE_CHECKING:
    from litestar_safe_sse._doctor.findings import Finding
    from litestar_safe_sse._doctor.probes._probe import Patient
    from litestar_safe_sse._doctor.reading import Arrival

__all__ = ("probe_buffers",)

NAME = "buffers"
USUAL = {
    4: "nginx's proxy_buffer_size, gzip's first block",
    8: "nginx's proxy_buffers, Apache's",
    16: "HAProxy's",
    64: "a large buffer",
}
"""Whose buffers have these sizes, in KiB."""


async def probe_buffers(patient: Patient) -> Finding:
    """Sends more and more, and looks after how much of it the first event comes."""
    async with patient.deployment.stream("sizes", accept_encoding="identity", heartbeats=False) as reading:
        first = await reading.first(len(SIZES) * SIZES_INTERVAL + 2)
    if reading.head is not None and reading.head.status_code != 200:
        return unknown(NAME, f"the stream was refused with {reading.head.status_code}")
    if first is None:
        says = f"the first event was held though {SIZES[-1]} KiB were sent behind it"
        return found(NAME, Fault.BUFFERING, says, {"kib": f"more than {SIZES[-1]}"})
    return judge(first)


def judge(first: Arrival) -> Finding:
    steps = min(int(first.offset / SIZES_INTERVAL), len(SIZES) - 1)
    if steps == 0:
        return healthy(NAME, "a small event comes without more behind it")
    kib = SIZES[steps]
    says = f"the first event came with the one that filled {kib} KiB: {USUAL.get(kib, 'a large buffer')}"
    return found(NAME, Fault.BUFFERING, says, {"kib": kib, "held_seconds": round(first.offset, 2)})
