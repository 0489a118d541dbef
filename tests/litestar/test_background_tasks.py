"""Background tasks: run once, after the cleanup, however the stream ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Response, get, route
from litestar.background_tasks import BackgroundTask, BackgroundTasks

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext
from tests.litestar.apps import cause, cleaned, closed, serving
from tests.litestar.bodies import BRIEF, ENDLESS, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def note(trace: Trace, what: str) -> None:
    await anyio.lowlevel.checkpoint()
    trace.append(what)


@pytest.mark.parametrize("kind", ["single", "several", "group", "sync"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_background_runs_once_after_the_cleanup(trace: Trace, kind: str, leaves: bool) -> None:
    """Background tasks of each kind run once, when everything has been given back, also when the client left."""

    def background() -> Any:
        tasks = [BackgroundTask(note, trace, "background"), BackgroundTask(note, trace, "background")]
        return {
            "single": BackgroundTask(note, trace, "background"),
            "several": BackgroundTasks(tasks),
            "group": BackgroundTasks(tasks, run_in_task_group=True),
            "sync": BackgroundTask(trace.append, "background"),
        }[kind]

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent((endless if leaves else brief)(trace), background=background())

    count = 1 if kind in ("single", "sync") else 2
    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            if not leaves:
                assert await connection.finished() is None
        assert trace == [*(ENDLESS if leaves else BRIEF), *["background"] * count]


async def test_background_of_the_handler_layer(trace: Trace) -> None:
    """Background tasks that Litestar hands to the response are run, too."""

    @get("/")
    async def handler() -> Response[Any]:
        response = SafeServerSentEvent(brief(trace))
        response.background = BackgroundTask(note, trace, "background")
        return response

    async with serving(handler) as (app, _):
        await request(app)
        assert trace == ["body begins", "body ends", "background"]


async def test_background_runs_when_the_server_cancels(trace: Trace) -> None:
    """Background tasks run when the server cancels the request's task, as it does with a client that has left."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            connection.cancel()
        assert trace == [*ENDLESS, "background"]


async def test_background_runs_after_a_body_that_failed(trace: Trace) -> None:
    """Background tasks run when the body failed, and the body's exception still goes on to the server."""

    async def body() -> AsyncIterator[str]:
        yield "begun"
        raise LookupError("in the body")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body(), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert trace == ["cleaned: error", "background"]


async def test_background_that_fails(trace: Trace) -> None:
    """A background task that fails raises to the server, after a response that was complete and has cleaned up."""

    async def fail() -> None:
        raise LookupError("in the background")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace), background=BackgroundTask(fail))

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert connection.complete
        assert trace == BRIEF
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_background_runs_to_a_head_request_after_the_cleanup(trace: Trace) -> None:
    """To HEAD, too, background tasks run when the cleanups have."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        await request(app, method="HEAD")
        assert trace == ["cleaned: completed", "background"]
