"""Handlers whose request is read by others than the listener of their stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import sniffio
from litestar import Request, get, post
from litestar.exceptions import HTTPException

from litestar_safe_sse import SafeServerSentEvent, StreamContext
from litestar_safe_sse._core import receiving

# What a test waits for, that would else take half a minute; those whose request is read have it read at once.
receiving.PATIENCE = 3.0

_watchers: set[object] = set()


def spawn(work: Callable[[], Any]) -> None:
    """Begins a task that nobody waits for."""
    if sniffio.current_async_library() == "trio":
        import trio

        trio.lowlevel.spawn_system_task(work)
    else:
        task = asyncio.ensure_future(work())
        _watchers.add(task)
        task.add_done_callback(_watchers.discard)


def readers(record: Callable[..., None]) -> list[Any]:
    """The handlers.

    Args:
        record: Notes what happens.
    """

    def note_end(stream: StreamContext, key: str) -> None:
        stream.callback(lambda: record("cleaned", key, reason=getattr(stream.close_reason, "name", None)))

    @get("/watched")
    async def watched(request: Request[Any, Any, Any], stream: StreamContext, key: str) -> SafeServerSentEvent:
        """Two watchers wait for the client to leave, one of them from before the stream on."""
        note_end(stream, key)

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            record("watcher knows", key)

        spawn(watch)

        async def body() -> AsyncIterator[str]:
            spawn(watch)
            yield "x"
            await stream.wait_closing()

        return SafeServerSentEvent(body(), shutdown_grace=0)

    @post("/abandoned")
    async def abandoned(request: Request[Any, Any, Any], stream: StreamContext, key: str) -> SafeServerSentEvent:
        """The handler learns that the client has left while it sent, and streams all the same."""
        note_end(stream, key)
        record("reading", key)
        try:
            await request.body()
        except HTTPException:
            record("handler knows", key)

        async def body() -> AsyncIterator[str]:
            while True:
                yield "x"
                await stream.wait_closing()

        return SafeServerSentEvent(body())

    @post("/echo")
    async def echo(stream: StreamContext, key: str) -> SafeServerSentEvent:
        """The body of the stream reads that of the request."""
        note_end(stream, key)

        async def body() -> AsyncIterator[str]:
            yield "begun"
            yield f"got {json.dumps(await stream.request.json())}"

        return SafeServerSentEvent(body())

    @post("/upload")
    async def upload(stream: StreamContext, key: str) -> SafeServerSentEvent:
        """The body of the stream tells how much of a large request has come, and reads it slowly."""
        note_end(stream, key)

        async def body() -> AsyncIterator[str]:
            size = 0
            async for part in stream.request.stream():
                size += len(part)
                yield str(size)
                await stream.flush()

        return SafeServerSentEvent(body())

    @post("/ignored")
    async def ignored(stream: StreamContext, key: str) -> SafeServerSentEvent:
        """Nobody reads the request."""
        note_end(stream, key)

        async def body() -> AsyncIterator[str]:
            yield "begun"
            await stream.wait_closing()

        return SafeServerSentEvent(body(), shutdown_grace=0)

    @get("/pipelined")
    async def pipelined(stream: StreamContext, key: str, ticks: bool) -> SafeServerSentEvent:
        """A stream that sends heartbeats, or events, often."""
        note_end(stream, key)

        async def body() -> AsyncIterator[str]:
            yield "begun"
            while ticks:
                yield "tick"
                await anyio.sleep(0.1)
            await anyio.sleep_forever()

        return SafeServerSentEvent(body(), ping_interval=0.2)

    return [watched, abandoned, echo, upload, ignored, pipelined]
