from collections.abc import AsyncIterator

import anyio
from shared import NEW_ORDERS, connecting
from sse_starlette import EventSourceResponse, JSONServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route


async def orders(request: Request) -> EventSourceResponse:
    async def events() -> AsyncIterator[JSONServerSentEvent]:
        seen = int(request.headers.get("Last-Event-ID", 0))
        async with connecting() as database:
            while True:
                for order, item in await database.execute_fetchall(NEW_ORDERS, [seen]):
                    yield JSONServerSentEvent({"item": item}, id=str(order))
                    seen = order
                await anyio.sleep(1)

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/orders", orders)])
