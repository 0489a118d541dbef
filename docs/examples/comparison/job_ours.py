from collections.abc import AsyncIterator

from litestar import Litestar
from litestar.exceptions import NotFoundException
from shared import JOBS, watching

from litestar_safe_sse import SafeSSEPlugin, SSEMessage, sse


@sse("/jobs/{job:int}")
async def progress(job: int) -> AsyncIterator[SSEMessage]:
    if job not in JOBS:
        raise NotFoundException
    async with watching(job) as steps:
        async for step in steps:
            yield SSEMessage({"step": step}, event="progress")
    yield SSEMessage("", event="done")


app = Litestar([progress], plugins=[SafeSSEPlugin()])
