"""Servers, loops and a signal handler for the length of a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.integration.processes import ROOT, Kind, Launch, Server
from tests.integration.watches import Handler, Run
from tests.loops import ASYNCIO, TRIO, UVLOOP
from tests.ports import free_port
from tests.signals import default_signals


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers, and sees to it that none outlives the test."""
    servers: list[Server] = []

    def launch(kind: Kind, options: str = "", **environment: str) -> Server:
        mailbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mailbox.bind(("127.0.0.1", 0))
        port = free_port()
        log = tmp_path / f"{len(servers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                kind.command(port, options),
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    "REPORT_TO": f"127.0.0.1:{mailbox.getsockname()[1]}",
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=default_signals,
            )
        servers.append(Server(port, process, mailbox, log))
        return servers[-1]

    yield launch
    for server in servers:
        server.end()


@pytest.fixture
def handler() -> Iterator[Handler]:
    """The handler of SIGTERM for the duration of a test, which must leave it in place."""
    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=[ASYNCIO, UVLOOP, TRIO])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function in each kind of event loop."""
    backend, options = request.param
    return lambda main: anyio.run(main, backend=backend, backend_options=options)
