"""What a peer in Python tells of itself: an ASGI application in front of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from typing import Any

__all__ = ("with_stats",)


def with_stats(app: Any) -> Any:
    """Answers ``/stats``, and leaves everything else to the application."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/stats":
            await _respond(send)
        else:
            await app(scope, receive, send)

    return application


async def _respond(send: Any) -> None:
    gc.collect()
    # Not asyncio.all_tasks(): a task may have unregistered itself from that.
    tasks = sum(issubclass(type(thing), asyncio.Task) and not thing.done() for thing in gc.get_objects())
    body = json.dumps({"tasks": tasks, "descriptors": len(os.listdir("/proc/self/fd"))}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
