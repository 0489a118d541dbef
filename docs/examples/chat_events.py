"""An answer by POST, whose tokens are text and whose end is typed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from litestar import Litestar
from litestar.exceptions import HTTPException

from litestar_safe_sse import Event, SafeSSEPlugin, sse


@dataclass
class Question:
    text: str


@dataclass
class Usage:
    tokens: int


@asynccontextmanager
async def model(question: str) -> AsyncIterator[AsyncIterator[str]]:
    """Stands for the client of a language model."""
    if not question:
        raise HTTPException("The model was not asked anything.", status_code=422)

    async def answer() -> AsyncIterator[str]:
        for word in question.split():
            yield word[::-1]

    yield answer()
    print("model closed", flush=True)


@sse("/chat", method="POST", event_type="token")
async def chat(data: Question) -> AsyncIterator[str | Annotated[Usage, Event("usage")]]:
    tokens = 0
    async with model(data.text) as answer:  # what it raises is answered, as in any handler
        async for token in answer:
            tokens += 1
            yield token
    yield Usage(tokens)


app = Litestar([chat], plugins=[SafeSSEPlugin()])
