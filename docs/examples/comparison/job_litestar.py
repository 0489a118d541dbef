from collections.abc import AsyncIterator

from litestar import Litestar, get
from litestar.exceptions import NotFoundException
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.serialization import encode_json
from shared import JOBS, watching


@get("/jobs/{job:int}")
async def progress(job: int) -> ServerSentEvent:
    if job not in JOBS:
        raise NotFoundException

    async def events() -> AsyncIterator[ServerSentEventMessage]:
        async with watching(job) as steps:
            async for step in steps:
                yield ServerSentEventMessage(encode_json({"step": step}), event="progress")
        yield ServerSentEventMessage(event="done")

    return ServerSentEvent(events())


app = Litestar([progress])
