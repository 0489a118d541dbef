from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from shared import JOBS, watching

app = FastAPI()


def known(job: int) -> int:  # in the generator, it would be a 200
    if job not in JOBS:
        raise HTTPException(404)
    return job


@app.get("/jobs/{job}", response_class=EventSourceResponse)
async def progress(job: Annotated[int, Depends(known)]) -> AsyncIterator[ServerSentEvent]:
    async with watching(job) as steps:
        async for step in steps:
            yield ServerSentEvent(data={"step": step}, event="progress")
    yield ServerSentEvent(raw_data="", event="done")
