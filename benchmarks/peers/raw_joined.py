"""The ceiling: raw ASGI that joins what is ready to 64 KiB, with nothing to do but that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.peers import raw
from benchmarks.peers.stats import with_stats
from benchmarks.workload import ITEM_OF, events_of, fed_queue

LIMIT = 65536


async def application(scope: Any, receive: Any, send: Any) -> None:
    path = scope.get("path", "/")[1:]
    if path not in JOINED:
        await raw.application(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": raw.HEADERS})
    item = raw.ITEMS[ITEM_OF[path]]
    async for chunk in JOINED[path](item() if path in PREPARED else item, events_of(scope["query_string"])):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def joined(item: bytes, events: int) -> AsyncIterator[bytes]:
    at_once = LIMIT // len(item)
    while events > 0:
        await asyncio.sleep(0)
        yield item * min(at_once, events)
        events -= at_once


async def joined_typed(item: Any, events: int) -> AsyncIterator[bytes]:
    encode = raw.encode_json
    at_once = LIMIT // len(encode(item))
    while events > 0:
        await asyncio.sleep(0)
        yield b"".join([b"data: " + encode(item) + b"\r\n\r\n" for _ in range(min(at_once, events))])
        events -= at_once


async def joined_built(make: Any, events: int) -> AsyncIterator[bytes]:
    at_once = LIMIT // len(make())
    while events > 0:
        await asyncio.sleep(0)
        yield b"".join([make() for _ in range(min(at_once, events))])
        events -= at_once


async def joined_queue(make: Any, events: int) -> AsyncIterator[bytes]:
    source = fed_queue(make, events)
    while events > 0:
        ready = [await source.get()]
        while not source.empty():
            ready.append(source.get_nowait())
        yield b"".join(ready)
        events -= len(ready)


JOINED = {
    "ready": joined,
    "same": joined,
    "strings": joined,
    "kib": joined,
    "typed": joined_typed,
    "built": joined_built,
    "queue": joined_queue,
}
PREPARED = ("ready", "kib")
app = with_stats(application)
