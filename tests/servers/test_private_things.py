"""What is private to a server, and is relied on, is there: a newer one may have renamed it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.servers.http1 import Http1Stream
from tests.servers.http2 import Http2Connection
from tests.servers.kinds import ServerKind, parameters
from tests.servers.processes import RunningServer, running
from tests.servers.wire import Wire

FLOW_CONTROL = {
    ("daphne", "1.1"): "DaphneFlowControl",
    ("daphne", "2"): "DaphneFlowControl",
    ("hypercorn", "2"): "HypercornFlowControl",
}
"""Of the servers that do not push back by themselves."""

WITHOUT_TRANSPORT = {("granian", "1.1"), ("granian", "2"), ("daphne", "2")}
"""Granian's is Rust's, and that of Daphne's HTTP/2 connections is not needed: it ends without asking their clients."""

KEEPS_ALIVE = {("uvicorn", "1.1"): ["keep_alive"], ("daphne", "1.1"): ["persistent"]}
"""Of the servers that would keep the connection of a stream during a drain."""


async def probe(server: RunningServer) -> tuple[Any, Wire]:
    """Asks the server, and returns the answer and the connection by which it came."""
    if server.kind.protocol == "1.1":
        stream = await Http1Stream.open(server.address, "/probe")
        await stream.end()
        return json.loads(stream.parser.raw), stream.wire
    connection = await Http2Connection.open(server.address, server.tls)
    answer = await connection.get("/probe")
    await answer.end()
    await connection.detach()
    return json.loads(answer.parser.raw), connection.wire


@pytest.mark.parametrize("kind", parameters())
def test_what_is_relied_on_is_found(kind: ServerKind, tmp_path: Path) -> None:
    """Behind a ``send`` that middleware has wrapped there are the server's transport, flow control and keep-alive."""

    async def ask(server: RunningServer) -> None:
        found, wire = await probe(server)
        own = list(wire.sock.getsockname())
        wire.close()
        assert found["transport"] == ((kind.server, kind.protocol) not in WITHOUT_TRANSPORT)
        assert found["flow_control"] == FLOW_CONTROL.get((kind.server, kind.protocol))
        assert found["keeps_alive"] == KEEPS_ALIVE.get((kind.server, kind.protocol), [])
        if kind.server == "granian":  # which has neither, but tells the addresses
            client, listening = found["addresses"]
            assert [client[0], int(client[1])] == own
            assert (listening[0], int(listening[1])) == server.address

    with running(kind, tmp_path, app="tests.servers.probing:app") as server:
        asyncio.run(ask(server))
