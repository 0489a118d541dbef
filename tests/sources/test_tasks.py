"""Pauses between attempts."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from litestar_safe_sse.sources._tasks import Backoff
from tests.bounds import NEVER, WAIT

pytestmark = pytest.mark.anyio


async def test_pauses_grow_and_end_early() -> None:
    """Between attempts; the first is short, and none is longer than the longest."""
    backoff = Backoff(first=0.001, longest=0.01)
    with anyio.fail_after(WAIT):
        for _ in range(40):
            await backoff.wait()
    event = asyncio.Event()
    event.set()
    with anyio.fail_after(WAIT):
        await Backoff(first=NEVER, longest=NEVER).wait(event)
