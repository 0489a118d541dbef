"""What a server waits for when it is stopped, and what becomes of the connections meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.bounds import NEVER, SHORT, WAIT
from tests.servers.clients import Crowd
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import ServerKind, kinds, long_if, parameters
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.responses import Ending, ProtocolError

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar's own response knows no drain")

ALL = [
    "uvicorn-h1-h11-asyncio",
    "uvicorn-h1-httptools-uvloop",
    "granian-h1-asyncio",
    "granian-h2-uvloop",
    "hypercorn-h1-asyncio",
    "hypercorn-h1-trio",
    "daphne-h1",
]

GRACEFUL = ("--graceful-timeout", "60")
"""Hypercorn would cancel what is open after three seconds."""


OF_THEIR_OWN_ACCORD = ["granian-h1-asyncio", "hypercorn-h1-asyncio"]
"""Those that keep no connection when they stop, nor, started as here, cancel a request."""


def each_kind(*names: str, long: Sequence[str] = ()) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", parameters(*names, long=[*long, "hypercorn-h1-trio"]))


def run(
    scenario: Callable[[RunningServer], Awaitable[None]], kind: ServerKind, directory: Path, **environment: str
) -> None:
    """Plays a scenario with a server that does nothing of its own accord while it goes on."""
    extra = GRACEFUL if kind.server == "hypercorn" and not kind.trio else ()
    with running(kind, directory, app="tests.servers.draining:app", extra=extra, environment=environment) as server:
        asyncio.run(scenario(server))  # type: ignore[arg-type]


async def crowd(server: RunningServer, *paths: str) -> Crowd:
    return await Crowd.open(server.address, server.kind.protocol, paths, tls=server.tls)


async def gone(server: RunningServer) -> None:
    assert await server.wait_exit(WAIT) is not None, server.output()[-3000:]
    server.records.read()


def order(server: RunningServer) -> list[str]:
    return [record["what"] for record in server.records.lines if record["what"] not in ("startup",)]


def ends_of(kind: ServerKind) -> list[str]:
    """The end of a response, and of the application; Daphne cancels the request, and runs no lifespan."""
    tasks = ["cleaned", "background", "background-done"]
    return tasks if kind.server == "daphne" else [*tasks, "after-response", "after-response-done", "on-shutdown"]


@each_kind(*ALL)
def test_background_tasks_are_done_before_the_application_shuts_down(kind: ServerKind, tmp_path: Path) -> None:
    """What a response does behind its stream is done by the time that pools are closed, and the server exits."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, "/background?key=k") as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            await gone(server)
        assert order(server) == ends_of(kind), server.output()[-3000:]

    run(stop, kind, tmp_path)


@each_kind(*ALL, long=OF_THEIR_OWN_ACCORD)
def test_background_task_of_a_stream_that_had_ended_is_done_too(kind: ServerKind, tmp_path: Path) -> None:
    """It makes no difference whether the stream has been ended by the shutdown, or had ended before."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, "/background?key=k&ends=true&seconds=0.5") as visitors:
            assert {await visitor.end() for visitor in visitors.streams} == {Ending.COMPLETE}
            assert await server.records.until_each(["k"], "background")
            server.signal(signal.SIGTERM)
            await gone(server)
        assert order(server) == ends_of(kind), server.output()[-3000:]

    run(stop, kind, tmp_path)


WITHOUT_LIFESPAN = {"granian": ("--interface", "asginl"), "uvicorn": ("--lifespan", "off"), "daphne": ()}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        # On Uvicorn it is waited for in the same way, and on Daphne with and without a lifespan.
        pytest.param(
            path, kind, id=f"{path}-{kind.name}", marks=long_if("background" in path and kind.server != "granian")
        )
        for path in ("/slow?key=k&seconds=0.5", "/background?key=k&seconds=0.5")
        for kind in kinds("granian-h1-asyncio", "uvicorn-h1-httptools-uvloop", "daphne-h1")
    ],
)
def test_cleanups_are_done_where_no_lifespan_waits_for_them(kind: ServerKind, tmp_path: Path, path: str) -> None:
    """A server that runs none, or an application that another one has mounted; nor are background tasks cut short."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, path) as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            await gone(server)
        done = [what for what in order(server) if not what.startswith("after-response")]  # Daphne cancels the request
        slow, background = ["cleaning", "cleaned"], ["cleaned", "background", "background-done"]
        assert done == (slow if path.startswith("/slow") else background), server.output()[-3000:]

    kind = replace(kind, arguments=(*kind.arguments, *WITHOUT_LIFESPAN[kind.server]))
    run(stop, kind, tmp_path)


@each_kind(*ALL)
def test_background_task_that_does_not_end_does_not_hold_up_the_exit(kind: ServerKind, tmp_path: Path) -> None:
    """It has as long as everything else, then it is ended, and its response is named."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, f"/background?key=k&seconds={NEVER}") as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            await gone(server)
        assert order(server)[:3] == ["cleaned", "background", "background-ended"]
        assert "SSE background tasks of" in server.output()
        assert "on-shutdown" in order(server) or not kind.has_lifespan

    run(stop, kind, tmp_path, SHUTDOWN_GRACE=str(SHORT), CLEANUP_TIMEOUT=str(SHORT))


@each_kind("daphne-h1", "uvicorn-h1-httptools-uvloop", "uvicorn-h1-h11-asyncio", long=["uvicorn-h1-httptools-uvloop"])
def test_job_is_ended_with_the_grace_of_all_streams_and_not_reported(kind: ServerKind, tmp_path: Path) -> None:
    """A response whose own grace is longer has no longer at a shutdown; it ends in time, so nothing is warned of."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, f"/job?key=long&seconds={NEVER}", "/job?key=short&seconds=0.05") as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            await visitors.streams[1].events(2)
            await gone(server)
        assert [record["key"] for record in server.records.named("cleaned")] == ["short", "long"]
        assert "had not ended" not in server.output()

    run(stop, kind, tmp_path, SHUTDOWN_GRACE="1", CLEANUP_TIMEOUT="1")


@each_kind("uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", "hypercorn-h1-asyncio", "daphne-h1")
def test_connection_of_a_stream_ends_with_it_during_a_drain(kind: ServerKind, tmp_path: Path) -> None:
    """A page that is told to come back does so on a new connection, which may lead to another worker."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, "/slow?key=slow&seconds=2", "/page?key=page") as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            page = visitors.streams[1]
            assert isinstance(page, Http1Stream)
            assert await page.end() is Ending.COMPLETE
            assert page.data == ["one", "farewell"]
            with anyio.fail_after(WAIT):
                assert await page.wire.receive() == b""
            server.records.read()
            assert not server.records.of("slow", "cleaned")  # the drain was still going on
            await gone(server)

    run(stop, kind, tmp_path)


@each_kind("uvicorn-h1-httptools-uvloop", *OF_THEIR_OWN_ACCORD, "daphne-h1", long=OF_THEIR_OWN_ACCORD)
def test_connection_of_a_refused_stream_ends_with_its_answer(kind: ServerKind, tmp_path: Path) -> None:
    """A stream that is refused because of the shutdown does not come again on the same connection."""

    async def stop(server: RunningServer) -> None:
        async with await crowd(server, "/slow?key=slow&seconds=2") as visitors:
            await visitors.events(1)
            server.signal(signal.SIGTERM)
            assert await server.records.until_each(["slow"], "cleaning")
            with contextlib.suppress(OSError, ProtocolError):  # it is not accepted any more
                late = await Http1Stream.open(server.address, "/page?key=late")
                with contextlib.closing(late.wire):
                    await late.response()
                    await late.end()
                    with anyio.fail_after(WAIT):
                        assert await late.wire.receive() == b""
                server.records.read()
                assert not server.records.of("slow", "cleaned")
            await gone(server)
        assert not server.records.of("late", "cleaned")

    run(stop, kind, tmp_path)
