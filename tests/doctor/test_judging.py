"""What the doctor makes of a stream that was cut: by silence, or however much it says."""

from __future__ import annotations

import pytest

from litestar_safe_sse._doctor.contract import Seen
from litestar_safe_sse._doctor.deployment import Deployment
from litestar_safe_sse._doctor.findings import Fault, Verdict
from litestar_safe_sse._doctor.plans import TICKS
from litestar_safe_sse._doctor.probes import delivery, idle
from litestar_safe_sse._doctor.probes._probe import Patient
from litestar_safe_sse._doctor.reading import Arrival, Reading

SEEN = Seen(ping_interval=15, http_version="1.1", forwarded=1, via=None)
PATIENT = Patient(deployment=Deployment("http://127.0.0.1", "sesame"), seen=SEEN, idle=65)


def reading(*, heard: float, ended: float | None = None, arrived: int = 1) -> Reading:
    """A stream that has said something last so many seconds after its beginning, and was cut then."""
    reading = Reading("key")
    reading.heard_after, reading.ended_after = heard, ended
    reading.arrivals = [Arrival({"at": float(number)}, number + 0.1) for number in range(arrived)]
    return reading


@pytest.mark.parametrize(
    ("kept", "bare", "fault"),
    [
        (reading(heard=60), reading(heard=0), None),
        (reading(heard=60), reading(heard=0, ended=40), None),
        (reading(heard=0, ended=10), reading(heard=0, ended=10.3), Fault.IDLE_TIMEOUT),
        (reading(heard=30, ended=30.1), reading(heard=0, ended=30), Fault.LIMITED_DURATION),
        (reading(heard=45, ended=60), reading(heard=0), Fault.LIMITED_DURATION),
        (reading(heard=0, ended=15), reading(heard=0), Fault.LIMITED_DURATION),
    ],
)
def test_cut_is_not_laid_to_silence_that_another_stream_survives(
    kept: Reading, bare: Reading, fault: Fault | None
) -> None:
    """More heartbeats would not help where a stream may not last."""
    assert idle.judge(PATIENT, kept=kept, bare=bare).fault is fault


def test_cut_is_not_taken_for_a_buffer() -> None:
    """Events that are missing since the stream has ended are held by nobody."""
    cut = delivery.measure(reading(heard=2, ended=2, arrived=8))
    finding = delivery.judge(PATIENT, cut, cut)
    assert (finding.verdict, finding.fault) == (Verdict.UNKNOWN, None)
    held = delivery.measure(reading(heard=2, arrived=8))
    assert delivery.judge(PATIENT, held, held).fault is Fault.BUFFERING
    whole = delivery.measure(reading(heard=12, arrived=TICKS))
    assert delivery.judge(PATIENT, whole, whole).verdict is Verdict.OK
