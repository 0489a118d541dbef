"""The doctor's command, and its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from litestar_safe_sse.cli import sse_group
from tests.doctor.secret import SECRET

SHORT = ("--idle", "4.5", "--patience", "8")
"""Durations that are enough where nothing but the loopback interface is on the way."""


@dataclass(frozen=True)
class Answer:
    """What the doctor has said."""

    code: int
    output: str
    errors: str

    @property
    def findings(self) -> dict[str, dict[str, Any]]:
        return {finding["probe"]: finding for finding in json.loads(self.output)["findings"]}

    @property
    def faults(self) -> set[str]:
        """What is sick."""
        return {finding["fault"] for finding in self.findings.values() if finding["verdict"] == "sick"}


def ask_doctor(*arguments: str, secret: str | None = SECRET, command: str = "doctor") -> Answer:
    """Runs the doctor."""
    result = CliRunner().invoke(sse_group, [command, *arguments], env={"LITESTAR_SSE_SECRET": secret})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def url(port: int) -> str:
    """Returns the root of what listens at a port."""
    return f"http://127.0.0.1:{port}"
