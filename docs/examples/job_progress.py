"""Tells how far a job is; a client that comes back goes on from where it was."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from litestar import Litestar, Response, get, post
from litestar.exceptions import NotFoundException

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext


class Job:
    """A job belongs to the application, not to a stream: it goes on when nobody watches."""

    def __init__(self) -> None:
        self.percent = 0
        self.changed = anyio.Event()

    async def run(self) -> None:
        while self.percent < 100:
            await anyio.sleep(0.05)
            self.percent += 5
            self.changed.set()
            self.changed = anyio.Event()


jobs: dict[str, Job] = {}


@asynccontextmanager
async def workers(app: Litestar) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        app.state.workers = group
        yield
        group.cancel_scope.cancel()


@post("/jobs")
async def start(stream: StreamContext) -> dict[str, str]:
    name = secrets.token_hex(8)
    jobs[name] = Job()
    stream.request.app.state.workers.start_soon(jobs[name].run)
    return {"id": name}


@get("/jobs/{name:str}")
async def watch(stream: StreamContext, name: str) -> SafeServerSentEvent | Response[None]:
    job = jobs.get(name)
    if job is None:
        raise NotFoundException(f"There is no job {name!r}.")
    last = stream.last_event_id or ""
    seen = int(last) if last.isdecimal() else -1
    if seen >= 100:
        return Response(None, status_code=204)  # tells an EventSource not to come again

    async def progress() -> AsyncIterator[SSEMessage]:
        percent = seen
        while percent < 100:
            changed = job.changed
            if job.percent == percent:
                await changed.wait()
            percent = job.percent
            yield SSEMessage({"percent": percent}, event="progress", id=percent)

    return SafeServerSentEvent(progress())


app = Litestar([start, watch], plugins=[SafeSSEPlugin()], lifespan=[workers])
