"""sse-starlette's ``EventSourceResponse``."""

from __future__ import annotations

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.peers.stats import with_stats
from benchmarks.workload import BODIES, EVENT, HEARTBEAT, ID, ITEM_OF, KIB, TEXT, Broadcast, events_of, one, order

encode_json = msgspec.json.Encoder().encode
order_ = order()
ITEMS = {
    "fresh": lambda: ServerSentEvent(TEXT, event=EVENT),
    "message": ServerSentEvent(TEXT, event=EVENT),
    "text": TEXT,
    "kib": lambda: ServerSentEvent(KIB, event=EVENT),
    "make": lambda: ServerSentEvent(TEXT, event=EVENT, id=str(ID)),
    "typed": lambda: encode_json(order_).decode(),  # sends no objects, so its user encodes them
}
broadcast = Broadcast()


async def stream(request: Request) -> EventSourceResponse:
    path = request.path_params["path"]
    events = events_of(request.url.query)
    if path == "fan":
        return EventSourceResponse(broadcast.body(ITEMS["message"]))
    if path == "beat":
        return EventSourceResponse(one(TEXT, 1), ping=int(HEARTBEAT))
    if path == "typed":
        return EventSourceResponse(BODIES["built"](ITEMS["typed"], events))
    return EventSourceResponse(BODIES[path](ITEMS[ITEM_OF[path]], events))


async def plain(request: Request) -> Response:
    return PlainTextResponse("data: ")


async def publish(request: Request) -> Response:
    broadcast.publish()
    return PlainTextResponse("data: ")


app = with_stats(Starlette(routes=[Route("/plain", plain), Route("/publish", publish), Route("/{path}", stream)]))
