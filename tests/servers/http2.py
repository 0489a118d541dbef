"""Streams over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hyperframe.frame import GoAwayFrame

from tests.servers.kinds import Address
from tests.servers.responses import Ending, ProtocolError, Response
from tests.servers.streams import Stream
from tests.servers.wire import Wire


class Http2Stream(Stream):
    """One stream on a connection that others may share; what comes is fed in by the connection's reader."""

    def __init__(self, connection: Http2Connection, path: str, number: int, *, stalled: bool) -> None:
        super().__init__(path)
        self.connection = connection
        self.number = number
        self.stalled = stalled
        self.changed = asyncio.Event()

    async def _more(self) -> None:
        await self.changed.wait()
        self.changed.clear()


class Http2Connection:
    """One HTTP/2 connection, by prior knowledge or over TLS, with as many streams as asked for."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.streams: dict[int, Http2Stream] = {}
        self.goaway_received = False
        self._unframed = bytearray()
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: Address, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> Http2Connection:
        connection = cls(await Wire.open(address, tls, receive_buffer))
        connection._h2.initiate_connection()
        await connection._flush()
        connection._reader = asyncio.create_task(connection._read())
        return connection

    async def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        stalled: bool = False,
    ) -> Http2Stream:
        """Open a stream. A ``stalled`` one never gives window back: the server may send 65,535 bytes and no more."""
        if self._reader is None or self._reader.done():
            raise ConnectionResetError("the server has closed the connection")
        number = self._h2.get_next_available_stream_id()
        stream = self.streams[number] = Http2Stream(self, path, number, stalled=stalled)
        pseudo = [
            (":method", method),
            (":path", path),
            (":scheme", "https" if self.wire._tls else "http"),
            (":authority", "localhost"),
        ]
        self._h2.send_headers(number, [*pseudo, *headers], end_stream=True)
        await self._flush()
        return stream

    async def widen(self) -> None:
        """Allow the server to send as much as it likes, so that only TCP holds it back."""
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        self._h2.increment_flow_control_window(2**30)
        await self._flush()

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            await self.wire.send(data)

    async def _read(self) -> None:
        ending = Ending.CUT
        try:
            while received := await self.wire.receive():
                for event in self._h2.receive_data(self._without_goaway(received)):
                    self._take(event)
                await self._flush()
        except (ConnectionError, BrokenPipeError):
            ending = Ending.RESET
        finally:
            for stream in self.streams.values():
                stream.ending = stream.ending or ending
                stream.changed.set()

    def _without_goaway(self, received: bytes) -> bytes:
        """Take the server's GOAWAY out: h2 takes no frame after it, although streams may still end in peace."""
        self._unframed += received
        frames = bytearray()
        while len(self._unframed) >= 9:
            length = 9 + int.from_bytes(self._unframed[:3], "big")
            if len(self._unframed) < length:
                break
            if self._unframed[3] == GoAwayFrame.type:
                self.goaway_received = True
            else:
                frames += self._unframed[:length]
            del self._unframed[:length]
        return bytes(frames)

    def _take(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            headers = {str(name): str(value) for name, value in event.headers}
            if "connection" in headers:
                raise ProtocolError("a Connection header on HTTP/2")
            stream.head = Response(int(headers.pop(":status")), headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.parser.feed(event.data)
            if not stream.stalled and event.flow_controlled_length and stream.ending is None:
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream.number)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ending = Ending.COMPLETE
        elif isinstance(event, h2.events.StreamReset):
            stream.ending = Ending.RESET
        stream.changed.set()

    async def reset_stream(self, stream: Http2Stream) -> float:
        """RST_STREAM(CANCEL); the connection and its other streams stay."""
        self._h2.reset_stream(stream.number, h2.errors.ErrorCodes.CANCEL)
        stream.ending = Ending.RESET
        left = time.monotonic()
        await self._flush()
        return left

    async def goaway(self) -> float:
        """GOAWAY, the connection stays open."""
        frame = GoAwayFrame(0)  # not by h2, which would then take no frame any more
        left = time.monotonic()
        await self.wire.send(frame.serialize())
        return left

    async def detach(self) -> None:
        """Stop reading: a socket is closed only when nobody waits on it."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await self._reader
            self._reader = None

    async def close(self) -> float:
        try:
            await self.detach()
        finally:
            left = self.wire.close()
        return left

    async def reset(self) -> float:
        try:
            await self.detach()
        finally:
            left = self.wire.reset()
        return left
