"""Handlers for clients that live through a restart: one that holds up the shutdown, and one to come back to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from litestar import Response, get

from litestar_safe_sse import SafeServerSentEvent, StreamContext

RETRY = 20
"""Milliseconds: a client is back while the server still drains."""


def restarting(record: Callable[..., None]) -> list[Any]:
    """The handlers.

    Args:
        record: Notes what happens.
    """

    @get("/page", media_type="text/html")
    async def page() -> Response[str]:
        return Response("<title>A page with an EventSource</title>")

    @get("/lasting")
    async def lasting(stream: StreamContext) -> SafeServerSentEvent:
        """Tells which process it is, and ends when that is told to stop."""
        record("asked")

        async def body() -> AsyncIterator[str]:
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield str(os.getpid())
            await stream.wait_closing()

        return SafeServerSentEvent(body(), retry_duration=RETRY)

    @get("/holding")
    async def holding(stream: StreamContext, seconds: float) -> SafeServerSentEvent:
        """Has the server drain for some time, in which it refuses streams."""

        async def body() -> AsyncIterator[str]:
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "begun"
            await stream.wait_closing()
            await anyio.sleep(seconds)

        return SafeServerSentEvent(body(), shutdown_grace=seconds + 1)

    return [page, lasting, holding]
