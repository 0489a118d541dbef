"""Sockets whose every call is a test's.

What leaving returns is the ``time.monotonic()`` taken right before: on Linux that clock is the same for all processes,
so it can be compared with what the server recorded.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time

import anyio

from tests.bounds import WAIT
from tests.servers.kinds import Address


class Wire:
    """A TCP or TLS connection, closed as we say and not as a transport thinks best."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        self.sock = sock
        self.host = host
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host) if tls else None

    @classmethod
    async def open(cls, address: Address, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> Wire:
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        try:
            sock.setblocking(False)
            if not isinstance(address, str):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            with anyio.fail_after(WAIT):
                await asyncio.get_running_loop().sock_connect(sock, address)
                wire = cls(sock, tls, "localhost" if isinstance(address, str) else address[0])
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
