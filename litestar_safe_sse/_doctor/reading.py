"""One stream as its client sees it: what arrives, and when."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from msgspec import Struct

from litestar_safe_sse._core.decoding import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Arrival", "Reading")


class Arrival(Struct, frozen=True):
    """An event, and when it came.

    Attributes:
        data: What it holds.
        at: Seconds since the stream was asked for.
    """

    data: dict[str, Any]
    at: float

    @property
    def offset(self) -> float:
        """Seconds from its being sent to its arrival, and what the request took to reach the application."""
        return self.at - float(self.data["at"])


class Reading:
    """What has arrived of one stream.

    Attributes:
        key: What the application knows the stream by.
        arrivals: Its events.
        head: Status, headers and protocol, once they have come.
        headers_after: Seconds until then.
        heard_after: Seconds until it last said something.
        ended_after: Seconds until the end.
        failure: What cut it, unless it was ended properly.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.arrivals: list[Arrival] = []
        self.head: httpx.Response | None = None
        self.headers_after: float | None = None
        self.heard_after = 0.0
        self.ended_after: float | None = None
        self.failure: Exception | None = None
        self._decoder = Decoder()
        self._began = monotonic()
        self._changed = anyio.Event()
        self._stalled = False

    @property
    def heartbeats(self) -> int:
        """How many comments have come."""
        return self._decoder.comments_seen

    def elapsed(self) -> float:
        """Returns the seconds since the stream was asked for."""
        return monotonic() - self._began

    def stall(self) -> None:
        """Has nothing more read."""
        self._stalled = True

    async def run(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        """Reads until the stream ends."""
        try:
            response = await client.send(request, stream=True)
            try:
                await self._read(response)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                    await response.aclose()
        except httpx.HTTPError as error:
            self.failure = error
        self.ended_after = self.elapsed()
        self._notify()

    async def _read(self, response: httpx.Response) -> None:
        self.head = response
        self.headers_after = self.elapsed()
        self._notify()
        async for chunk in response.aiter_bytes():
            self.heard_after = self.elapsed()
            self._decoder.feed(chunk)
            self._take_events()
            self._notify()
            if self._stalled:
                await anyio.sleep_forever()

    def _take_events(self) -> None:
        at = self.elapsed()
        while self._decoder.events:
            event = self._decoder.events.popleft()
            self.arrivals.append(Arrival(event.json(dict[str, Any]), at))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Waits until a condition holds; tells whether it does in time, and before the stream has ended."""
        with anyio.move_on_after(timeout):
            while not condition() and self.ended_after is None:
                await self._changed.wait()
        return bool(condition())

    async def first(self, timeout: float) -> Arrival | None:
        """Waits for the first event."""
        await self.until(lambda: self.arrivals, timeout)
        return self.arrivals[0] if self.arrivals else None
