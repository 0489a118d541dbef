from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from shared import RefusedError, asking


class Question(BaseModel):
    text: str


async def answer(question: Question) -> AsyncIterator[AsyncIterator[str]]:  # in the generator, it would be a 200
    try:
        async with asking(question.text) as tokens:
            yield tokens
    except RefusedError as error:
        raise HTTPException(502) from error


app = FastAPI()


@app.post("/chat", response_class=EventSourceResponse)
async def chat(tokens: Annotated[AsyncIterator[str], Depends(answer)]) -> AsyncIterator[ServerSentEvent]:
    async for token in tokens:
        yield ServerSentEvent(raw_data=token)
    yield ServerSentEvent(raw_data="[DONE]")
