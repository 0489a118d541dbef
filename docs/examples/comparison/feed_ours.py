from collections.abc import AsyncIterator

import anyio
from litestar import Litestar
from shared import NEW_ORDERS, connecting

from litestar_safe_sse import SafeSSEPlugin, SSEMessage, StreamContext, sse


@sse("/orders")
async def orders(stream: StreamContext) -> AsyncIterator[SSEMessage]:
    seen = int(stream.last_event_id or 0)
    async with connecting() as database:
        while True:
            for order, item in await database.execute_fetchall(NEW_ORDERS, [seen]):
                yield SSEMessage({"item": item}, id=order)
                seen = order
            await anyio.sleep(1)


app = Litestar([orders], plugins=[SafeSSEPlugin()])
