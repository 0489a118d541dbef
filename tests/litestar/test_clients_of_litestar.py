"""Litestar's own test clients, and httpx's transport: what they can do with streams, and what they can't."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import httpx
import pytest
from litestar import Litestar, get
from litestar.testing import AsyncTestClient, TestClient

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEPlugin
from tests.bounds import SHORT

pytestmark = pytest.mark.anyio


class Story:
    """An application with a stream that ends, and one that would not."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.plugin = SafeSSEPlugin()

        @get("/short")
        async def short() -> SafeServerSentEvent:
            async def body() -> AsyncIterator[str]:
                yield "one"
                await anyio.lowlevel.checkpoint()
                self.ended.append("short")

            return SafeServerSentEvent(body())

        @get("/endless")
        async def endless() -> SafeServerSentEvent:
            async def body() -> AsyncIterator[str]:
                try:
                    yield "one"
                    await anyio.sleep_forever()
                finally:
                    self.ended.append("endless")

            return SafeServerSentEvent(body(), max_lifetime=SHORT)

        self.app = Litestar([short, endless], plugins=[self.plugin])

    @property
    def closed(self) -> dict[CloseReason, int]:
        return dict(self.plugin.streams.statistics().closed)


@pytest.mark.parametrize(
    ("path", "reason"), [("/short", CloseReason.COMPLETED), ("/endless", CloseReason.MAX_LIFETIME)]
)
def test_the_client_for_functions_returns_what_has_ended(path: str, reason: CloseReason) -> None:
    """By ``stream`` too: an endless one ends by ``max_lifetime``, and would hang without."""
    story = Story()
    with TestClient(story.app) as client:
        assert "data: one" in client.get(path).text
        with client.stream("GET", path) as response:
            assert story.ended == [path[1:]] * 2
            assert "data: one" in response.read().decode()
    assert story.closed == {reason: 2}


@pytest.mark.parametrize(
    ("path", "reason"), [("/short", CloseReason.COMPLETED), ("/endless", CloseReason.MAX_LIFETIME)]
)
@pytest.mark.parametrize("kind", ["litestar", "httpx"])
async def test_the_client_for_coroutines_returns_what_has_ended(kind: str, path: str, reason: CloseReason) -> None:
    """Likewise, as one of httpx's transport for applications does."""
    story = Story()
    client: httpx.AsyncClient
    if kind == "litestar":
        client = AsyncTestClient(story.app)
    else:
        transport = httpx.ASGITransport(story.app)  # type: ignore[arg-type]
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with client:
        assert "data: one" in (await client.get(path)).text
        async with client.stream("GET", path) as response:
            assert story.ended == [path[1:]] * 2
            assert "data: one" in (await response.aread()).decode()
    assert story.closed == {reason: 2}
