"""Clients of WebSockets, by the ``websockets`` library, that leave in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.bounds import WAIT
from tests.servers.processes import RunningServer


class WayOut(enum.Enum):
    """How a client leaves."""

    CLOSE = "close frame"
    FIN = "fin"
    RST = "rst"
    HALF_CLOSE = "half-close"


class Visitor:
    """One client of one WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[dict[str, Any]] = []

    @classmethod
    async def come(cls, server: RunningServer, path: str, *, stalled: bool = False) -> Visitor:
        """Connects; one that is stalled takes next to nothing."""
        assert not isinstance(server.address, str)
        host, port = server.address
        plug = socket.socket()
        if stalled:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plug, (host, port))
        # Compressed, a flood would be none; and Granian leaves a connection open whose close has been answered.
        options: dict[str, Any] = {"compression": None, "close_timeout": 2}
        options |= {"ping_interval": None, "max_size": None, "max_queue": 1}
        connection = await connect(f"ws://{host}:{port}{path}", sock=plug, open_timeout=WAIT, **options)
        if stalled:
            connection.transport.pause_reading()
        return cls(connection)

    async def events(self, count: int) -> list[Any]:
        """Reads until so many events have come; returns their data."""
        with anyio.fail_after(WAIT):
            while len(self.data) < count:
                self.messages.append(json.loads(await self.connection.recv()))
        return self.data

    @property
    def data(self) -> list[Any]:
        return [message["data"] for message in self.messages if "data" in message]

    async def end(self) -> tuple[int | None, str]:
        """Reads to the end; returns the code and the reason of the close frame."""
        with anyio.fail_after(WAIT):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    self.messages.append(json.loads(await self.connection.recv()))
        return self.connection.close_code, self.connection.close_reason or ""

    async def leave(self, way: WayOut) -> None:
        transport = self.connection.transport
        if way is WayOut.CLOSE:
            await self.connection.close()
        elif way is WayOut.FIN:
            transport.close()
        elif way is WayOut.HALF_CLOSE:
            transport.write_eof()
        else:
            plug = transport.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()


@contextlib.asynccontextmanager
async def visitors(
    server: RunningServer, paths: Sequence[str], *, stalled: bool = False
) -> AsyncIterator[list[Visitor]]:
    """Clients of all of those paths, who are gone by the end of the block."""
    come = await asyncio.gather(*(Visitor.come(server, path, stalled=stalled) for path in paths))
    try:
        yield come
    finally:
        for visitor in come:
            visitor.connection.transport.abort()
