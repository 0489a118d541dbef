"""Litestar's own ``ServerSentEvent``."""

from __future__ import annotations

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.response import ServerSentEvent, ServerSentEventMessage

from benchmarks.peers.stats import with_stats
from benchmarks.workload import BODIES, EVENT, ID, ITEM_OF, KIB, TEXT, Broadcast, Order, order

encode_json = msgspec.json.Encoder().encode
order_ = order()
ITEMS = {
    "fresh": lambda: ServerSentEventMessage(data=TEXT, event=EVENT),
    "message": ServerSentEventMessage(data=TEXT, event=EVENT),
    "text": TEXT,
    "kib": lambda: ServerSentEventMessage(data=KIB, event=EVENT),
    "make": lambda: ServerSentEventMessage(data=TEXT, event=EVENT, id=ID),
    "typed": lambda: as_json(order_),  # Litestar sends no objects, so its user encodes them
    "beat": (ServerSentEventMessage(data=TEXT), ServerSentEventMessage(data=None, comment="ping")),
}
broadcast = Broadcast()


def as_json(value: Order) -> str:
    return encode_json(value).decode()


@get("/{path:str}")
async def stream(path: str, events: int = 1) -> ServerSentEvent:
    if path == "fan":
        return ServerSentEvent(broadcast.body(ITEMS["message"]))
    if path == "typed":
        path = "built"
        return ServerSentEvent(BODIES[path](ITEMS["typed"], events))
    return ServerSentEvent(BODIES[path](ITEMS[ITEM_OF[path]], events))


@get("/plain", media_type=MediaType.TEXT)
async def plain() -> Response[str]:
    return Response("data: ", media_type=MediaType.TEXT)


@get("/publish", media_type=MediaType.TEXT)
async def publish() -> str:
    broadcast.publish()
    return "data: "


app = with_stats(Litestar([stream, plain, publish], openapi_config=None))
