"""``SafeServerSentEvent``, by its public interface."""

from __future__ import annotations

from litestar import Litestar, MediaType, Response, get
from litestar.response import ServerSentEventMessage

from benchmarks.peers.stats import with_stats
from benchmarks.workload import (
    BODIES,
    EVENT,
    HEARTBEAT,
    ID,
    ITEM_OF,
    KIB,
    RETRY,
    TEXT,
    UNICODE,
    Broadcast,
    one,
    order,
)
from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage

ORDER = order()
ITEMS = {
    "fresh": lambda: SSEMessage(TEXT, event=EVENT),
    "message": SSEMessage(TEXT, event=EVENT),
    "text": TEXT,
    "kib": lambda: SSEMessage(KIB, event=EVENT),
    "dict": lambda: {"data": TEXT, "event": EVENT},
    "foreign": lambda: ServerSentEventMessage(data=TEXT, event=EVENT),
    "fields": lambda: SSEMessage(TEXT, event=EVENT, id=ID, retry=RETRY, comment=TEXT),
    "unicode": lambda: SSEMessage(UNICODE, event=EVENT),
    "carried": lambda: SSEMessage(ORDER, event=EVENT),
    "make": lambda: SSEMessage(TEXT, event=EVENT, id=ID),
    "typed": ORDER,
}
broadcast = Broadcast()


@get("/{path:str}")
async def stream(path: str, events: int = 1) -> SafeServerSentEvent:
    if path == "fan":
        return SafeServerSentEvent(broadcast.body(ITEMS["message"]))
    if path == "beat":
        return SafeServerSentEvent(one(TEXT, 1), ping_interval=HEARTBEAT)
    return SafeServerSentEvent(BODIES[path](ITEMS[ITEM_OF[path]], events))


@get("/plain", media_type=MediaType.TEXT)
async def plain() -> Response[str]:
    return Response("data: ", media_type=MediaType.TEXT)


@get("/publish", media_type=MediaType.TEXT)
async def publish() -> str:
    broadcast.publish()
    return "data: "


app = with_stats(Litestar([stream, plain, publish], plugins=[SafeSSEPlugin()], openapi_config=None))
