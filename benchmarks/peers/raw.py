"""The floor: an ASGI application without a framework, that sends each event by a ``send`` of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from benchmarks.peers.stats import with_stats
from benchmarks.workload import (
    BODIES,
    EVENT,
    ID,
    ITEM_OF,
    KIB,
    RETRY,
    TEXT,
    UNICODE,
    Broadcast,
    events_of,
    order,
    wire,
)

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
MESSAGE, KIB_MESSAGE = wire(TEXT, EVENT), wire(KIB, EVENT)
FIELDS = f": {TEXT}\r\n".encode() + wire(TEXT, EVENT, ID)[:-2] + f"retry: {RETRY}\r\n\r\n".encode()
OTHER_TEXT = wire(UNICODE, EVENT)
encode_json = msgspec.json.Encoder().encode
CARRIED = wire(encode_json(order()).decode(), EVENT)
ITEMS: dict[str, Any] = {
    "fresh": lambda: MESSAGE,
    "dict": lambda: MESSAGE,
    "foreign": lambda: MESSAGE,
    "fields": lambda: FIELDS,
    "unicode": lambda: OTHER_TEXT,
    "carried": lambda: CARRIED,
    "message": MESSAGE,
    "text": wire(TEXT),
    "kib": lambda: KIB_MESSAGE,
    "beat": (wire(TEXT, EVENT), b": ping\r\n\r\n"),
    "typed": order(),
    "make": lambda: f"id: {ID}\r\nevent: {EVENT}\r\ndata: {TEXT}\r\n\r\n".encode(),
}
broadcast = Broadcast()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"][1:]
    if path in ("plain", "publish"):
        if path == "publish":
            broadcast.publish()
        await plain(send)
        return
    item = ITEMS[ITEM_OF.get(path, "message")]
    events = events_of(scope["query_string"])
    body = broadcast.body(item) if path == "fan" else BODIES[path](item, events)
    gone = asyncio.create_task(until_gone(receive, asyncio.current_task()))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if path == "typed":
            async for value in body:
                event = b"data: " + encode_json(value) + b"\r\n\r\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
        else:
            async for event in body:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except asyncio.CancelledError:
        pass
    finally:
        gone.cancel()


async def until_gone(receive: Any, streaming: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    streaming.cancel()


async def plain(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"data: "})


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


app = with_stats(application)
