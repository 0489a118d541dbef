"""Whether anybody can still reach an object."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator

import pytest

from litestar_safe_sse._core import asyncgens
from litestar_safe_sse._core.cleanup import CleanupRegistry
from litestar_safe_sse._core.garbage import _follow, is_garbage
from tests.loops import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]

MUCH = [[number] for number in range(3000)]


class Client:
    """What a body may hold: its own generator, and whatever leads to everything there is."""

    def __init__(self) -> None:
        self.generator = self.run()
        self.waiter = asyncio.get_running_loop().create_future()
        self.scope = {"type": "http", "asgi": {"version": "3.0"}, "app": MUCH}
        self.stream = CleanupRegistry()
        self.stream.callback(len, MUCH)

    async def run(self) -> AsyncIterator[int]:
        yield 1
        await self.waiter


async def test_what_leads_to_everything_is_not_followed() -> None:
    """Event loops, applications and streams lead to each other: to look at them all would take milliseconds."""
    asyncgens.install(None)
    try:
        client = Client()
        await client.generator.__anext__()
        reference, found = weakref.ref(client.generator), dict[int, object]()
        assert _follow(reference, found, {})
        assert len(found) < 50
        found.clear()
        assert not is_garbage(reference)
        del client
        assert is_garbage(reference)
    finally:
        asyncgens.uninstall(None)
