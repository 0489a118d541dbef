"""A stream over HTTP/1.1."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

from tests.servers.kinds import Address
from tests.servers.responses import ChunkParser, Ending, ProtocolError, Response
from tests.servers.streams import Stream
from tests.servers.wire import Wire


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
        address: Address,
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
            f"Host: {self.wire.host}",
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
