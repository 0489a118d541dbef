"""Clients that leave a stream in every way there is."""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import Sequence

from tests.servers.http1 import Http1Stream
from tests.servers.http2 import Http2Connection, Http2Stream
from tests.servers.kinds import Address
from tests.servers.responses import Ending, ProtocolError, Response
from tests.servers.streams import Stream
from tests.servers.wire import Wire


class Leave(enum.Enum):
    """How a client leaves."""

    FIN = "fin"
    RST = "rst"
    HALF_CLOSE = "half-close"
    RST_STREAM = "rst-stream"
    GOAWAY = "goaway"


class Crowd:
    """Several clients of one server, who come together and leave together."""

    PER_CONNECTION = 5

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self._connections: list[Http2Connection] = []

    @classmethod
    async def open(
        cls,
        address: Address,
        protocol: str,
        paths: Sequence[str],
        *,
        tls: ssl.SSLContext | None = None,
        stalled: bool = False,
        method: str = "GET",
    ) -> Crowd:
        """Ask for every path: each on a connection of its own, over HTTP/2 five to a connection."""
        crowd = cls()
        buffer = 4096 if stalled else None
        try:
            if protocol == "1.1":
                crowd.streams += await asyncio.gather(
                    *(Http1Stream.open(address, p, method=method, tls=tls, receive_buffer=buffer) for p in paths)
                )
            else:
                for start in range(0, len(paths), cls.PER_CONNECTION):
                    connection = await Http2Connection.open(address, tls)
                    crowd._connections.append(connection)
                    for path in paths[start : start + cls.PER_CONNECTION]:
                        crowd.streams.append(await connection.get(path, method=method, stalled=stalled))
        except BaseException:
            await crowd.close()
            raise
        return crowd

    async def events(self, count: int) -> None:
        await asyncio.gather(*(stream.events(count) for stream in self.streams))

    async def leave(self, how: Leave) -> None:
        """Leave at once, all of them, each noting when."""
        if how is Leave.RST_STREAM:
            for stream in self.streams:
                assert isinstance(stream, Http2Stream)
                stream.left = await stream.connection.reset_stream(stream)
            return
        for connection in self._connections:
            if how is Leave.GOAWAY:
                left = await connection.goaway()
            else:
                left = await (connection.close() if how is Leave.FIN else connection.reset())
            for stream in connection.streams.values():
                stream.left = left
        for stream in self.streams:
            if isinstance(stream, Http1Stream):
                ways = {Leave.FIN: Wire.close, Leave.RST: Wire.reset, Leave.HALF_CLOSE: Wire.half_close}
                stream.left = ways[how](stream.wire)

    async def close(self) -> None:
        """Close whatever is still open."""
        for connection in self._connections:
            await connection.close()
        for stream in self.streams:
            if isinstance(stream, Http1Stream):
                stream.wire.close()

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def fetch(
    address: Address,
    protocol: str,
    path: str,
    *,
    tls: ssl.SSLContext | None = None,
    method: str = "GET",
) -> tuple[Response, bytes]:
    """Ask for a short answer and return it whole."""
    if protocol == "1.1":
        stream: Stream = await Http1Stream.open(
            address, path, method=method, headers=[("Connection", "close")], tls=tls
        )
        try:
            response = await stream.response()
            await stream.end()
        finally:
            stream.wire.close()  # type: ignore[attr-defined]
    else:
        connection = await Http2Connection.open(address, tls)
        try:
            stream = await connection.get(path, method=method)
            response = await stream.response()
            await stream.end()
        finally:
            await connection.close()
    if stream.ending is not Ending.COMPLETE:
        raise ProtocolError(f"{path}: {stream.ending}")
    return response, bytes(stream.parser.raw)
