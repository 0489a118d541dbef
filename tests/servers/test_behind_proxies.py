"""What proxies make of streams: of their headers, of their ends, and of clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.bounds import WAIT
from tests.proxies import KINDS, configured, proxy
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import long_if, parameters
from tests.servers.processes import FLAVOUR, RunningServer
from tests.servers.questions import ask
from tests.servers.responses import Ending

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar's own response is only measured")

EACH = ["uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", "hypercorn-h1-asyncio", "daphne-h1"]

each_server = pytest.mark.parametrize("server", parameters(*EACH), indirect=True)

SAYS_NO_MORE = "proxy_buffering off;"
"""nginx as it comes, which speaks HTTP/1.0 to a server."""

ADVISED = 'proxy_http_version 1.1; proxy_set_header Connection "";'
"""The lines that the documentation gives."""


@each_server
def test_headers_pass_a_proxy_that_compresses_before_there_is_an_event(server: RunningServer, tmp_path: Path) -> None:
    """Caddy keeps them back until the response's body begins, which it does at once, by a comment."""
    with (
        proxy(KINDS["caddy"], "compression", server.port, tmp_path / "caddy") as port,
        httpx.stream(
            "GET",
            f"http://127.0.0.1:{port}/stream/await_in_finally?key=compressed&quiet=true",
            headers={"accept-encoding": "gzip"},
            timeout=WAIT,
        ) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-encoding"] == "gzip"
    assert asyncio.run(server.records.until_each(["compressed"], "registered", within=WAIT))


@contextmanager
def nginx(server: RunningServer, lines: str, directory: Path) -> Iterator[tuple[str, int]]:
    with configured(KINDS["nginx"], lines, directory, upstream=server.port) as port:
        yield "127.0.0.1", port


async def broken(server: RunningServer, address: tuple[str, int], key: str, *, told: bool) -> tuple[list[str], Ending]:
    """Reads to its end a stream whose body fails."""
    client = await Http1Stream.open(address, f"/broken?key={key}&gate={key}{'&told=true' if told else ''}")
    assert await server.records.until_each([key], "cleaning", within=WAIT)
    await ask(server, f"/gate/{key}", method="POST")
    ending = await client.end()
    client.wire.close()
    return client.data, ending


@each_server
def test_a_cut_can_be_told_by_an_event_wherever_a_proxy_ends_it_properly(server: RunningServer, tmp_path: Path) -> None:
    """nginx takes the end of an HTTP/1.0 connection for that of the response; by HTTP/1.1 it knows better."""

    async def read(address: tuple[str, int], key: str) -> Ending:
        assert await broken(server, address, f"{key}-told", told=True) == (
            ["one", "two", "on purpose, in a body"],
            Ending.COMPLETE,
        )
        data, ending = await broken(server, address, key, told=False)
        assert data == ["one", "two"]
        return ending

    with nginx(server, SAYS_NO_MORE, tmp_path / "plain") as address:
        as_it_comes = asyncio.run(read(address, "plain"))
    with nginx(server, ADVISED, tmp_path / "advised") as address:
        as_advised = asyncio.run(read(address, "advised"))
    ends_properly = {"daphne"}  # by itself
    assert (as_it_comes is Ending.COMPLETE) is (server.kind.server in {"granian", "hypercorn", *ends_properly})
    assert (as_advised is Ending.COMPLETE) is (server.kind.server in ends_properly)


@pytest.mark.long
@each_server
def test_a_cut_is_passed_on_by_traefik(server: RunningServer, tmp_path: Path) -> None:
    """As it comes: it speaks HTTP/1.1 to servers."""
    with configured(KINDS["traefik"], "", tmp_path / "traefik", upstream=server.port) as port:
        data, ending = asyncio.run(broken(server, ("127.0.0.1", port), "traefik", told=False))
    assert data == ["one", "two"]
    assert (ending is Ending.COMPLETE) is (server.kind.server == "daphne")


BEHIND = {
    "nginx": KINDS["nginx"].faults["none"],
    "haproxy": "",
    "apache": "",
    "caddy": KINDS["caddy"].faults["none"],
    "traefik": "",
    "caddy-flushing": "reverse_proxy 127.0.0.1:{upstream} {{\n flush_interval -1\n}}",
}


@pytest.mark.parametrize("server", parameters(EACH[0]), indirect=True)
@pytest.mark.parametrize("behind", [pytest.param(each, marks=long_if(each == "traefik")) for each in BEHIND])
def test_a_client_that_leaves_a_silent_stream_is_noticed_by_heartbeats(
    server: RunningServer, behind: str, tmp_path: Path
) -> None:
    """Some proxies close their side only when there is something to be passed on, and it can't be."""
    kind, key = KINDS[behind.partition("-")[0]], f"silent-{behind}"

    async def visit(address: tuple[str, int]) -> None:
        path = f"/stream/await_in_finally?key={key}&quiet=true&ping_interval=0.2"
        client = await Http1Stream.open(address, path)
        assert (await client.response()).status == 200
        client.wire.close()
        assert await server.records.until_each([key], "registered", within=WAIT)

    with configured(kind, BEHIND[behind], tmp_path / behind, upstream=server.port) as port:
        asyncio.run(visit(("127.0.0.1", port)))
    assert server.records.of(key, "registered")[0]["reason"] == "CLIENT_DISCONNECTED"
