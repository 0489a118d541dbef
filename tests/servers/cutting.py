"""An application below a middleware that gives up requests by a scope of anyio's, though their bodies never wait."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from litestar import Litestar, Request
from litestar.types import ASGIApp, Receive, Scope, Send

from litestar_safe_sse import SafeSSEPlugin, StreamContext, sse

SOME = 100_000
"""Events after which a request is given up."""

TOO_MANY = 500_000
"""Events after which a body ends that nobody has ended."""

_records = os.open(os.environ["SAFE_SSE_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(what: str, key: str = "busy") -> None:
    line = {"what": what, "key": key, "at": time.monotonic(), "pid": os.getpid()}
    os.write(_records, json.dumps(line).encode() + b"\n")


@sse("/busy")
async def busy(request: Request[Any, Any, Any], stream: StreamContext) -> AsyncIterator[str]:
    async def clean() -> None:
        record(f"cleaned: {stream.close_reason}")

    stream.push_async_callback(clean)
    try:
        for number in range(TOO_MANY):
            if number == SOME:
                request.scope["enough"].set()  # type: ignore[typeddict-item]
            yield str(number)
        record("went on")
    finally:
        record("ended")


def giving_up(app: ASGIApp) -> ASGIApp:
    async def give_up(scope: Scope, receive: Receive, send: Send) -> None:
        async def wait() -> None:
            await enough.wait()
            tasks.cancel_scope.cancel()

        enough = scope["enough"] = anyio.Event()  # type: ignore[typeddict-unknown-key]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await app(scope, receive, send)
        record("given up")

    return give_up


app = Litestar([busy], plugins=[SafeSSEPlugin()], middleware=[giving_up], on_startup=[lambda: record("startup", "")])
