"""Clients that have stopped reading, where the scope does not say which connection is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from tests.bounds import NEVER, SHORT, WAIT
from tests.servers.clients import Crowd
from tests.servers.http1 import Http1Stream
from tests.servers.http2 import Http2Connection
from tests.servers.kinds import KINDS, ServerKind, long_if
from tests.servers.nginx import nginx
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.responses import Ending

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar's own response waits for them for ever")

EXIT = 15.0
"""Seconds within which a server exits that would otherwise wait for ever, or as long as ``GRACEFUL``."""

GRACEFUL = ("--graceful-timeout", "60")
"""The options by which Hypercorn waits for its connections for a minute, in place of three seconds."""

WITHOUT_LIFESPAN = ("--interface", "asginl")


@dataclass(frozen=True)
class Place:
    """A server, and how its clients reach it.

    Attributes:
        kind: The name of the server's kind.
        name: What the place is called.
        app: The application, which may be told of another client than the server knows.
        extra: More options of the server.
        on_unix_socket: Whether it listens at a Unix socket.
        behind_nginx: Whether nginx stands in front.
    """

    kind: str
    name: str
    app: str = "app:app"
    extra: tuple[str, ...] = ()
    on_unix_socket: bool = False
    behind_nginx: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"

    @property
    def server_kind(self) -> ServerKind:
        kind = KINDS[self.kind]
        graceful = GRACEFUL if kind.server == "hypercorn" and not kind.trio else ()
        return replace(kind, arguments=(*kind.arguments, *graceful, *self.extra))


UVICORN, GRANIAN, HYPERCORN, DAPHNE = (
    "uvicorn-h1-h11-asyncio",
    "granian-h1-asyncio",
    "hypercorn-h1-asyncio",
    "daphne-h1",
)

GRANIAN_BEHIND_NGINX = Place(GRANIAN, "nginx", "rewriting:granian", behind_nginx=True)
GRANIAN_WITHOUT_LIFESPAN = Place(GRANIAN, "without-lifespan", "rewriting:writing", extra=WITHOUT_LIFESPAN)
GRANIAN_ON_UNIX_SOCKET = Place(GRANIAN, "unix-socket", on_unix_socket=True)
HYPERCORN_ON_UNIX_SOCKET = Place(HYPERCORN, "unix-socket", on_unix_socket=True)

ONE_OF_EACH = [
    Place(UVICORN, "nginx", extra=("--proxy-headers", "--forwarded-allow-ips", "*"), behind_nginx=True),
    GRANIAN_ON_UNIX_SOCKET,
    HYPERCORN_ON_UNIX_SOCKET,
    Place(DAPHNE, "nginx", extra=("--proxy-headers",), behind_nginx=True),
]
OTHERS = [
    GRANIAN_WITHOUT_LIFESPAN,
    Place("hypercorn-h1-trio", "written-scope", "rewriting:writing"),
]
LIKE_PLACES = [
    Place("uvicorn-h1-httptools-uvloop", "unix-socket", on_unix_socket=True),
    Place(GRANIAN, "copied-scope", "rewriting:copying"),
    Place("hypercorn-h1-uvloop", "written-scope", "rewriting:writing"),
    Place(DAPHNE, "unix-socket", on_unix_socket=True),
]
"""Those that share what may go wrong with one of the others."""

MORE_PLACES = [
    GRANIAN_BEHIND_NGINX,
    Place(GRANIAN, "written-scope", "rewriting:writing"),
    Place(GRANIAN, "nginx-unix-socket", on_unix_socket=True, behind_nginx=True),
    Place(HYPERCORN, "nginx", "rewriting:hypercorn", behind_nginx=True),
    Place(HYPERCORN, "nginx-unix-socket", on_unix_socket=True, behind_nginx=True),
    Place("hypercorn-h1-trio", "unix-socket", on_unix_socket=True),
]
"""Those that differ little from one of the others."""


def places(*some: Place, long: Sequence[Place] = ()) -> pytest.MarkDecorator:
    parameters = [pytest.param(place, id=str(place), marks=long_if(place in long)) for place in (*some, *long)]
    return pytest.mark.parametrize("place", parameters)


@contextlib.contextmanager
def served(place: Place, directory: Path, workers: int = 1) -> Iterator[RunningServer]:
    """A server, and nginx in front of it if that is the place."""
    options = {"app": f"tests.servers.{place.app}", "workers": workers}
    with contextlib.ExitStack() as stack:
        on_unix_socket = place.on_unix_socket
        server = stack.enter_context(running(place.server_kind, directory, on_unix_socket=on_unix_socket, **options))
        if place.behind_nginx:
            server.address = stack.enter_context(nginx(server.address, directory / "nginx"))
        yield server


def floods(name: str, count: int, send_timeout: float) -> dict[str, str]:
    """The paths of bodies that yield more than any reader takes, by key."""
    keys = [f"flood.{name}.{n}" for n in range(count)]
    return {key: f"/stream/flood?key={key}&send_timeout={send_timeout}" for key in keys}


async def stalled(server: RunningServer, paths: Sequence[str]) -> Crowd:
    """Clients that ask, and read nothing."""
    return await Crowd.open(server.address, "1.1", paths, stalled=True)


async def wait_given_up(server: RunningServer, keys: Sequence[str]) -> None:
    assert await server.records.until_each(keys, "registered", within=WAIT), server.output()[-3000:]
    assert {record["reason"] for key in keys for record in server.records.of(key, "registered")} == {"SEND_TIMEOUT"}


async def stop(server: RunningServer, within: float = EXIT) -> None:
    """Has the server exit, soon and in silence, after each clean-up has run once."""
    at = server.signal(signal.SIGTERM)
    gone = await server.wait_exit(WAIT)
    assert gone is not None, server.output()[-3000:]
    assert gone - at < within, server.output()[-3000:]
    server.records.read()
    for key in {record["key"] for record in server.records.named("entered")}:
        story = Counter(what for what in server.records.story(key) if what.startswith("registered"))
        assert story == {"registered": 1, "registered-sync": 1, "registered-last": 1}, server.records.story(key)
    assert "Traceback" not in server.output(), server.output()[-3000:]


@places(*ONE_OF_EACH, *OTHERS, long=[*LIKE_PLACES, *MORE_PLACES])
def test_server_exits_though_clients_take_nothing(place: Place, tmp_path: Path) -> None:
    """Nobody who has stopped reading holds up the exit, wherever the server listens and whatever stands in front."""

    async def stop_when_stuck(server: RunningServer) -> None:
        stay, leave = floods("stays", 3, NEVER), floods("is-given-up", 2, SHORT)
        async with await stalled(server, [*stay.values(), *leave.values()]):
            await wait_given_up(server, [*leave])  # the others have been stuck for as long
            await stop(server)

    with served(place, tmp_path) as server:
        asyncio.run(stop_when_stuck(server))


@places(HYPERCORN_ON_UNIX_SOCKET, long=[GRANIAN_BEHIND_NGINX, GRANIAN_ON_UNIX_SOCKET])
def test_both_workers_exit_though_clients_take_nothing(place: Place, tmp_path: Path) -> None:
    """Each worker finds the clients that are its own."""

    async def stop_when_stuck(server: RunningServer) -> None:
        stay, leave = floods("stays", 8, NEVER), floods("is-given-up", 8, SHORT)
        async with await stalled(server, [*stay.values(), *leave.values()]):
            await wait_given_up(server, [*leave])
            await stop(server)

    with served(place, tmp_path, workers=2) as server:
        asyncio.run(stop_when_stuck(server))


@places(*ONE_OF_EACH, long=[*OTHERS, *LIKE_PLACES])
def test_client_that_is_given_up_loses_its_connection(place: Place, tmp_path: Path) -> None:
    """After ``send_timeout`` the connection is closed, others go on, and the exit finds nothing to wait for."""

    async def lose_one(server: RunningServer) -> None:
        ticking = await Http1Stream.open(server.address, "/stream/await_in_finally?key=await.0&ping_interval=0.05")
        paths = floods("is-given-up", 3, SHORT)
        async with await stalled(server, [*paths.values()]) as crowd:
            await wait_given_up(server, [*paths])
            # What the kernels of both sides hold still comes.
            assert {await stream.end() for stream in crowd.streams} <= {Ending.CUT, Ending.RESET}
        seen = ticking.parser.comments
        with anyio.fail_after(WAIT):
            while ticking.parser.comments < seen + 3:
                assert ticking.ending is None
                await ticking._more()
        await stop(server)
        ticking.wire.close()
        told = "ASGI callable returned without completing response." in server.output()
        assert told is (place.server_kind.server == "uvicorn")  # as the documentation says

    with served(place, tmp_path) as server:
        asyncio.run(lose_one(server))


@pytest.mark.parametrize(
    "kind", ["granian-h2-uvloop", "hypercorn-h2-uvloop", pytest.param("hypercorn-h2-trio", marks=pytest.mark.long)]
)
def test_shared_connection_of_a_client_that_was_given_up_does_not_hold_up_the_exit(kind: str, tmp_path: Path) -> None:
    """Over HTTP/2, where a client that takes nothing keeps its connection at first, the exit drops it."""

    async def stop_after_giving_up(server: RunningServer) -> None:
        paths = floods("is-given-up", 2, SHORT)
        assert not isinstance(server.address, str)
        connection = await Http2Connection.open(server.address)
        await connection.widen()
        for path in paths.values():
            await connection.get(path)
        await connection.detach()
        await wait_given_up(server, [*paths])
        await stop(server)
        await connection.close()

    with served(Place(kind, "stalled"), tmp_path) as server:
        asyncio.run(stop_after_giving_up(server))


@pytest.mark.long
@places(GRANIAN_ON_UNIX_SOCKET, GRANIAN_WITHOUT_LIFESPAN)
def test_client_that_goes_on_reading_keeps_its_connection(place: Place, tmp_path: Path) -> None:
    """Where streams are told from other responses by their clients' taking nothing, one that reads loses nothing."""

    async def read_slowly(download: Http1Stream) -> None:
        while download.ending is None:
            await download._more()
            await asyncio.sleep(0.05)  # at 5 MB a second it takes longer than the search for those who read nothing

    async def stop_during_download(server: RunningServer) -> None:
        stay, leave = floods("stays", 2, NEVER), floods("is-given-up", 1, SHORT)
        async with await stalled(server, [*stay.values(), *leave.values()]):
            await wait_given_up(server, [*leave])
            download = await Http1Stream.open(server.address, "/download")
            await download.response()
            reading = asyncio.create_task(read_slowly(download))
            await stop(server, within=WAIT)  # it waits for the download
            await reading
            assert download.ending is Ending.COMPLETE
            download.wire.close()

    with served(place, tmp_path) as server:
        asyncio.run(stop_during_download(server))
