from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import FastAPI, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from shared import NEW_ORDERS, connecting

app = FastAPI()


@app.get("/orders", response_class=EventSourceResponse)
async def orders(last_event_id: Annotated[int, Header()] = 0) -> AsyncIterator[ServerSentEvent]:
    seen = last_event_id
    async with connecting() as database:
        while True:
            for order, item in await database.execute_fetchall(NEW_ORDERS, [seen]):
                yield ServerSentEvent(data={"item": item}, id=str(order))
                seen = order
            await anyio.sleep(1)
