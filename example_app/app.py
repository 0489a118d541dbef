"""Wires the pages to their streams. ``app`` runs on any ASGI server.

With one worker, unless ``EXAMPLE_REDIS_URL`` names a Redis for the feed; the ledger is always this process's own.
``EXAMPLE_HOSTS`` gives the names, between spaces, under which the pages may be opened besides addresses and localhost.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, get_args

import anyio
import msgspec
from litestar import Litestar, Request, Router, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException, ServiceUnavailableException
from litestar.response import ServerSentEvent
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Receive, ReceiveMessage, Scope, Send

from example_app.bodies import KINDS, Kind, Mailbox
from example_app.callers import own_pages_only
from example_app.feed import Feed, create_feed, feed_router
from example_app.ledger import Ledger, Resource, Snapshot, Via
from example_app.visitors import Crowd, send_crowd
from litestar_safe_sse import (
    CloseReason,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
)
from litestar_safe_sse.sources import RedisPlugin

__all__ = ["app", "create_app"]

STATIC = Path(__file__).parent / "static"
HOLD_AT_MOST = 600
NUMBERS_EVERY = 0.05
PING_EVERY = 3.0  # often enough to be seen in a log on the page; the default is kinder to phones

AnyRequest = Request[Any, Any, State]


class Demo(State):
    """What the handlers share, as their parameter ``state``."""

    feed: Feed
    ledger: Ledger
    mailbox: Mailbox
    plugin: SafeSSEPlugin
    crowd_on_its_way: anyio.Lock


def kind_of(request: AnyRequest) -> Kind:
    name = request.path_params["kind"]
    if name not in KINDS:
        raise NotFoundException(f"There is no kind {name!r}, only {', '.join(KINDS)}.")
    return KINDS[name]


def issue(request: AnyRequest, ledger: Ledger, via: Via) -> tuple[Kind, Resource]:
    kind = kind_of(request)
    if len(ledger) >= HOLD_AT_MOST:
        raise ServiceUnavailableException(f"{len(ledger)} resources are held already. Reset first.")
    resource = ledger.issue(
        kind.name, via, crowd="crowd" in request.query_params, tokens_per_second=kind.tokens_per_second
    )
    request.scope["state"]["resource"] = resource
    return kind, resource


def note_disconnects(app: ASGIApp) -> ASGIApp:
    """Writes down the moment at which the server says that a client has gone, whichever side streams to it."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting_receive() -> ReceiveMessage:
            message = await receive()
            resource = scope["state"].get("resource")
            if message["type"] == "http.disconnect" and isinstance(resource, Resource):
                resource.leave()
            return message

        await app(scope, noting_receive, send)

    return middleware


@get("/safe/{kind:str}")
async def safe(request: AnyRequest, stream: StreamContext, state: Demo) -> SafeServerSentEvent:
    kind, resource = issue(request, state.ledger, "safe")

    async def revoke() -> None:
        await stream.aclose(CloseReason.REVOKED)

    def close() -> None:
        state.ledger.closed(resource, stream.close_reason.name if stream.close_reason else None)

    resource.revoke = revoke
    stream.callback(close)
    return SafeServerSentEvent(kind.body(resource, state.mailbox), headers={"X-Stream": str(resource.number)})


@get("/litestar/{kind:str}", media_type="text/event-stream")
async def litestar(request: AnyRequest, state: Demo) -> ServerSentEvent:
    kind, resource = issue(request, state.ledger, "litestar")
    return ServerSentEvent(kind.body(resource, state.mailbox), headers={"X-Stream": str(resource.number)})


@post("/{number:int}/left", status_code=204)
async def left(request: AnyRequest, state: Demo) -> None:
    """The page says that it is closing a stream, for servers that are slow to tell."""
    if resource := state.ledger.find(request.path_params["number"]):
        resource.leave()


@post("/{number:int}/revoke", status_code=204)
async def revoke(request: AnyRequest, state: Demo) -> None:
    resource = state.ledger.find(request.path_params["number"])
    if resource is None:
        raise NotFoundException("That stream holds nothing any more.")
    if resource.revoke is None:
        raise HTTPException("The server has no way to end Litestar's own streams.", status_code=409)
    resource.leave()
    await resource.revoke()


@get("/numbers")
async def numbers(state: Demo) -> SafeServerSentEvent:
    async def body() -> AsyncIterator[SSEMessage]:
        sent: Snapshot | None = None
        while True:
            snapshot = state.ledger.snapshot(
                live_streams=len(state.plugin.streams), workers=max(1, len(state.feed.alive()))
            )
            if snapshot != sent:
                sent = snapshot
                yield SSEMessage(snapshot, event="numbers")
            await anyio.sleep(NUMBERS_EVERY)

    return SafeServerSentEvent(body(), retry_duration=1000)


class KindInfo(msgspec.Struct):
    """What the page has to know of a kind."""

    name: str
    title: str
    about: str
    holds: str
    crowd: int
    slow_reader: bool


@get("/kinds")
async def kinds() -> list[KindInfo]:
    return [
        KindInfo(kind.name, kind.title, kind.about, kind.holds, kind.crowd, kind.slow_reader) for kind in KINDS.values()
    ]


@post("/crowds/{via:str}/{kind:str}", status_code=200)
async def crowd(request: AnyRequest, state: Demo) -> Crowd:
    """Sends a crowd to this very server: to where this request came in, whatever name the client knows it by."""
    kind, via = kind_of(request), request.path_params["via"]
    if via not in get_args(Via):
        raise NotFoundException(f"There is no side {via!r}, only {', '.join(get_args(Via))}.")
    if len(state.ledger) + kind.crowd > HOLD_AT_MOST:
        raise HTTPException(f"{len(state.ledger)} resources are held already. Reset first.", status_code=409)
    if state.crowd_on_its_way.locked():
        raise HTTPException("A crowd is on its way already.", status_code=409)
    server = request.scope["server"]
    if server is None or not server[1]:
        raise HTTPException("A crowd needs a server that listens on TCP.", status_code=409)
    async with state.crowd_on_its_way:
        path = f"/streams/{via}/{kind.name}?crowd"
        return await send_crowd(server[0], server[1], path, size=kind.crowd, ledger=state.ledger)


@post("/notifications", status_code=200)
async def notify(state: Demo) -> dict[str, int]:
    return {"delivered": state.mailbox.publish("Your parcel is at the door.")}


@post("/reset", status_code=200)
async def reset(state: Demo) -> dict[str, int]:
    return {"written_off": state.ledger.reset()}


def create_app(redis_url: str | None = None, hosts: Iterable[str] = ()) -> Litestar:
    """Makes the application.

    Args:
        redis_url: Where the feed's log is. By default it is in memory, for one worker.
        hosts: The names under which the pages may be opened, besides addresses and ``localhost``.
    """
    plugin = SafeSSEPlugin(SafeSSEConfig(ping_interval=PING_EVERY))
    redis = RedisPlugin(redis_url, prefix="sse-example") if redis_url else None
    feed = create_feed(redis)
    return Litestar(
        route_handlers=[
            Router("/streams", route_handlers=[safe, litestar, left, revoke], middleware=[note_disconnects]),
            feed_router(feed),
            numbers,
            kinds,
            crowd,
            notify,
            reset,
            create_static_files_router("/", directories=[STATIC], html_mode=True),
        ],
        guards=[own_pages_only(hosts)],
        plugins=[plugin, redis] if redis else [plugin],
        on_startup=[feed.start],
        before_request=feed.start,  # where nobody calls the line above: on Daphne
        on_shutdown=[feed.aclose],
        state=Demo(
            {
                "feed": feed,
                "ledger": Ledger(),
                "mailbox": Mailbox(),
                "plugin": plugin,
                "crowd_on_its_way": anyio.Lock(),
            }
        ),
        openapi_config=None,
    )


def hosts_of_environment() -> list[str]:
    return os.environ.get("EXAMPLE_HOSTS", "").split()


app = create_app(os.environ.get("EXAMPLE_REDIS_URL"), hosts_of_environment())
