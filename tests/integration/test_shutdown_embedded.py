"""``ShutdownWatch`` on servers embedded in this process."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial

import granian.constants
import granian.server.embed
import hypercorn.asyncio
import hypercorn.asyncio.run
import hypercorn.config
import hypercorn.trio
import hypercorn.trio.run
import pytest
import uvicorn

from litestar_safe_sse._servers.shutdown import ShutdownWatch
from tests.bounds import WAIT
from tests.integration.app import HeldOpen
from tests.integration.embedded import Embedded, InThread, serve_with_hypercorn
from tests.integration.watches import Log
from tests.ports import free_port


def test_uvicorn_in_a_thread() -> None:
    """A Uvicorn in a thread, where there are no signals, is watched through its shutdown method, until that is over."""
    embedded = Embedded()
    server = embedded.uvicorn()
    with InThread(server.run):
        embedded.wait_for("started")
        connection = embedded.hold()
        server.should_exit = True
        embedded.expect_drain(connection)
    assert "shutdown" not in vars(server)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_watches_on_one_uvicorn(first_out: int) -> None:
    """Two watches are hooked into the same server, are both notified, and leave it as it was, whichever goes first."""
    notified: list[str] = []
    server = uvicorn.Server(uvicorn.Config(HeldOpen(lambda *args, **kwargs: None, watches=0), port=free_port()))

    async def main() -> None:
        serving = asyncio.create_task(server._serve())
        await asyncio.sleep(0)
        watches = [ShutdownWatch(partial(notified.append, name), Log()) for name in ("below", "above")]
        for watch in watches:
            watch.install()
        server.should_exit = True
        await asyncio.wait_for(serving, WAIT)
        for watch in (watches[first_out], watches[1 - first_out]):
            watch.uninstall()

    asyncio.run(main())
    assert notified == ["above", "below"]
    assert "shutdown" not in vars(server)


def test_two_uvicorns_in_one_loop() -> None:
    """Of two Uvicorns in one event loop, only the streams of the one that stops are notified."""
    first, second = Embedded(), Embedded()
    servers = first.uvicorn(), second.uvicorn()

    async def main() -> None:
        await asyncio.gather(*(server._serve() for server in servers))

    with InThread(lambda: asyncio.run(main())):
        first.wait_for("started")
        second.wait_for("started")
        connections = first.hold(), second.hold()
        servers[0].should_exit = True
        first.expect_drain(connections[0])
        assert second.is_quiet()
        servers[1].should_exit = True
        second.expect_drain(connections[1])


def test_granian_embedded() -> None:
    """An embedded Granian is watched through its shutdown method; its scopes keep the addresses it has put there."""
    embedded, before = Embedded(), vars(granian.server.embed)["_new_cbscheduler"]
    loops: queue.Queue[tuple[asyncio.AbstractEventLoop, granian.server.embed.Server]] = queue.Queue()

    async def main() -> None:
        server = granian.server.embed.Server(
            embedded.app, port=embedded.port, interface=granian.constants.Interfaces.ASGI, log_enabled=False
        )
        loops.put((asyncio.get_running_loop(), server))
        await server.serve()

    with InThread(lambda: asyncio.run(main())):
        loop, server = loops.get(timeout=WAIT)
        embedded.wait_for("started")
        connection = embedded.hold()
        loop.call_soon_threadsafe(server.stop)
        port = connection.getsockname()[1]
        assert f"x-client-port: {port}\r\n".encode() in embedded.expect_drain(connection)
    assert vars(granian.server.embed)["_new_cbscheduler"] is before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_hypercorn_in_threads(backend: str) -> None:
    """Of two Hypercorns in one process, only the streams of the one that stops are notified; then all is as it was."""
    modules = hypercorn.asyncio.run, hypercorn.trio.run
    before = [vars(module)["raise_shutdown"] for module in modules]
    first, second = Embedded(), Embedded(watches=2)
    stops = threading.Event(), threading.Event()
    with (
        InThread(partial(serve_with_hypercorn, first, backend, stops[0])),
        InThread(partial(serve_with_hypercorn, second, backend, stops[1])),
    ):
        first.wait_for("started")
        second.wait_for("started")
        connections = first.hold(), second.hold()
        stops[0].set()
        first.expect_drain(connections[0])
        assert second.is_quiet()
        stops[1].set()
        second.wait_for("notified")
        second.expect_drain(connections[1])
    assert [vars(module)["raise_shutdown"] for module in modules] == before
