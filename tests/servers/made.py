"""Handlers whose streams are made for them: by ``@sse``, and by adoption, each with a dependency of the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from litestar import get
from litestar.response import ServerSentEvent, Stream

from litestar_safe_sse import StreamContext, StreamProvide, sse
from tests.servers.bodies import CLEANUP_SECONDS, SPECIES, Visit, sse_generator, sse_thread


def made(record: Callable[..., None], enter: Callable[[StreamContext, str, str | None], Awaitable[None]]) -> list[Any]:
    """The handlers, which are asked as those of all other bodies are.

    Args:
        record: Notes what happens.
        enter: Registers the cleanups of a visit, and waits until it may begin.
    """

    async def provide_visit(
        stream: StreamContext, key: str, quiet: bool = False, gate: str | None = None, own: float = CLEANUP_SECONDS
    ) -> AsyncIterator[Visit]:
        await enter(stream, key, gate)
        record("returned", key)
        try:
            yield Visit(key, lambda what: record(what, key), stream, quiet=quiet, own=own)
        finally:
            record("dependency-closed", key)

    dependencies = {"visit": StreamProvide(provide_visit)}

    @get("/stream/adopted", dependencies=dependencies)
    async def adopted(visit: Any) -> ServerSentEvent:
        return ServerSentEvent(SPECIES["adopted"].make(visit))

    @get("/stream/adopted_chunks", dependencies=dependencies)
    async def adopted_chunks(visit: Any) -> Stream:
        return Stream(SPECIES["adopted_chunks"].make(visit), media_type="text/event-stream")

    return [
        sse("/stream/sse_generator", dependencies=dependencies)(sse_generator),
        sse("/stream/sse_thread", dependencies=dependencies)(sse_thread),
        adopted,
        adopted_chunks,
    ]
