"""What the server or the application is to blame for, with no proxy at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bounds import START, WAIT
from tests.doctor.asking import SHORT, ask_doctor, url
from tests.doctor.conftest import UVICORN
from tests.doctor.secret import SECRET
from tests.ports import free_port
from tests.servers.kinds import KINDS
from tests.servers.processes import RunningServer, running


@pytest.mark.parametrize(
    "kind",
    [
        "uvicorn-h1-httptools-uvloop",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("granian-h1-asyncio", "hypercorn-h1-asyncio")),
    ],
)
def test_server_by_itself_is_healthy(kind: str, tmp_path: Path) -> None:
    """Whatever serves the application."""
    with running(KINDS[kind], tmp_path, app="tests.doctor.app:app") as server:
        answer = ask_doctor(url(server.port), "--json", *SHORT)
    assert (answer.code, answer.faults) == (0, set())
    assert answer.findings["stall"]["evidence"]["reason"] == "SEND_TIMEOUT"


def test_workers_are_asked_until_one_knows_the_stream(tmp_path: Path) -> None:
    """What a body has seen is known to its own process."""
    with running(UVICORN, tmp_path, app="tests.doctor.app:app", workers=3) as server:
        answer = ask_doctor(url(server.port), "--json", "--only", "abort,stall")
    assert {finding["verdict"] for finding in answer.findings.values()} == {"ok"}


def test_server_that_never_notices_aborts_is_named(tmp_path: Path) -> None:
    """A client leaves, and its stream goes on."""
    with running(UVICORN, tmp_path, app="tests.doctor.app:deaf") as server:
        answer = ask_doctor(url(server.port), "--json", *SHORT, "--skip", "stall")
    assert answer.faults == {"abort-unnoticed"}
    assert "the application" in answer.findings["abort"]["remedies"]
    assert answer.code == 1


def test_restart_is_told(tmp_path: Path) -> None:
    """A stream is ended properly by a server that is told to stop, and its client is let in by the next."""
    server = RunningServer(UVICORN, tmp_path, ("127.0.0.1", free_port()))
    try:
        server.start(app="tests.doctor.app:app")
        command = [sys.executable, "-m", "litestar_safe_sse.cli", "doctor", url(server.port), "--json"]
        options = ["--secret", SECRET, "--only", "restart", "--restart", str(WAIT)]
        with subprocess.Popen(command + options, stdout=subprocess.PIPE, text=True) as doctor:
            wait_for_stream(server)
            server.signal(signal.SIGTERM)
            server.process.wait(WAIT)
            server.start(app="tests.doctor.app:app")
            output, _ = doctor.communicate(timeout=WAIT)
    finally:
        server.reap()
    [finding] = json.loads(output)["findings"]
    assert (finding["verdict"], finding["evidence"]["stream"]) == ("ok", "ended properly")
    assert doctor.returncode == 0


def wait_for_stream(server: RunningServer) -> None:
    """Waits until the server has answered the doctor by a stream."""
    deadline = time.monotonic() + START
    while "plan=silent" not in server.output():
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.01)
