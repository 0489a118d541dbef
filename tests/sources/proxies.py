"""What stands between an application and Redis: it passes bytes on, to wherever it is told, or forgets to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.bounds import SHORT, WAIT


class Proxy:
    """A TCP proxy on a port of its own.

    Args:
        target: Returns the port that a new connection leads to.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self.forgotten: set[int] = set()
        """The numbers of connections on which nothing passes any more, and nobody is told."""
        self.drops: bytes | None = None
        """What ends a connection when it is sent, as the name of a command that is not wanted."""
        self.dropped = 0
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def forget(self) -> None:
        """Passes nothing on for the connections there are."""
        self.forgotten.update(range(self.connections))

    def interject(self, data: bytes) -> None:
        """Says something to whom the latest connection is of."""
        self._clients[-1].write(data)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self._clients.append(writer)
        there, back = await asyncio.open_connection("127.0.0.1", self.target())
        for pipe in (self._pass_on(reader, back, number), self._pass_on(there, writer, number)):
            self._tasks.add(asyncio.ensure_future(pipe))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.drops is not None and self.drops in data:
                    await asyncio.sleep(SHORT)  # the connection's owner goes on meanwhile
                    self.dropped += 1
                    break
                if number not in self.forgotten:
                    writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def ended(self) -> None:
        """Waits until every connection has been closed by one of its ends."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=WAIT)
            assert not left


@asynccontextmanager
async def running_proxy(target: Callable[[], int]) -> AsyncIterator[Proxy]:
    """A proxy for the length of a block, at whose end its connections have to be closed."""
    proxy = Proxy(target)
    async with await asyncio.start_server(proxy.accept, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        await proxy.ended()
