"""Places, revocation and a drain that is spread, in real servers."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.bounds import WAIT
from tests.servers.clients import Crowd, Leave
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import ServerKind, parameters
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.responses import Ending

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar's own response admits whoever comes")

ALL = [
    "uvicorn-h1-h11-asyncio",
    "uvicorn-h1-httptools-uvloop",
    "granian-h1-asyncio",
    "hypercorn-h1-asyncio",
    "hypercorn-h1-trio",
    "daphne-h1",
]

PLACES = 10
"""Those that ``admitting.py`` has for each key."""

GRACEFUL = ("--graceful-timeout", "60")
"""Hypercorn would cancel what is open after three seconds."""

KINDS = parameters(*ALL, long=["hypercorn-h1-trio"])
each_server = pytest.mark.parametrize("server", KINDS, indirect=True)


def starting(kind: ServerKind, directory: Path) -> AbstractContextManager[RunningServer]:
    """A server at which each test comes with users of its own."""
    extra = GRACEFUL if kind.server == "hypercorn" and not kind.trio else ()
    return running(kind, directory, app="tests.servers.admitting:app", extra=extra)


def paths(name: str, count: int, user: str, **more: str) -> list[str]:
    query = "".join(f"&{key}={value}" for key, value in more.items())
    return [f"/stream?key={name}.{number}&user={user}{query}" for number in range(count)]


async def crowd(server: RunningServer, asked: list[str], *, stalled: bool = False) -> Crowd:
    return await Crowd.open(server.address, server.kind.protocol, asked, stalled=stalled)


async def post(server: RunningServer, path: str) -> None:
    async with await Crowd.open(server.address, server.kind.protocol, [path], method="POST") as one:
        assert (await one.streams[0].response()).status == 201


async def wait_cleaned(server: RunningServer, keys: list[str], reason: str) -> None:
    assert await server.records.until_each(keys, "cleaned", within=WAIT), server.output()[-3000:]
    assert [record["reason"] for key in keys for record in server.records.of(key, "cleaned")] == [reason] * len(keys)


async def opened(server: RunningServer) -> list[str]:
    server.records.read()
    return [record["key"] for record in server.records.named("opened")]


@each_server
@pytest.mark.parametrize("how", [Leave.FIN, Leave.RST], ids=lambda how: how.value)
def test_a_crowd_finds_exactly_as_many_places_as_there_are(server: RunningServer, how: Leave) -> None:
    """Of those who come at once so many are served, the others are answered 429, and all places come back."""
    user = f"leaves-by-{how.value}"

    async def come_and_go() -> None:
        for round_ in range(3):
            before = await opened(server)
            async with await crowd(server, paths(f"{user}-{round_}", 50, user)) as visitors:
                statuses = Counter([(await visitor.response()).status for visitor in visitors.streams])
                assert statuses == {200: PLACES, 429: 50 - PLACES}
                served = [key for key in await opened(server) if key not in before]
                assert len(served) == PLACES
                await visitors.leave(how)
                await wait_cleaned(server, served, "client_disconnected")

    asyncio.run(come_and_go())


@each_server
@pytest.mark.parametrize("way", ["revoke", "ban"], ids=["by-key", "when-asked-again"])
def test_who_is_revoked_gets_a_proper_end_and_nothing_more(server: RunningServer, way: str) -> None:
    """Streams of others go on."""
    ann, bob = f"ann-{way}", f"bob-{way}"

    async def revoke() -> None:
        async with (
            await crowd(server, paths(bob, 1, bob)) as others,
            await crowd(server, paths(ann, 3, ann)) as visitors,
        ):
            await others.events(1)
            await visitors.events(1)
            await post(server, f"/{way}?who={ann}")
            assert [await visitor.end() for visitor in visitors.streams] == [Ending.COMPLETE] * 3
            assert [visitor.data for visitor in visitors.streams] == [["one"]] * 3
            await wait_cleaned(server, [f"{ann}.{number}" for number in range(3)], "revoked")
            assert others.streams[0].ending is None
            server.records.read()
            assert not server.records.of(f"{bob}.0", "cleaned")

    asyncio.run(revoke())


@each_server
def test_a_blocked_client_that_is_revoked_loses_its_connection(server: RunningServer) -> None:
    """What the server holds for it is not sent any more."""

    async def revoke() -> None:
        keys = ["blocked.0", "blocked.1"]
        async with await crowd(server, paths("blocked", 2, "blocked", flood="true"), stalled=True) as visitors:
            assert await server.records.until_each(keys, "opened")
            await post(server, "/ban?who=blocked")
            await wait_cleaned(server, keys, "revoked")
            assert {await visitor.end() for visitor in visitors.streams} <= {Ending.CUT, Ending.RESET}

    asyncio.run(revoke())


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_is_spread(kind: ServerKind, tmp_path: Path) -> None:
    """Streams are told one by one, say farewell, and the server exits."""

    async def stop(server: RunningServer) -> None:
        keys = [f"all.{number}" for number in range(8)]
        visitors: list[Http1Stream] = []
        for path in paths("all", 8, "all"):
            visitors.append(await Http1Stream.open(server.address, path))
            await visitors[-1].events(1)
        server.signal(signal.SIGTERM)
        assert {await visitor.end() for visitor in visitors} == {Ending.COMPLETE}
        assert [visitor.data for visitor in visitors] == [["one", "farewell"]] * 8
        assert await server.wait_exit(WAIT) is not None, server.output()[-3000:]
        await wait_cleaned(server, keys, "shutdown")
        told = [*server.records.named("told")]
        assert [record["key"] for record in told] == keys
        assert told[-1]["at"] - told[0]["at"] > 1
        for visitor in visitors:
            visitor.wire.close()

    with starting(kind, tmp_path) as server:
        asyncio.run(stop(server))
