from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from litestar import Litestar, post
from litestar.exceptions import HTTPException
from litestar.response import ServerSentEvent
from msgspec import Struct
from shared import RefusedError, asking


class Question(Struct):
    text: str


@post("/chat", status_code=200)
async def chat(data: Question) -> ServerSentEvent:
    stack = AsyncExitStack()
    try:
        tokens = await stack.enter_async_context(asking(data.text))
    except RefusedError as error:
        raise HTTPException(status_code=502) from error

    async def events() -> AsyncIterator[str]:
        async with stack:
            async for token in tokens:
                yield token
        yield "[DONE]"

    return ServerSentEvent(events())


app = Litestar([chat])
