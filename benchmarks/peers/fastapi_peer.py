"""FastAPI's ``fastapi.sse``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import fastapi.routing
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from benchmarks.peers.stats import with_stats
from benchmarks.workload import BODIES, EVENT, HEARTBEAT, ID, ITEM_OF, KIB, TEXT, Broadcast, one, order

fastapi.routing._PING_INTERVAL = HEARTBEAT  # type: ignore[attr-defined]  # it has no setting for this


class OrderModel(BaseModel):
    id: int
    customer: str
    total: float
    paid: bool
    items: list[str]


order_ = order()
ITEMS = {
    "fresh": lambda: ServerSentEvent(raw_data=TEXT, event=EVENT),
    "message": ServerSentEvent(raw_data=TEXT, event=EVENT),
    "text": TEXT,
    "kib": lambda: ServerSentEvent(raw_data=KIB, event=EVENT),
    "make": lambda: ServerSentEvent(raw_data=TEXT, event=EVENT, id=str(ID)),
    "typed": OrderModel(**{name: getattr(order_, name) for name in order_.__struct_fields__}),
}
broadcast = Broadcast()
application = FastAPI(openapi_url=None)


def add(path: str, body: Callable[[int], AsyncIterator[Any]], kind: Any) -> None:
    async def stream(events: int = 1) -> AsyncIterator[Any]:
        async for item in body(events):
            yield item

    stream.__annotations__["return"] = AsyncIterator[kind]
    application.get(f"/{path}", response_class=EventSourceResponse)(stream)


KINDS = {"strings": str, "typed": OrderModel}
for name, body_ in BODIES.items():
    if name != "beat":
        add(name, lambda events, b=body_, n=name: b(ITEMS[ITEM_OF[n]], events), KINDS.get(name, ServerSentEvent))  # type: ignore[misc]
add("beat", lambda events: one(TEXT, 1), str)
add("fan", lambda events: broadcast.body(ITEMS["message"]), ServerSentEvent)


@application.get("/plain", response_class=PlainTextResponse)
async def plain() -> str:
    return "data: "


@application.get("/publish", response_class=PlainTextResponse)
async def publish() -> str:
    broadcast.publish()
    return "data: "


app = with_stats(application)
