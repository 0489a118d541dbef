"""The doctor as its users run it: a process of its own, and its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.bounds import START
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
    environment = {name: value for name, value in os.environ.items() if name != "LITESTAR_SSE_SECRET"}
    if secret is not None:
        environment["LITESTAR_SSE_SECRET"] = secret
    process = subprocess.run(
        [sys.executable, "-m", "litestar_safe_sse.cli", command, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=START,
    )
    return Answer(process.returncode, process.stdout, process.stderr)


def url(port: int) -> str:
    """Returns the root of what listens at a port."""
    return f"http://127.0.0.1:{port}"
