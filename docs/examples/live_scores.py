"""Scores, by HTTP and over a WebSocket, each from where its client has left off."""

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
from litestar import Litestar, MediaType, get
from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from litestar_safe_sse import SafeSSEConfig, SafeSSEPlugin, SSEMessage, StreamContext, sse

HERE = Path(__file__).parent


class Score(Struct, tag="score"):
    goals: int


def same_origin(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    origin = connection.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != connection.headers.get("host"):
        raise PermissionDeniedException  # another site's page, with the cookies of whoever looks at it


@sse("/scores", websocket="/scores/ws", guards=[same_origin])
async def scores(stream: StreamContext) -> AsyncIterator[SSEMessage[Score]]:
    latest = stream.last_event_id or "0"
    if not latest.isdecimal():
        raise ClientException(f"There is no score {latest}.")
    stream.callback(lambda: print("closed:", stream.close_reason))
    for goals in count(int(latest) + 1):
        yield SSEMessage(Score(goals), id=goals)
        await anyio.sleep(0.05)


@get("/", media_type=MediaType.HTML, sync_to_thread=False)
def page() -> str:
    script = HERE.joinpath("follow.js").read_text()
    return f"<!doctype html><title>Scores</title><script type=module>{script}; window.follow = follow</script>"


app = Litestar([scores, page], plugins=[SafeSSEPlugin(SafeSSEConfig(last_event_id_query="last_event_id", retry=100))])
