"""Relays the tokens of a language model, and hangs up on it as soon as nobody listens."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from litestar import Litestar, get
from litestar.exceptions import HTTPException

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:9000/completions")


@asynccontextmanager
async def http_client(app: Litestar) -> AsyncIterator[None]:
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client:
        app.state.client = client
        yield


@get("/chat")
async def chat(stream: StreamContext, prompt: str) -> SafeServerSentEvent:
    client: httpx.AsyncClient = stream.request.app.state.client
    try:
        answer = await stream.enter_async_context(client.stream("POST", UPSTREAM, json={"prompt": prompt}))
        answer.raise_for_status()
    except httpx.HTTPError as error:  # no stream has begun yet, so this can be a proper response
        raise HTTPException("The model is not available.", status_code=502) from error

    async def tokens() -> AsyncIterator[SSEMessage]:
        async for token in answer.aiter_lines():
            yield SSEMessage(token, event="token")
        yield SSEMessage(event="done")

    return SafeServerSentEvent(tokens())


app = Litestar([chat], plugins=[SafeSSEPlugin()], lifespan=[http_client])
