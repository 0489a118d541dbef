"""Handlers that are generators, in whatever state their stream is when the client leaves or the server is stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.servers.clients import Crowd, Leave, fetch
from tests.servers.kinds import VARIANTS, ServerKind, kinds, long_if, parameters
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.responses import Ending

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar has no such handlers")

ALL = [
    "uvicorn-h1-h11-asyncio",
    "uvicorn-h1-httptools-uvloop",
    "granian-h1-asyncio",
    "granian-h2-uvloop",
    "hypercorn-h1-asyncio",
    "hypercorn-h1-trio",
    "daphne-h1",
]

EACH_BY_ITSELF = ("held", "silent", "speaking", "parked")
"""Those that wait for nobody: ended at once."""
WITH_A_GATE = ("dependency", "headers", "thread")
"""Those in which the application is at work on something that is not cut short."""


def each_kind(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", parameters(*names, long=["hypercorn-h1-trio"]))


async def crowd(server: RunningServer, names: tuple[str, ...], visit: str = "") -> Crowd:
    """Opens a stream in each state, and waits until it is there."""
    paths = [f"/{name}?key={name}{visit}" for name in names]
    visitors = await Crowd.open(server.address, server.kind.protocol, paths, tls=server.tls)
    assert await server.records.until_each([f"{name}{visit}" for name in names], "waiting"), server.output()[-3000:]
    return visitors


async def open_gate(server: RunningServer, key: str) -> None:
    await fetch(server.address, server.kind.protocol, f"/open?key={key}", method="POST", tls=server.tls)


def run(scenario: Callable[[RunningServer], Awaitable[None]], kind: ServerKind, directory: Path, *extra: str) -> None:
    with starting(kind, directory, *extra) as server:
        asyncio.run(scenario(server))  # type: ignore[arg-type]


def starting(kind: ServerKind, directory: Path, *extra: str) -> AbstractContextManager[RunningServer]:
    return running(kind, directory, app="tests.servers.prefetching:app", extra=extra)


@pytest.mark.parametrize(
    ("server", "how"),
    [
        pytest.param(
            kind,
            how,
            id=f"{kind.name}-{how.value}",
            marks=long_if(kind.name in VARIANTS),
        )
        for kind in kinds(*ALL, "hypercorn-h2-asyncio", "hypercorn-h2-uvloop")
        for how in ([Leave.FIN, Leave.RST] if kind.protocol == "1.1" else [Leave.RST, Leave.RST_STREAM])
    ],
    indirect=["server"],
    scope="module",  # without which the server would be started for each way
)
def test_client_leaves_in_any_state(server: RunningServer, how: Leave) -> None:
    """The generator ends and is cleaned up, once; what a hook, a dependency or a thread is at comes to its end."""
    visit = f"-{how.value}"
    cleaned = "cleaned: client_disconnected"

    async def until(what: str, *names: str) -> None:
        keys = [f"{name}{visit}" for name in names]
        assert await server.records.until_each(keys, what), server.output()[-3000:]

    def story(name: str) -> list[str]:
        return server.records.story(f"{name}{visit}")

    async def leave() -> None:
        async with await crowd(server, EACH_BY_ITSELF + WITH_A_GATE, visit) as visitors:
            await visitors.leave(how)
        await until(cleaned, *EACH_BY_ITSELF, "headers")
        assert story("dependency") == story("thread") == ["waiting"]
        assert story("headers") == ["waiting", "ended", cleaned]
        for name in WITH_A_GATE:
            await open_gate(server, f"{name}{visit}")
        await until("committed", "headers")
        await until(cleaned, "dependency", "thread")
        for name in (*EACH_BY_ITSELF, "thread"):
            assert story(name) == ["waiting", "ended", cleaned]
        assert story("dependency") == ["waiting", cleaned]

    asyncio.run(leave())


@each_kind(*ALL)
def test_server_is_stopped_in_any_state(kind: ServerKind, tmp_path: Path) -> None:
    """The generator ends and is cleaned up, once, its client is answered, and the server exits."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, EACH_BY_ITSELF) as visitors:
            server.signal(signal.SIGTERM)
            if kind.ends_streams_at_shutdown:
                assert {await visitor.end() for visitor in visitors.streams[:3]} == {Ending.COMPLETE}
            assert [(await visitor.response()).status for visitor in visitors.streams[:3]] == [200] * 3
            await visitors.streams[3].end()
            assert await server.wait_exit() is not None, server.output()[-3000:]
        server.records.read()
        for name in EACH_BY_ITSELF:
            assert server.records.story(name) == ["waiting", "ended", "cleaned: shutdown"], name

    run(stop, kind, tmp_path)


# Daphne cancels each request at once.
@each_kind(*ALL[:6])
def test_server_is_stopped_while_the_application_is_at_work(kind: ServerKind, tmp_path: Path) -> None:
    """What a dependency has registered, and what a hook has begun, is left alone until they have come to their end."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, ("headers", "unhurried")) as visitors:
            server.signal(signal.SIGTERM)
            assert await server.wait_exit() is not None, server.output()[-3000:]
            headers = visitors.streams[0]
            assert (await headers.response()).status == 200
            if kind.ends_streams_at_shutdown:
                assert await headers.end() is Ending.COMPLETE
                assert headers.data == ["one"]
        server.records.read()
        assert server.records.story("unhurried") == ["waiting", "done", "cleaned: shutdown"]
        assert server.records.story("headers") == ["waiting", "ended", "cleaned: shutdown", "committed"]
        assert "left behind" not in server.output()

    run(stop, kind, tmp_path)
