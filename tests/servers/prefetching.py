"""An application whose handlers are generators, each of which waits in another state of its stream."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from litestar import Litestar, post
from litestar.di import Provide
from litestar.types import Message, Scope

from litestar_safe_sse import SafeSSEConfig, SafeSSEPlugin, StreamContext, sse
from tests.bounds import NEVER

_records = os.open(os.environ["SAFE_SSE_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
GRACE = 0.3

_gates: dict[str, anyio.Event] = {}


def record(what: str, key: str = "") -> None:
    line = {"what": what, "key": key, "at": time.monotonic(), "pid": os.getpid()}
    os.write(_records, json.dumps(line).encode() + b"\n")


def register(stream: StreamContext, key: str) -> None:
    """Has a cleanup of the stream recorded, with the reason."""

    async def clean() -> None:
        await anyio.sleep(0.001)
        record(f"cleaned: {stream.close_reason}", key)

    stream.push_async_callback(clean)


async def at_gate(key: str) -> None:
    """Waits until the test lets it go."""
    gate = _gates[key] = anyio.Event()
    record("waiting", key)
    await gate.wait()


async def ending(key: str) -> None:
    """What a body awaits while it ends."""
    with anyio.CancelScope(shield=True):  # needed on trio only
        await anyio.sleep(0.001)
    record("ended", key)


async def slow_dependency(key: str, stream: StreamContext) -> str:
    register(stream, key)
    await at_gate(key)
    return key


async def unhurried_dependency(key: str, stream: StreamContext) -> str:
    """Is told of the shutdown, and takes longer than bodies have for their farewell."""
    register(stream, key)
    record("waiting", key)
    await stream.wait_closing()
    await anyio.sleep(3 * GRACE)
    record("done", key)
    _gates["headers"].set()
    return key


def depending(path: str, provide: Any) -> Any:
    """Makes a handler that waits in a dependency, ahead of everything."""

    @sse(path, dependencies={"name": Provide(provide)})
    async def handler(name: str) -> AsyncIterator[str]:
        yield name
        await anyio.sleep_forever()

    return handler


def silent(path: str, prefetch: float) -> Any:
    @sse(path, prefetch=prefetch)
    async def handler(key: str, stream: StreamContext) -> AsyncIterator[str]:
        register(stream, key)
        try:
            await at_gate(key)
            yield "never"
        finally:
            await ending(key)

    return handler


@sse("/speaking", prefetch=NEVER)
async def speaking(key: str, stream: StreamContext) -> AsyncIterator[str]:
    """Waits behind its first event."""
    register(stream, key)
    try:
        yield "one"
        await at_gate(key)
    finally:
        await ending(key)


@sse("/parked", prefetch=NEVER)
async def parked(key: str, stream: StreamContext) -> AsyncIterator[str]:
    """Never waits by itself."""
    register(stream, key)
    try:
        record("waiting", key)
        while True:
            yield "x" * 10_000
    finally:
        await ending(key)


@sse("/headers", prefetch=NEVER)
async def headers(key: str, stream: StreamContext) -> AsyncIterator[str]:
    """Is held at its first event while a hook is at work on the headers."""
    register(stream, key)
    try:
        yield "one"
        await anyio.sleep_forever()
    finally:
        await ending(key)


@sse("/thread", prefetch=NEVER)
def thread(key: str, stream: StreamContext) -> Iterator[str]:
    """Is in a step of its thread ahead of the first event."""
    register(stream, key)
    gate = _threads[key] = threading.Event()
    try:
        record("waiting", key)
        gate.wait()
        yield "one"
    finally:
        record("ended", key)


_threads: dict[str, threading.Event] = {}


async def before_send(message: Message, scope: Scope) -> None:
    """A hook that commits with the headers."""
    if message["type"] == "http.response.start" and scope["path"] == "/headers":
        key = scope["query_string"].decode().removeprefix("key=")
        await at_gate(key)
        record("committed", key)


@post("/open")
async def open_gate(key: str) -> None:
    """Lets one go that waits."""
    (_threads.get(key) or _gates[key]).set()


async def on_startup() -> None:
    record("startup")


app = Litestar(
    [
        depending("/dependency", slow_dependency),
        depending("/unhurried", unhurried_dependency),
        silent("/held", NEVER),
        silent("/silent", 0.01),
        speaking,
        parked,
        headers,
        thread,
        open_gate,
    ],
    plugins=[SafeSSEPlugin(SafeSSEConfig(ping_interval=NEVER, shutdown_grace=GRACE, cleanup_timeout=30.0))],
    before_send=[before_send],
    on_startup=[on_startup],
    openapi_config=None,
)
