"""An application for the doctor, and one that never learns that its clients have left."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import anyio
from litestar import Litestar

from litestar_safe_sse import SafeSSEConfig, SafeSSEPlugin
from tests.doctor.secret import SECRET

PING_INTERVAL = 3.0
"""Seconds; more than the idle time-out that is too short."""


def note_startup() -> None:
    """Tells the tests that the server is ready."""
    with open(os.environ["SAFE_SSE_RECORDS"], "a") as records:
        records.write(json.dumps({"what": "startup", "key": "", "at": time.monotonic(), "pid": os.getpid()}) + "\n")


app = Litestar(
    plugins=[SafeSSEPlugin(SafeSSEConfig(doctor=SECRET, ping_interval=PING_INTERVAL, cleanup_timeout=1))],
    on_startup=[note_startup],
)


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """The application on a server that tells nobody of clients that have left, and whose connections nobody finds."""
    out_of_sight = [send]

    async def receive_requests() -> Any:
        message = await receive()
        if message["type"] == "http.disconnect":
            await anyio.sleep_forever()
        return message

    async def send_out_of_sight(message: Any) -> None:
        await out_of_sight[0](message)

    is_http = scope["type"] == "http"
    await app(scope, receive_requests if is_http else receive, send_out_of_sight if is_http else send)
