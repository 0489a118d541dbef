"""Streams an answer of which a reader can tell whether it is whole: it ends by an event that says so."""

from collections.abc import AsyncIterator

import anyio
from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage

WORDS = {"bread": ["flour", "water", "salt"], "soup": ["water", "salt"]}


async def ingredients(dish: str) -> AsyncIterator[str]:
    for word in WORDS[dish]:
        await anyio.sleep(0.01)
        if (dish, word) == ("soup", "salt"):
            raise LookupError("the salt is gone")
        yield word


def problem(error: Exception) -> SSEMessage:
    """What a client is told of an error: that there was one, and nothing that is not its business."""
    return SSEMessage({"title": "The answer broke off."}, event="problem")


@get("/ingredients/{dish:str}")
async def answer(dish: str) -> SafeServerSentEvent:
    async def body() -> AsyncIterator[SSEMessage]:
        async for word in ingredients(dish):
            yield SSEMessage(word, event="ingredient")
        yield SSEMessage("", event="done")

    return SafeServerSentEvent(body(), on_error=problem)


app = Litestar([answer], plugins=[SafeSSEPlugin()])
