"""An application whose responses are not over when their streams are, and that takes its time to drain."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from litestar import Litestar, Request, get
from litestar.background_tasks import BackgroundTask
from litestar.logging import LoggingConfig

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from tests.bounds import NEVER, SHORT

_records = os.open(os.environ["SAFE_SSE_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(what: str, key: str = "") -> None:
    line = {"what": what, "key": key, "at": time.monotonic(), "pid": os.getpid()}
    os.write(_records, json.dumps(line).encode() + b"\n")


async def work(key: str, seconds: float) -> None:
    record("background", key)
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        record("background-ended", key)
        raise
    record("background-done", key)


async def after_response(request: Request[Any, Any, Any]) -> None:
    record("after-response", request.query_params["key"])
    await anyio.sleep(SHORT)
    record("after-response-done", request.query_params["key"])


@get("/background", after_response=after_response)
async def background(
    stream: StreamContext, key: str, seconds: float = SHORT, ends: bool = False
) -> SafeServerSentEvent:
    """A response with work of its own behind the stream."""
    stream.callback(record, "cleaned", key)

    async def body() -> AsyncIterator[str]:
        yield "one"
        if not ends:
            await anyio.sleep_forever()

    return SafeServerSentEvent(body(), background=BackgroundTask(work, key, seconds))


@get("/page")
async def page(stream: StreamContext, key: str) -> SafeServerSentEvent:
    """A page that is told to come back."""

    async def body() -> AsyncIterator[str]:
        assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        yield "one"
        await stream.wait_closing()
        yield "farewell"

    stream.callback(record, "cleaned", key)
    return SafeServerSentEvent(body())


@get("/slow")
async def slow(stream: StreamContext, key: str, seconds: float) -> SafeServerSentEvent:
    """A stream that others wait for when the server is stopped."""

    async def clean() -> None:
        record("cleaning", key)
        await anyio.sleep(seconds)
        record("cleaned", key)

    async def body() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    stream.push_async_callback(clean)
    return SafeServerSentEvent(body())


@get("/job")
async def job(stream: StreamContext, key: str, seconds: float) -> SafeServerSentEvent:
    """A job that may take as long as it likes, as far as its response is concerned."""
    stream.callback(record, "cleaned", key)

    async def body() -> AsyncIterator[str]:
        assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        yield "one"
        await stream.wait_closing()
        await anyio.sleep(seconds)
        yield "done"

    return SafeServerSentEvent(body(), shutdown_grace=NEVER)


async def on_startup() -> None:
    record("startup")


async def on_shutdown() -> None:
    record("on-shutdown")


CONFIG = SafeSSEConfig(
    shutdown_grace=float(os.environ.get("SHUTDOWN_GRACE", "5")),
    cleanup_timeout=float(os.environ.get("CLEANUP_TIMEOUT", "30")),
)

AT_ONCE = LoggingConfig(handlers={"queue_listener": {"class": "logging.StreamHandler", "formatter": "standard"}})
"""Litestar's own has a thread write, for which servers do not wait at their end: Uvicorn raises the signal anew."""

app = Litestar(
    [background, page, slow, job],
    plugins=[SafeSSEPlugin(CONFIG)],
    logging_config=AT_ONCE,
    on_startup=[on_startup],
    openapi_config=None,
    on_shutdown=[on_shutdown],
)
