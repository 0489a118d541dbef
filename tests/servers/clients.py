"""Clients that leave a stream in every way there is, on sockets whose every call is theirs.

What arrives is parsed strictly (a status line, headers, chunks, events), so that a test can tell a response that
ended from one that was cut. ``left`` is the ``time.monotonic()`` taken right before leaving: on Linux that clock is
the same for all processes, so it can be compared with what the server recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import GoAwayFrame

TIMEOUT = 10.0
"""Seconds anything here may take before the test fails: a bound, never a pause."""


class ProtocolError(Exception):
    """The server sent what it must not."""


class Ending(enum.Enum):
    """How a response came to its end."""

    COMPLETE = "complete"  # the last chunk, or END_STREAM
    CUT = "cut"  # EOF in mid-body
    RESET = "reset"  # RST, or RST_STREAM


@dataclass
class Response:
    """A status and its headers, lower-cased."""

    status: int
    headers: dict[str, str]


@dataclass
class EventParser:
    """Splits a body into blocks, and a block's ``data`` from the rest; comments are counted as well.

    What comes after ``LIMIT`` events is only measured: a busy stream must not keep its client busy.
    """

    LIMIT = 1000

    data: list[str] = field(default_factory=list)
    comments: int = 0
    size: int = 0
    raw: bytearray = field(default_factory=bytearray)
    _pending: bytes = b""

    def feed(self, body: bytes) -> None:
        self.size += len(body)
        if len(self.raw) < 65536:
            self.raw += body
        if len(self.data) >= self.LIMIT:
            return
        text = self._pending + body
        cut = len(text) - 1 if text.endswith(b"\r") else len(text)
        text, held = text[:cut].replace(b"\r\n", b"\n"), text[cut:]
        *blocks, rest = text.split(b"\n\n")
        self._pending = rest + held
        for block in blocks:
            lines = block.lstrip(b"\n").split(b"\n")
            data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
            if data:
                self.data.append(b"\n".join(data).decode())
            self.comments += sum(line.startswith(b":") for line in lines)


class ChunkParser:
    """Strict chunked decoding: a hexadecimal size, CRLF, the bytes, CRLF, until the empty chunk and its CRLF."""

    _size = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")

    def __init__(self) -> None:
        self._pending = bytearray()
        self.complete = False

    def feed(self, received: bytes) -> bytes:
        if self.complete and received:
            raise ProtocolError(f"bytes after the last chunk: {received[:80]!r}")
        self._pending += received
        body = bytearray()
        while not self.complete:
            found = self._size.match(self._pending)
            if found is None:
                if len(self._pending) > 64:
                    raise ProtocolError(f"no chunk size in {bytes(self._pending[:80])!r}")
                break
            size, start = int(found[1], 16), found.end()
            if len(self._pending) < start + size + 2:
                break
            if self._pending[start + size : start + size + 2] != b"\r\n":
                raise ProtocolError("a chunk is longer or shorter than it says")
            body += self._pending[start : start + size]
            del self._pending[: start + size + 2]
            self.complete = size == 0
        if self.complete and self._pending:
            raise ProtocolError(f"bytes after the last chunk: {bytes(self._pending[:80])!r}")
        return bytes(body)


class Wire:
    """A TCP or TLS connection, closed as we say and not as a transport thinks best."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host) if tls else None

    @classmethod
    async def open(
        cls, address: tuple[str, int], tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> Wire:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            with anyio.fail_after(TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, address)
                wire = cls(sock, tls, address[0])
                await wire._handshake()
        except BaseException:
            sock.close()
            raise
        return wire

    async def _handshake(self) -> None:
        while self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await asyncio.get_running_loop().sock_recv(self.sock, 65536))
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self.sock, self._outgoing.read())

    async def send(self, data: bytes) -> None:
        if self._tls is None:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        else:
            self._tls.write(data)
            await self._flush()

    async def receive(self) -> bytes:
        """Return what came, ``b""`` at the end of the stream; raises ``ConnectionError`` after an RST."""
        loop = asyncio.get_running_loop()
        if self._tls is None:
            return await loop.sock_recv(self.sock, 262144)
        while True:
            try:
                return self._tls.read(262144)
            except ssl.SSLWantReadError:
                received = await loop.sock_recv(self.sock, 65536)
                if not received:
                    return b""
                self._incoming.write(received)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def close(self) -> float:
        """FIN."""
        left = time.monotonic()
        self.sock.close()
        return left

    def reset(self) -> float:
        """RST: with a linger of zero the kernel throws away what is unsent and resets."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self.close()

    def half_close(self) -> float:
        """FIN, and still reading."""
        left = time.monotonic()
        self.sock.shutdown(socket.SHUT_WR)
        return left


class Stream:
    """One request and what has come back: the part that HTTP/1.1 and HTTP/2 share."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.head: Response | None = None
        self.parser = EventParser()
        self.ending: Ending | None = None
        self.left: float | None = None

    @property
    def data(self) -> list[str]:
        return self.parser.data

    async def _more(self) -> None:
        raise NotImplementedError

    async def response(self) -> Response:
        """Wait for the status and headers."""
        with anyio.fail_after(TIMEOUT):
            while self.head is None and self.ending is None:
                await self._more()
        if self.head is None:
            raise ProtocolError(f"{self.path}: no response, {self.ending}")
        return self.head

    async def events(self, count: int) -> list[str]:
        """Wait until ``count`` events have come in all."""
        response = await self.response()
        with anyio.fail_after(TIMEOUT):
            while len(self.data) < count and self.ending is None:
                await self._more()
        if len(self.data) < count:
            raise ProtocolError(
                f"{self.path}: {response.status}, {len(self.data)} of {count} events, then {self.ending}: "
                f"{bytes(self.parser.raw[:400])!r}"
            )
        return self.data

    async def end(self) -> Ending:
        """Read to the end and tell how it came."""
        with anyio.fail_after(TIMEOUT):
            while self.ending is None:
                await self._more()
        return self.ending


class Http1Stream(Stream):
    """One request on a connection of its own."""

    def __init__(self, wire: Wire, path: str, method: str) -> None:
        super().__init__(path)
        self.wire = wire
        self._method = method
        self._head_bytes = b""
        self._chunks = ChunkParser()
        self._length: int | None = None

    @classmethod
    async def open(
        cls,
        address: tuple[str, int],
        path: str,
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> Http1Stream:
        wire = await Wire.open(address, tls, receive_buffer)
        stream = cls(wire, path, method)
        try:
            await stream.ask(path, method=method, headers=headers)
        except BaseException:
            wire.close()
            raise
        return stream

    async def ask(self, path: str, *, method: str = "GET", headers: Sequence[tuple[str, str]] = ()) -> None:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.wire.sock.getpeername()[0]}",
            "Accept: text/event-stream",
        ]
        lines += [f"{name}: {value}" for name, value in headers]
        await self.wire.send("\r\n".join([*lines, "", ""]).encode())

    async def _more(self) -> None:
        try:
            received = await self.wire.receive()
        except ConnectionError:
            self.ending = Ending.RESET
            return
        if not received:
            self.ending = Ending.CUT
        elif self.head is None:
            self._head_bytes += received
            head, mark, rest = self._head_bytes.partition(b"\r\n\r\n")
            if mark:
                self._begin(head.decode("latin-1"))
                self._feed(rest)
        else:
            self._feed(received)

    def _begin(self, head: str) -> None:
        status_line, *lines = head.split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) ?.*", status_line)
        if found is None:
            raise ProtocolError(f"not a status line: {status_line!r}")
        pairs = [re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line) for line in lines]
        if None in pairs:
            raise ProtocolError(f"not a header among {lines!r}")
        headers = {pair[1].lower(): pair[2] for pair in pairs if pair}
        self.head = Response(int(found[1]), headers)
        if self._method == "HEAD":
            self._length = 0
        elif headers.get("transfer-encoding") != "chunked":
            if "content-length" not in headers:
                raise ProtocolError(f"neither chunked nor of a length: {headers!r}")
            self._length = int(headers["content-length"])

    def _feed(self, received: bytes) -> None:
        if self._length is None:
            self.parser.feed(self._chunks.feed(received))
            if self._chunks.complete:
                self.ending = Ending.COMPLETE
            return
        self.parser.feed(received)
        if self.parser.size > self._length:
            raise ProtocolError("more bytes than the length says")
        if self.parser.size == self._length:
            self.ending = Ending.COMPLETE


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
        cls, address: tuple[str, int], tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
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
            headers = dict(event.headers)
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
        address: tuple[str, int],
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
    address: tuple[str, int],
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
