"""Requests to an application in the test's own process."""

from __future__ import annotations

import json
from typing import Any

from litestar import Litestar

from litestar_safe_sse.testing import OpenStream, open_stream
from tests.bounds import WAIT


async def ask(app: Litestar, method: str, path: str, data: object = None, **headers: str) -> tuple[int, Any]:
    """Makes a request whose response ends by itself, and returns its status and its JSON."""
    async with open_stream(app, method, path, json=data, headers=headers, timeout=WAIT) as response:
        body = await response.read()
    assert response.status is not None
    return response.status, json.loads(body) if body else None


async def take(stream: OpenStream, count: int) -> list[Any]:
    """The JSON of a stream's next events."""
    return [(await stream.next()).json() for _ in range(count)]
