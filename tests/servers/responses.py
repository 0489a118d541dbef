"""Responses as they are parsed: strictly (a status line, headers, chunks, events).

So a test can tell one that ended from one that was cut.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field


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
    _lines: list[bytes] = field(default_factory=list)

    def feed(self, body: bytes) -> None:
        self.size += len(body)
        if len(self.raw) < 65536:
            self.raw += body
        if len(self.data) >= self.LIMIT:
            return
        text = self._pending + body
        cut = len(text) - 1 if text.endswith(b"\r") else len(text)
        text, held = text[:cut].replace(b"\r\n", b"\n"), text[cut:]
        *lines, rest = text.split(b"\n")
        self._pending = rest + held
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(b":"):  # between two blocks as well
            self.comments += 1
        elif line.startswith(b"data:"):
            self._lines.append(line[5:].removeprefix(b" "))
        elif not line and self._lines:
            self.data.append(b"\n".join(self._lines).decode())
            self._lines.clear()


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
