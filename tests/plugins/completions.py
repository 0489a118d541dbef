"""A model that answers as OpenAI's do, with heartbeats in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from litestar import Litestar, Request, post

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, SSEMessage, StreamContext

WORDS = ("flour", "water", "salt")


def chunk(word: str) -> dict[str, Any]:
    """What carries one word of the answer."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "baker", "choices": [choice]}


@post("/chat/completions")
async def answer(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
    """Answers by a word for each heartbeat."""
    has_ids = (await request.json())["model"] == "numbered"

    async def body() -> AsyncIterator[SSEMessage | str]:
        for number, word in enumerate(WORDS, 1):
            yield SSEMessage(chunk(word), id=number if has_ids else None)
            while stream.statistics().heartbeats < number:  # noqa: ASYNC110 - nobody is told of them
                await anyio.sleep(0.001)
        yield "[DONE]"

    return SafeServerSentEvent(body(), comment_message="an answer")


app = Litestar(
    [answer],
    plugins=[SafeSSEPlugin(SafeSSEConfig(ping_interval=0.01, retry=500))],
    openapi_config=None,
)
