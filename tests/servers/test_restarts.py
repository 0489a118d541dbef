"""Clients that reconnect by themselves live through a restart: a refusal meanwhile does not end them for ever.

An ``EventSource`` gives up on any status but 200 (WHATWG HTML, section 9.2.3), and then a page stays without events
until it is loaded again.
"""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bounds import START, WAIT
from tests.example.processes import CHROMIUM
from tests.ports import free_port
from tests.servers.event_sources import CLOSED, Client, in_chromium, in_node
from tests.servers.kinds import ServerKind, kinds, long_if
from tests.servers.processes import RunningServer

DRAIN = 1.5
"""Seconds that the server drains."""

HTTP1 = [kind for kind in kinds() if kind.protocol == "1.1"]
ALWAYS = ("uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", "hypercorn-h1-asyncio", "daphne-h1")
"""One of each server, which are tried each time: with Granian a browser comes back, with the others Node.js."""


def wait_for_process(client: Client, other_than: str = "") -> str:
    """Waits until the client has had an event of another process, and returns its id."""
    deadline = time.monotonic() + START
    while True:
        seen = client.seen()
        assert all(event["state"] != CLOSED for event in seen), seen
        for event in seen:
            if event["what"] == "message" and event["data"] != other_than:
                return str(event["data"])
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)


def shut_down(server: RunningServer) -> None:
    """Has the server drain for some time, and exit."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as client:
        client.sendall(f"GET /holding?seconds={DRAIN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"begun" not in received:
            received += client.recv(65536)
        server.signal(signal.SIGTERM)
        server.process.wait(WAIT)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@pytest.mark.parametrize(
    ("kind", "open_client"),
    [
        pytest.param(
            kind,
            open_client,
            id=f"{kind.name}-{open_client.__name__}",
            marks=long_if(kind.name not in ALWAYS or (open_client is in_chromium) != (kind.server == "granian")),
        )
        for kind in HTTP1
        for open_client in (in_chromium, in_node)
    ],
)
def test_a_client_comes_back_to_the_next_process(kind: ServerKind, open_client: Any, tmp_path: Path) -> None:
    """A client whose stream ends at a shutdown, and that asks again meanwhile, has events of the next process."""
    server = RunningServer(kind, tmp_path, ("127.0.0.1", free_port()))
    try:
        server.start()
        with open_client(f"http://127.0.0.1:{server.port}", "/lasting", tmp_path) as client:
            first = wait_for_process(client)
            shut_down(server)
            server.start()
            wait_for_process(client, other_than=first)
    finally:
        server.reap()
