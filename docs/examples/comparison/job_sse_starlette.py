from collections.abc import AsyncIterator

from shared import JOBS, watching
from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route


async def progress(request: Request) -> EventSourceResponse:
    job = request.path_params["job"]
    if job not in JOBS:
        raise HTTPException(404)

    async def events() -> AsyncIterator[ServerSentEvent]:
        async with watching(job) as steps:
            async for step in steps:
                yield JSONServerSentEvent({"step": step}, event="progress")
        yield ServerSentEvent("", event="done")

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/jobs/{job:int}", progress)])
