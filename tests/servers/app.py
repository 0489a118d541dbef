"""The application that the matrices visit, in a real server process.

What happens is appended to the file that ``SAFE_SSE_RECORDS`` names, a JSON object a line and a ``write`` each, so
that it is there however the process ends. ``SAFE_SSE_FLAVOUR=litestar`` serves the same bodies by Litestar's own
``ServerSentEvent``, for comparison.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import sniffio
from litestar import Litestar, Response, get, post, route
from litestar.background_tasks import BackgroundTask
from litestar.di import Provide
from litestar.enums import HttpMethod
from litestar.response import ServerSentEvent, Stream

from tests.bounds import NEVER
from tests.servers.bodies import CLEANUP_SECONDS, CLEANUP_TIMEOUT, FLOOD_LIMIT, SPECIES, Visit, release
from tests.servers.readers import readers
from tests.servers.restarting import restarting

SAFE = os.environ.get("SAFE_SSE_FLAVOUR", "safe") == "safe"

logging.basicConfig(level=logging.INFO)

_records = os.open(os.environ["SAFE_SSE_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(what: str, key: str = "", **more: Any) -> None:
    line = {"what": what, "key": key, "at": time.monotonic(), "pid": os.getpid(), **more}
    os.write(_records, json.dumps(line).encode() + b"\n")


if TYPE_CHECKING or SAFE:
    from litestar_safe_sse import (
        CloseReason,
        SafeServerSentEvent,
        SafeSSEConfig,
        SafeSSEPlugin,
        StreamContext,
    )
    from tests.servers.made import made

    config = SafeSSEConfig(ping_interval=NEVER, send_timeout=NEVER, cleanup_timeout=NEVER)
    plugin = SafeSSEPlugin(config, adopt=True)
else:

    class StreamContext:
        """What one can do with Litestar alone: clean up in a background task."""

        close_reason = None
        closing = False

        def __init__(self) -> None:
            self.stack = AsyncExitStack()
            self.push_async_callback = self.stack.push_async_callback
            self.callback = self.stack.callback

        async def wait_closing(self) -> None:
            await anyio.sleep_forever()

    def SafeServerSentEvent(content: Any, *, stream: Any, **_: Any) -> ServerSentEvent:  # noqa: N802
        return ServerSentEvent(content, background=BackgroundTask(stream.stack.aclose))


gates: dict[str, list[anyio.Event]] = {}
"""Handlers that wait until the test lets them go."""
streams: dict[str, StreamContext] = {}
visits: dict[str, Visit] = {}


def register(stream: StreamContext, key: str) -> None:
    """Three clean-ups, which should run last in, first out, and be able to wait."""

    def reason() -> str | None:
        return getattr(stream.close_reason, "name", None)

    async def clean(what: str) -> None:
        await anyio.lowlevel.checkpoint()
        record(what, key, reason=reason())
        streams.pop(key, None)
        visits.pop(key, None)

    stream.push_async_callback(clean, "registered")
    stream.callback(lambda: record("registered-sync", key, reason=reason()))
    stream.push_async_callback(clean, "registered-last")


async def enter(stream: StreamContext, key: str, gate: str | None) -> None:
    """Registers what is to be cleaned up, and waits until the test lets the visit begin."""
    record("entered", key)
    register(stream, key)
    streams[key] = stream
    if gate is not None:
        opened = anyio.Event()
        gates.setdefault(gate, []).append(opened)
        await opened.wait()


@route("/stream/{name:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def visit(
    stream: StreamContext,
    name: str,
    key: str,
    quiet: bool = False,
    gate: str | None = None,
    fail: bool = False,
    own: float = CLEANUP_SECONDS,
    limit: int = FLOOD_LIMIT,
    send_timeout: float = NEVER,
    ping_interval: float = NEVER,
    max_lifetime: float | None = None,
) -> Response[Any]:
    await enter(stream, key, gate)
    species = SPECIES[name]
    if fail:
        raise RuntimeError("on purpose, in a handler")
    options: dict[str, Any] = {
        "send_timeout": send_timeout,
        "ping_interval": ping_interval,
        "max_lifetime": max_lifetime,
    }
    if species.own == CLEANUP_TIMEOUT:
        options["cleanup_timeout"] = CLEANUP_TIMEOUT
    if not SAFE:
        options["stream"] = stream

    def note(what: str) -> None:
        record(what, key)

    record("returned", key)
    visits[key] = Visit(key, note, stream, quiet=quiet, own=own, limit=limit)
    return SafeServerSentEvent(species.make(visits[key]), **options)


@get("/broken")
async def broken(stream: StreamContext, key: str, gate: str, told: bool = False) -> Response[Any]:
    """A body that fails, and a cleanup that lasts until the gate is opened."""

    async def clean() -> None:
        opened = anyio.Event()
        gates.setdefault(gate, []).append(opened)
        record("cleaning", key)
        await opened.wait()
        record("cleaned", key)

    async def body() -> AsyncIterator[str]:
        yield "one"
        yield "two"
        raise RuntimeError("on purpose, in a body")

    stream.push_async_callback(clean)
    return SafeServerSentEvent(body(), cleanup_timeout=600.0, on_error=str if told else None)


@post("/gate/{name:str}")
async def open_gate(name: str) -> None:
    """Let them go one after another, so that none has to wait for the work of all."""
    for gate in gates.pop(name):
        gate.set()
        await anyio.sleep(0.004)


@post("/revoke")
async def revoke(key: str) -> None:
    await streams[key].aclose(CloseReason.REVOKED)


@get("/download")
async def download() -> Stream:
    """A response that is no stream of events, and takes its client a while."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield b"x" * 65536

    return Stream(parts())


@get("/progress")
async def progress() -> dict[str, int]:
    return {key: visit.yielded for key, visit in visits.items()}


@post("/release")
async def release_threads() -> None:
    release.now()


def trio_tasks() -> Iterator[Any]:
    import trio

    left: list[Any] = [trio.lowlevel.current_root_task()]
    while left:
        yield (task := left.pop())
        left += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def task_names() -> list[str]:
    """The tasks of the event loop; on trio without timers, which are tasks nowhere else."""
    if sniffio.current_async_library() == "trio":
        return sorted(task.name for task in trio_tasks() if task.name != "SSE timer")
    return sorted(str(getattr(task.get_coro(), "__qualname__", task)) for task in asyncio.all_tasks())


@get("/statistics")
async def statistics() -> dict[str, Any]:
    import psutil  # few ask, and each start would take the time of it

    gc.collect()
    process = psutil.Process()
    return {
        "pid": os.getpid(),
        "live": len(plugin.streams) if SAFE else len(streams),
        "tasks": len(task_names()),
        "task_names": task_names(),
        "descriptors": process.num_fds(),
        "threads": threading.active_count(),
        "rss": process.memory_info().rss,
    }


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    record("lifespan-entered")
    yield
    record("lifespan-left")


async def on_startup() -> None:
    record("startup")


async def on_shutdown() -> None:
    record("on-shutdown")


dependencies: dict[str, Callable[..., Any] | Provide] = (
    {} if SAFE else {"stream": Provide(StreamContext, sync_to_thread=False)}
)
more = [*readers(record), *restarting(record), *made(record, enter)] if SAFE else []
app = Litestar(
    [visit, broken, open_gate, revoke, release_threads, download, progress, statistics, *more],
    plugins=[plugin] if SAFE else [],
    dependencies=dependencies,
    on_startup=[on_startup],
    openapi_config=None,
    on_shutdown=[on_shutdown],
    lifespan=[lifespan],
)
