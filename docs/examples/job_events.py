"""A job's progress, as typed events."""

from collections.abc import AsyncIterator

import anyio
from litestar import Litestar
from litestar.exceptions import NotFoundException
from msgspec import Struct

from litestar_safe_sse import SafeSSEPlugin, sse

JOBS = {1: 4}


class Progress(Struct, tag="progress"):
    percent: int


class Done(Struct, tag="done"):
    result: str


@sse("/jobs/{job:int}")
async def progress(job: int) -> AsyncIterator[Progress | Done]:
    if job not in JOBS:
        raise NotFoundException(f"There is no job {job}.")  # before the first event: a real 404
    for step in range(JOBS[job]):
        yield Progress(100 * step // JOBS[job])
        await anyio.sleep(0.05)
    yield Done("finished")


app = Litestar([progress], plugins=[SafeSSEPlugin()])
