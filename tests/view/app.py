"""An application whose streams may be seen by those who know a word."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler

from litestar_safe_sse import PerKey, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext, sse
from litestar_safe_sse.view import StreamsView

USER, PASSWORD = "admin", "open-thyself"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def is_admin(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """What a browser asks its user for, and sends with each request of the page."""
    if connection.headers.get("Authorization") != AUTHORIZATION:
        raise NotAuthorizedException(headers={"WWW-Authenticate": 'Basic realm="streams"'})


def caller(request: Request[Any, Any, Any]) -> str:
    return str(request.query_params["who"])


async def body(stream: StreamContext) -> AsyncIterator[str]:
    yield "first"
    await stream.wait_closing()


@get("/jobs", name="jobs")
async def jobs(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(body(stream))


@get("/news", name="news")
async def news(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(body(stream))


@sse("/chat", name="chat", websocket="/chat/ws")
async def chat(stream: StreamContext) -> AsyncIterator[str]:
    async for text in body(stream):
        yield text


def user(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return connection.query_params.get("user")


def team(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return connection.query_params.get("team")


def note_startup() -> None:
    """Tells the tests that the server is ready."""
    if records := os.environ.get("SAFE_SSE_RECORDS"):
        with open(records, "a") as file:
            file.write(json.dumps({"what": "startup", "key": "", "at": time.monotonic(), "pid": os.getpid()}) + "\n")


def make_app(**settings: Any) -> Litestar:
    view = StreamsView(guards=[is_admin], who=caller)
    config = SafeSSEConfig(admission=[PerKey(user), PerKey(team)], **settings)
    return Litestar([jobs, news, chat], plugins=[SafeSSEPlugin(config, view=view)], on_startup=[note_startup])


app = make_app()
