"""An application that admits so many streams of a key, revokes them, and is drained one by one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, get, post

from litestar_safe_sse import PerKey, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from tests.bounds import NEVER

_records = os.open(os.environ["SAFE_SSE_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

PLACES = 10
SPREAD = 2.0
GRACE = 20.0
"""Much longer: who is told last has the time to say farewell on a machine that is busy, too."""


def record(what: str, key: str = "", **more: Any) -> None:
    line = {"what": what, "key": key, "at": time.monotonic(), "pid": os.getpid(), **more}
    os.write(_records, json.dumps(line).encode() + b"\n")


def user(connection: Request[Any, Any, Any]) -> str | None:
    return connection.query_params.get("user")


banned: set[str] = set()


async def is_allowed(connection: Request[Any, Any, Any]) -> bool:
    return connection.query_params.get("user") not in banned


@get("/stream")
async def handler(stream: StreamContext, key: str, flood: bool = False) -> SafeServerSentEvent:
    """A stream that says farewell, or one that never stops talking."""
    record("opened", key)
    stream.callback(lambda: record("cleaned", key, reason=str(stream.close_reason)))

    async def body() -> AsyncIterator[str]:
        assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        yield "one"
        while flood:
            yield "x" * 10_000
        await stream.wait_closing()
        record("told", key)
        yield "farewell"

    return SafeServerSentEvent(body(), reauthorize=is_allowed, reauthorize_interval=0.5, send_timeout=NEVER)


@post("/revoke")
async def revoke(who: str) -> dict[str, int]:
    return {"revoked": await plugin.streams.aclose_where(key=who)}


@post("/ban")
async def ban(who: str) -> None:
    banned.add(who)


@get("/live")
async def live() -> dict[str, int]:
    return {"live": len(plugin.streams)}


async def on_startup() -> None:
    record("startup")


plugin = SafeSSEPlugin(
    SafeSSEConfig(admission=PerKey(user, PLACES), shutdown_grace=GRACE, drain_spread=SPREAD, ping_interval=NEVER)
)
app = Litestar([handler, revoke, ban, live], plugins=[plugin], on_startup=[on_startup], openapi_config=None)
