"""The command as Litestar's own finds it, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys

from litestar_safe_sse._doctor.contract import PROBES
from litestar_safe_sse._doctor.examination import AFTERWARDS, TOGETHER
from tests.bounds import START
from tests.doctor.asking import ask_doctor, url
from tests.doctor.secret import SECRET


def test_litestar_has_the_command_of_an_application(server: int) -> None:
    """``SafeSSEPlugin`` adds it, and what it prints is for people."""
    process = subprocess.run(
        [sys.executable, "-m", "litestar", "sse", "doctor", url(server), "--only", "protocol,last-event-id"],
        env={**os.environ, "LITESTAR_APP": "tests.doctor.app:app", "LITESTAR_SSE_SECRET": SECRET, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert process.returncode == 0, process.stderr
    assert "Last-Event-ID reaches the application" in process.stdout
    assert "a browser opens six connections to a host" in process.stdout
    assert "listen 443 ssl http2" in process.stdout
    assert process.stdout.endswith("Healthy.\n")


def test_the_command_costs_nothing_until_it_is_used() -> None:
    """Neither the plugin nor an application with the route loads click, rich or httpx for it."""
    script = """
import sys
for name in ("click", "httpx", "rich"):
    assert name not in sys.modules
from litestar_safe_sse import SafeSSEPlugin, SafeSSEConfig
SafeSSEPlugin(SafeSSEConfig(doctor="sesame-open-thyself"))
loaded = {name for name in sys.modules if name.startswith(("litestar_safe_sse.cli", "litestar_safe_sse._doctor"))}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)


def test_missing_library_is_named() -> None:
    """With what installs it."""
    script = """
import sys
sys.modules["httpx"] = None
from litestar_safe_sse.cli import sse_group
sse_group(["doctor", "http://127.0.0.1", "--secret", "x"])
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=START)
    assert process.returncode == 2
    assert process.stderr == "httpx is needed: pip install 'litestar-safe-sse[cli]'\n"


def test_direct_is_a_column_of_its_own(server: int) -> None:
    """Beside what was found through the proxy."""
    answer = ask_doctor(url(server), "--direct", url(server), "--only", "last-event-id")
    assert answer.code == 0
    assert answer.output.count("Last-Event-ID") == 2


def test_every_probe_has_its_name() -> None:
    """What can be chosen is what is there, in that order."""
    assert (*TOGETHER, *AFTERWARDS) == PROBES
