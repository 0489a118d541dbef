from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from shared import RefusedError, asking
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route


async def chat(request: Request) -> EventSourceResponse:
    stack = AsyncExitStack()
    question = (await request.json())["text"]
    try:
        tokens = await stack.enter_async_context(asking(question))
    except RefusedError as error:
        raise HTTPException(502) from error

    async def events() -> AsyncIterator[str]:
        async with stack:
            async for token in tokens:
                yield token
        yield "[DONE]"

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
