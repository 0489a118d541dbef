"""WebSockets x servers x bodies x ways of leaving, and shutdowns, in real processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bounds import WAIT
from tests.servers.bodies import EVENTS, SPECIES
from tests.servers.kinds import ServerKind, marked
from tests.servers.processes import RunningServer, running
from tests.servers.questions import ask, until_stuck
from tests.servers.test_abort_matrix import problems_of
from tests.servers.test_shutdown_matrix import STILL_THERE, assert_none
from tests.servers.test_shutdown_matrix import problems_of as problems_after_shutdown
from tests.servers.websocket_bodies import ENDLESS
from tests.servers.websocket_clients import Visitor, WayOut, visitors

APP = "tests.servers.websocket_app:app"
REPEATS = 3

KINDS = [
    ServerKind("uvicorn", "1.1", "sansio", ("--ws", "websockets-sansio", "--loop", "asyncio")),
    ServerKind("uvicorn", "1.1", "wsproto", ("--ws", "wsproto", "--loop", "uvloop")),
    ServerKind("granian", "1.1", "asyncio", ("--interface", "asgi", "--http", "1", "--loop", "asyncio")),
    ServerKind("granian", "1.1", "uvloop", ("--interface", "asgi", "--http", "1", "--loop", "uvloop")),
    ServerKind("hypercorn", "1.1", "asyncio", ("--worker-class", "asyncio")),
    ServerKind("hypercorn", "1.1", "trio", ("--worker-class", "trio", "--graceful-timeout", "1")),
    ServerKind("daphne", "1.1", ""),
]
EACH = marked(KINDS, long=["granian-h1-uvloop", "uvicorn-h1-wsproto"])
STOPPED = marked(KINDS, long=["granian-h1-uvloop", "uvicorn-h1-wsproto", "hypercorn-h1-trio"])
"""Each that is told to stop, for which it is started anew."""


@pytest.fixture(scope="module", params=EACH)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    kind: ServerKind = request.param
    with running(kind, tmp_path_factory.mktemp(kind.name), app=APP) as server:
        yield server


@pytest.mark.parametrize("way", WayOut, ids=lambda way: way.name.lower())
def test_body_is_cleaned_up_exactly_once_whichever_way_its_client_leaves(server: RunningServer, way: WayOut) -> None:
    """Nothing but the leaving tells of it: heartbeats and timeouts are hours away."""

    async def visit(quiet: bool) -> list[str]:
        bodies = [name for name in ENDLESS if SPECIES[name].hushes or not quiet]
        keys = [f"{name}.{way.name}.{quiet}.{n}" for name in bodies for n in range(REPEATS)]
        paths = [f"/ws/{key.split('.')[0]}?key={key}{'&quiet=true' if quiet else ''}" for key in keys]
        async with visitors(server, paths) as come:
            if not quiet:
                await asyncio.gather(*(visitor.events(EVENTS) for visitor in come))
            assert await server.records.until_each(keys, "began")
            await asyncio.gather(*(visitor.leave(way) for visitor in come))
            assert await server.records.until_each(keys, "registered"), unfinished(server, keys)
        return [
            problem
            for key in keys
            for problem in problems_of(server, key, SPECIES[key.split(".")[0]], "CLIENT_DISCONNECTED", {1})
        ]

    problems = [problem for quiet in (False, True) for problem in asyncio.run(visit(quiet))]
    assert_none(problems, server)


def unfinished(server: RunningServer, keys: list[str]) -> list[str]:
    return [f"{key}: {server.records.story(key)}" for key in keys if not server.records.of(key, "registered")]


@pytest.mark.parametrize("name", ["flood", "flood_in_task_group"])
def test_client_that_stopped_reading_can_still_leave(server: RunningServer, name: str) -> None:
    """The body waits at its ``yield`` meanwhile, because the server pushes back, or is waited for."""
    keys = [f"{name}.parked.{n}" for n in range(REPEATS)]

    async def stall() -> dict[str, int]:
        async with visitors(server, [f"/ws/{name}?key={key}" for key in keys], stalled=True) as come:
            stuck = await until_stuck(server, keys)
            await asyncio.gather(*(visitor.leave(WayOut.RST) for visitor in come))
            assert await server.records.until_each(keys, "registered"), unfinished(server, keys)
        return stuck

    stuck = asyncio.run(stall())
    assert max(stuck.values()) < 512, "the server takes everything"
    problems = [p for key in keys for p in problems_of(server, key, SPECIES[name], "CLIENT_DISCONNECTED", {1})]
    assert_none(problems, server)


def test_client_that_stays_but_stops_reading_is_given_up(server: RunningServer) -> None:
    """After ``send_timeout`` the stream has ended and cleaned up."""
    keys = [f"flood.stays.{n}" for n in range(REPEATS)]

    async def stay() -> None:
        async with visitors(server, [f"/stalling/flood?key={key}" for key in keys], stalled=True):
            assert await server.records.until_each(keys, "registered"), unfinished(server, keys)

    asyncio.run(stay())
    problems = [p for key in keys for p in problems_of(server, key, SPECIES["flood"], "SEND_TIMEOUT", {1})]
    assert_none(problems, server)


ENDS = [
    ("/ws/completes", "COMPLETED", 1000),
    ("/ws/fails_first", "ERROR", 1011),
    ("/ws/fails_middle", "ERROR", 1011),
    ("/short/await_in_finally", "MAX_LIFETIME", 1001),
    ("/ws/await_in_finally", "REVOKED", 1008),
]


@pytest.mark.parametrize(("path", "reason", "code"), ENDS, ids=lambda value: str(value))
def test_close_code_says_why(server: RunningServer, path: str, reason: str, code: int) -> None:
    """To the client's library, as to a page."""
    name = path.rpartition("/")[2]
    keys = [f"{name}.{reason}.{n}" for n in range(REPEATS)]

    async def stay() -> set[int | None]:
        async with visitors(server, [f"{path}?key={key}" for key in keys]) as come:
            if reason == "REVOKED":
                await asyncio.gather(*(visitor.events(EVENTS) for visitor in come))
                for key in keys:
                    await ask(server, f"/revoke?key={key}", "POST")
            codes = {(await visitor.end())[0] for visitor in come}
            await server.records.until_each(keys, "registered")
            assert all(len(visitor.data) == (0 if name == "fails_first" else EVENTS) for visitor in come)
        return codes

    assert asyncio.run(stay()) == {code}
    assert_none([p for key in keys for p in problems_of(server, key, SPECIES[name], reason, {1})], server)


def test_heartbeats_are_messages_without_data(server: RunningServer) -> None:
    """Which every server delivers."""

    async def listen() -> None:
        async with visitors(server, ["/beating/await_in_finally?key=await_in_finally.beats"]) as (visitor,):
            await visitor.events(EVENTS)
            for _ in range(3):
                assert await asyncio.wait_for(visitor.connection.recv(), WAIT) == "{}"
            await visitor.leave(WayOut.CLOSE)
            assert await server.records.until_each(["await_in_finally.beats"], "registered")

    asyncio.run(listen())


def test_client_resumes_by_the_query_or_by_its_first_message(server: RunningServer) -> None:
    """What can be no ID, or is no message to resume by, is refused by a code, and leaves nothing open."""

    async def resume(path: str, *said: str | bytes) -> object:
        visitor = await Visitor.come(server, path)
        for message in said:
            await visitor.connection.send(message)
        code, _ = await visitor.end()
        return visitor.data[0] if visitor.data else code

    async def all_ways() -> None:
        assert await resume("/hello?key=q1&last_event_id=7") == "after 7"
        assert await resume("/hello?key=q2") == "after None"
        assert await resume("/hello?key=q3&last_event_id=7%0Adata") == 1007
        assert await resume("/hello_first?key=f1", '{"last_event_id": "7"}') == "after 7"
        assert await resume("/hello_first?key=f2", b'{"last_event_id": "7"}') == "after 7"
        assert await resume("/hello_first?key=f3&last_event_id=6", "{}") == "after 6"
        assert await resume("/hello_first?key=f4", "no JSON") == 1007
        assert await resume("/hello_first?key=f5", '{"last_event_id": "7\\n"}') == 1007
        assert await resume("/hello_first?key=f6", '{"last_event_id": 7}') == 1007
        assert await resume("/hello_first?key=f7", '{"last_event_id": "' + "7" * 100_000 + '"}') == 1009

    asyncio.run(all_ways())
    assert asyncio.run(ask(server, "/statistics"))["live"] == 0


@pytest.mark.parametrize("kind", STOPPED)
def test_shutdown_ends_every_stream_by_1001(kind: ServerKind, tmp_path: Path) -> None:
    """Cleaned up before the application's own shutdown; then the server exits."""

    async def stop(server: RunningServer) -> list[str]:
        keys = [f"{name}.{n}" for n, name in enumerate(ENDLESS)]
        async with visitors(server, [f"/ws/{key.split('.')[0]}?key={key}" for key in keys]) as come:
            await asyncio.gather(*(visitor.events(1) for visitor in come))
            server.signal(signal.SIGTERM)
            ends = await asyncio.gather(*(visitor.end() for visitor in come))
            gone = await server.wait_exit()
        server.records.read()
        problems = problems_after_shutdown(server, keys)[1]
        if gone is None:
            problems.insert(0, STILL_THERE)
        return problems + [f"{key}: {end}" for key, end in zip(keys, ends, strict=True) if end[0] != 1001]

    with running(kind, tmp_path, app=APP) as server:
        assert_none(asyncio.run(stop(server)), server)


@pytest.mark.parametrize("kind", STOPPED)
def test_farewell_that_takes_its_time_arrives(kind: ServerKind, tmp_path: Path) -> None:
    """No server closes a WebSocket ahead of its stream, though Uvicorn would after 0.1 seconds."""
    keys = [f"farewell.{n}" for n in range(REPEATS)]

    async def stop(server: RunningServer) -> None:
        async with visitors(server, [f"/patient/farewell?key={key}" for key in keys]) as come:
            await asyncio.gather(*(visitor.events(EVENTS) for visitor in come))
            server.signal(signal.SIGTERM)
            ends = await asyncio.gather(*(visitor.end() for visitor in come))
            assert await server.wait_exit()
            assert [end[0] for end in ends] == [1001] * REPEATS
            assert all(visitor.data[-1] == "farewell" for visitor in come)

    with running(kind, tmp_path, app=APP) as server:
        asyncio.run(stop(server))


@pytest.mark.parametrize("kind", STOPPED)
def test_clients_that_stopped_reading_do_not_hold_up_the_exit(kind: ServerKind, tmp_path: Path) -> None:
    """Bytes that nobody takes are given up: the bodies are cleaned up, and the process goes."""
    keys = [f"flood.{n}" for n in range(REPEATS)]

    async def stop(server: RunningServer) -> list[str]:
        async with visitors(server, [f"/ws/flood?key={key}" for key in keys], stalled=True):
            await until_stuck(server, keys)
            server.signal(signal.SIGTERM)
            gone = await server.wait_exit()
        server.records.read()
        return ([] if gone else [STILL_THERE]) + problems_after_shutdown(server, keys)[1]

    with running(kind, tmp_path, app=APP) as server:
        assert_none(asyncio.run(stop(server)), server)


@pytest.mark.parametrize("way", [WayOut.RST, WayOut.CLOSE], ids=lambda way: way.name.lower())
@pytest.mark.parametrize("server", [each for each in EACH if "trio" not in str(each.id)], indirect=True)
def test_litestar_gives_up_a_finally_at_its_first_await(server: RunningServer, way: WayOut) -> None:
    """Which is why there is this package: the same body, streamed by ``@websocket_stream``, begins to clean up only."""
    own, theirs = f"await_in_finally.own.{way.name}", f"await_in_finally.theirs.{way.name}"

    async def leave() -> None:
        paths = [f"/ws/await_in_finally?key={own}", f"/litestar/await_in_finally?key={theirs}"]
        async with visitors(server, paths) as (ours, other):
            await ours.events(EVENTS)
            for _ in range(EVENTS):
                await asyncio.wait_for(other.connection.recv(), WAIT)
            await other.leave(way)
            assert await server.records.until_each([theirs], "ending")
            await ours.leave(way)
            assert await server.records.until_each([own], "registered")

    asyncio.run(leave())
    assert server.records.story(own)[1:4] == ["began", "ending", "ended"]
    assert server.records.story(theirs) == ["began", "ending"]
