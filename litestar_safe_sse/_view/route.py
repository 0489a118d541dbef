"""The view's route: a page, what it shows as JSON and as events, and the closing of streams."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from litestar import Request, Response, Router, get, post
from litestar.datastructures import CacheControlHeader
from litestar.exceptions import ClientException, ValidationException

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._view.records import Snapshot
from litestar_safe_sse.context import StreamContext
from litestar_safe_sse.response import SafeServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._view.records import RecordedKey, Records
    from litestar_safe_sse.view import StreamsView

__all__ = ("make_view_router",)

INTERVAL = 1.0
"""Seconds between two snapshots of the page."""
PARTS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
UNCACHED = CacheControlHeader(no_store=True)
POLICY = (
    "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)


class Close(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which streams are to be closed: one, or all of a handler, or all of a key.

    Attributes:
        id: That of a stream.
        handler: The name of a handler.
        key: A key, as text.
        by: Which ``PerKey`` of the configuration the key is of, from 0; any if ``None``.
    """

    id: str | None = None
    handler: str | None = None
    key: str | None = None
    by: int | None = None

    def means(self, stream: Stream, keys: Sequence[RecordedKey]) -> bool:
        if self.key is not None:
            return any(each.key == self.key and self.by in (None, each.by) for each in keys)
        return self.id == stream.id if self.id is not None else self.handler == stream.handler


class Closed(msgspec.Struct, frozen=True):
    """How many streams were closed, in which process.

    Attributes:
        closed: How many.
        process: The number of the process; another one may have more.
    """

    closed: int
    process: int


def make_view_router(view: StreamsView, records: Records) -> Router:
    """Makes the route.

    Args:
        view: Where it is, and who may see it.
        records: What it shows.
    """
    home = files("litestar_safe_sse._view")
    parts = {name: home.joinpath(name).read_bytes() for name in PARTS}

    @get("/", cache_control=UNCACHED)
    async def streams() -> Snapshot:
        return records.snapshot()

    @get("/events")
    async def events(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[SSEMessage]:
            while not stream.closing:
                yield SSEMessage(records.snapshot(), event="snapshot")
                with anyio.move_on_after(INTERVAL):
                    await stream.wait_closing()

        return SafeServerSentEvent(body())

    @post("/close", status_code=200)
    async def close(request: Request[Any, Any, Any]) -> Closed:
        wanted = await read_wanted(request)
        streams = records.registry.loop_state().streams.values()
        return await end([each for each in streams if wanted.means(each, records.keys_of(each.id))], records)

    @get("/{name:str}")
    async def part(request: Request[Any, Any, Any]) -> Response[bytes]:
        name = request.path_params["name"]
        if name not in PARTS:
            raise ClientException(status_code=404)
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(parts[name], media_type=f"{PARTS[name]}; charset=utf-8", headers=headers)

    return Router(
        view.path,
        route_handlers=[streams, events, close, part],
        guards=view.guards,
        include_in_schema=False,
    )


async def read_wanted(request: Request[Any, Any, Any]) -> Close:
    """Returns which streams are to be closed.

    Raises:
        ClientException: It is not sent as JSON, which no page of another origin can send unasked.
        ValidationException: It names no stream, handler or key, or more than one of them.
    """
    if request.content_type[0] != "application/json":
        raise ClientException("the content type must be application/json", status_code=415)
    try:
        wanted = msgspec.json.decode(await request.body(), type=Close)
    except msgspec.DecodeError as error:
        raise ValidationException(str(error)) from error
    if [wanted.id, wanted.handler, wanted.key].count(None) != 2:
        raise ValidationException("one of id, handler and key must be given, and no more")
    if wanted.key is None and wanted.by is not None:
        raise ValidationException("by must be given with a key: it says which PerKey this is of")
    return wanted


async def end(streams: list[Stream], records: Records) -> Closed:
    """Closes streams, and waits until they have cleaned up."""
    for stream in streams:
        stream.close(CloseReason.CLOSED)
    for stream in streams:
        await stream.aclose(CloseReason.CLOSED)
    return Closed(len(streams), records.snapshot().process)
