"""What both matrices ask a running server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from tests.bounds import WAIT
from tests.servers.clients import Crowd, fetch
from tests.servers.http2 import Http2Connection
from tests.servers.processes import RunningServer
from tests.servers.responses import Ending

MEASURES = ("live", "tasks", "descriptors")
"""Of what there must be no more afterwards than before."""


async def ask(server: RunningServer, path: str, method: str = "GET") -> Any:
    """Ask the server for one of the small answers."""
    response, body = await fetch(server.address, server.kind.protocol, path, tls=server.tls, method=method)
    assert response.status < 300, (path, response, body)
    return json.loads(body) if body else None


async def crowd(server: RunningServer, paths: Sequence[str], **options: Any) -> Crowd:
    return await Crowd.open(server.address, server.kind.protocol, paths, tls=server.tls, **options)


async def until_stuck(server: RunningServer, keys: Sequence[str]) -> dict[str, int]:
    """Wait until the bodies no longer get on, because the writer is blocked (or the flood is over)."""
    last: dict[str, int] = {}
    same, deadline = 0, time.monotonic() + WAIT
    while same < 8:
        assert time.monotonic() < deadline, "the flood goes on"
        await asyncio.sleep(0.02)
        now = await ask(server, "/progress")
        same = same + 1 if now == last and all(now.get(key) for key in keys) else 0
        last = now
    return last


async def settled(server: RunningServer, limits: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for the process's statistics until they are within limits, or get no less any more."""
    deadline = time.monotonic() + WAIT
    # Daphne forgets its finished requests once a second, Hypercorn its idle connections after one.
    enough = 30 if server.kind.server in {"daphne", "hypercorn"} else 6
    async with statistics_of(server) as ask_again:
        least: dict[str, Any] = await ask_again()
        same = 0
        while time.monotonic() < deadline:
            if same >= enough if limits is None else all(least[name] <= limits[name] for name in MEASURES):
                break
            await asyncio.sleep(0.05)
            now, same = await ask_again(), same + 1
            if sum(now[name] for name in MEASURES) < sum(least[name] for name in MEASURES):
                least, same = now, 0
    return least


@contextlib.asynccontextmanager
async def statistics_of(server: RunningServer) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Ask again and again, over HTTP/2 on one connection."""
    if server.kind.protocol == "1.1":
        yield lambda: ask(server, "/statistics")
        return
    connection = await Http2Connection.open(server.address, server.tls)

    async def ask_again() -> Any:
        stream = await connection.get("/statistics")
        assert await stream.end() is Ending.COMPLETE
        return json.loads(stream.parser.raw)

    try:
        yield ask_again
    finally:
        await connection.close()
