from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from litestar import Litestar, get
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.serialization import encode_json
from shared import NEW_ORDERS, connecting


@get("/orders")
async def orders(last_event_id: Annotated[int, Parameter(header="Last-Event-ID")] = 0) -> ServerSentEvent:
    async def events() -> AsyncIterator[ServerSentEventMessage]:
        seen = last_event_id
        async with connecting() as database:
            while True:
                for order, item in await database.execute_fetchall(NEW_ORDERS, [seen]):
                    yield ServerSentEventMessage(encode_json({"item": item}), id=order)
                    seen = order
                await anyio.sleep(1)

    return ServerSentEvent(events())


app = Litestar([orders])
