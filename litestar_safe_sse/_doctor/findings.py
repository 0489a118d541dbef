"""What the doctor tells: a finding for each probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct, structs

__all__ = ("Fault", "Finding", "Report", "Verdict")


class Verdict(Enum):
    """What a probe has come to."""

    OK = "ok"
    NOTE = "note"
    """It works, and could be better."""
    SICK = "sick"
    UNKNOWN = "unknown"


class Fault(Enum):
    """What is wrong, or could be better; what the remedies are looked up by."""

    ABORT_LATE = "abort-late"
    ABORT_UNNOTICED = "abort-unnoticed"
    BUFFERING = "buffering"
    COMPRESSION = "compression"
    CUT_AT_RESTART = "cut-at-restart"
    HEADERS_HELD = "headers-held"
    HTTP_1_0 = "http-1.0"
    IDLE_TIMEOUT = "idle-timeout"
    LAST_EVENT_ID = "last-event-id"
    LIMITED_DURATION = "limited-duration"
    OUTER_BUFFERING = "outer-buffering"
    REFUSED_AT_RESTART = "refused-at-restart"
    RESPONSE = "response"
    SIX_CONNECTIONS = "six-connections"
    STALL_UNNOTICED = "stall-unnoticed"
    STREAMS_LIMITED = "streams-limited"


class Finding(Struct, frozen=True, kw_only=True):
    """What one probe tells.

    Attributes:
        probe: Its name.
        verdict: What it has come to.
        says: That in a sentence.
        fault: What is wrong, if something is.
        evidence: What was seen, each with its name.
        remedies: What to do, by proxy.
        direct: What the same probe says past the proxy, if that was asked for.
    """

    probe: str
    verdict: Verdict
    says: str
    fault: Fault | None = None
    evidence: Mapping[str, object] = {}
    remedies: Mapping[str, str] = {}
    direct: Finding | None = None

    def replace(self, **changes: object) -> Finding:
        """Returns it with other attributes."""
        return structs.replace(self, **changes)


class Report(Struct, frozen=True, kw_only=True):
    """All that was found.

    Attributes:
        url: What was examined.
        direct: What it was compared with.
        findings: One for each probe.
    """

    url: str
    direct: str | None
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """The worst that was found."""
        found = {finding.verdict for finding in self.findings}
        for verdict in (Verdict.SICK, Verdict.UNKNOWN):
            if verdict in found:
                return verdict
        return Verdict.OK
