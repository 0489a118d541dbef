"""What every probe is given, and what it makes of what it has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from litestar_safe_sse._doctor.contract import Seen
from litestar_safe_sse._doctor.deployment import Deployment
from litestar_safe_sse._doctor.findings import Finding, Verdict
from litestar_safe_sse._doctor.remedies import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar_safe_sse._doctor.findings import Fault

__all__ = ("Patient", "found", "healthy", "unknown")


NOTHING: Mapping[str, object] = {}


class Patient(Struct, frozen=True, kw_only=True):
    """A deployment, and how thoroughly to look.

    Attributes:
        deployment: How it is reached.
        seen: What the application has seen of the first request.
        idle: Seconds of silence that a stream has to survive.
        patience: Seconds after which what should happen won't.
        restart: Seconds to wait for a restart, and for its end.
    """

    deployment: Deployment
    seen: Seen
    idle: float = 65.0
    patience: float = 20.0
    restart: float = 60.0


def healthy(probe: str, says: str, evidence: Mapping[str, object] = NOTHING) -> Finding:
    """Makes the finding that nothing is wrong."""
    return Finding(probe=probe, verdict=Verdict.OK, says=says, evidence=evidence)


def unknown(probe: str, says: str, evidence: Mapping[str, object] = NOTHING) -> Finding:
    """Makes the finding that nothing can be told."""
    return Finding(probe=probe, verdict=Verdict.UNKNOWN, says=says, evidence=evidence)


def found(
    probe: str, fault: Fault, says: str, evidence: Mapping[str, object] = NOTHING, *, is_note: bool = False
) -> Finding:
    """Makes the finding of a fault, with what to do about it.

    Args:
        probe: The name of the probe.
        fault: What is wrong.
        says: That in a sentence.
        evidence: What was seen.
        is_note: Whether it works all the same.
    """
    verdict = Verdict.NOTE if is_note else Verdict.SICK
    return Finding(
        probe=probe, verdict=verdict, says=says, fault=fault, evidence=evidence, remedies=dict(REMEDIES[fault])
    )
