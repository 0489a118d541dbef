"""One request and what has come back, whatever the protocol."""

from __future__ import annotations

import anyio

from tests.bounds import WAIT
from tests.servers.responses import Ending, EventParser, ProtocolError, Response


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
        with anyio.fail_after(WAIT):
            while self.head is None and self.ending is None:
                await self._more()
        if self.head is None:
            raise ProtocolError(f"{self.path}: no response, {self.ending}")
        return self.head

    async def events(self, count: int) -> list[str]:
        """Wait until ``count`` events have come in all."""
        response = await self.response()
        with anyio.fail_after(WAIT):
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
        with anyio.fail_after(WAIT):
            while self.ending is None:
                await self._more()
        return self.ending
