"""A request that is read by several: its application, and the listener of its stream, on servers that tell once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio
import pytest

from tests.bounds import WAIT
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import ServerKind, kinds, marked
from tests.servers.processes import RunningServer
from tests.servers.responses import Ending
from tests.servers.wire import Wire

HTTP1 = [kind for kind in kinds() if kind.protocol == "1.1"]
# Daphne begins with a request when all of it has come.
BEGIN_AT_ONCE = [kind for kind in HTTP1 if kind.server != "daphne"]

HTTPTOOLS_ON_ASYNCIO = ServerKind("uvicorn", "1.1", "httptools-asyncio", ("--http", "httptools", "--loop", "asyncio"))


def on(servers: list[ServerKind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", marked(servers), indirect=True)


LARGE = 2_000_000


class Upload(Http1Stream):
    """A POST whose body is sent bit by bit."""

    @classmethod
    @asynccontextmanager
    async def to(cls, server: RunningServer, path: str, length: int, first: bytes = b"") -> AsyncIterator[Upload]:
        """Begins to send, and closes the connection at the end of the block."""
        with closing(await Wire.open(server.address)) as wire:
            stream = cls(wire, path, "POST")
            await stream.ask(path, method="POST", headers=[("Content-Length", str(length))])
            await wire.send(first)
            yield stream


async def ended(server: RunningServer, key: str) -> Any:
    """Waits until the stream has been cleaned up, and returns the reason."""
    assert await server.records.until_each([key], "cleaned", within=WAIT), server.records.story(key)
    (record,) = server.records.of(key, "cleaned")
    return record["reason"]


@on(HTTP1)
def test_a_client_that_leaves_is_noticed_by_all(server: RunningServer) -> None:
    """Watchers that the handler and the body began, and the stream, each learn that the client has left."""

    async def visit() -> None:
        with closing(await Wire.open(server.address)) as wire:
            stream = Http1Stream(wire, "/watched?key=watched", "GET")
            await stream.ask(stream.path)
            await stream.events(1)
        assert await ended(server, "watched") == "CLIENT_DISCONNECTED"
        assert await server.records.until(lambda: len(server.records.of("watched", "watcher knows")) == 2, within=WAIT)

    asyncio.run(visit())


@on(BEGIN_AT_ONCE)
def test_a_handler_that_learnt_it_first(server: RunningServer) -> None:
    """A stream whose handler was told that the client has left, and went on, ends at once."""

    async def visit() -> None:
        async with Upload.to(server, "/abandoned?key=abandoned", 100, b"half"):
            assert await server.records.until_each(["abandoned"], "reading", within=WAIT)
        assert await ended(server, "abandoned") == "CLIENT_DISCONNECTED"
        assert server.records.story("abandoned") == ["reading", "handler knows", "cleaned"]

    asyncio.run(visit())


@on(HTTP1)
def test_the_body_of_the_stream_reads_the_request(server: RunningServer) -> None:
    """``await request.json()`` in a generator works after the client has finished sending."""
    sent = json.dumps({"a": "é" * 100}).encode()

    async def visit() -> None:
        async with Upload.to(server, "/echo?key=echo-after", len(sent), sent) as stream:
            (_, got) = await stream.events(2)
            assert json.loads(got.removeprefix("got ")) == {"a": "é" * 100}
            assert await stream.end() is Ending.COMPLETE
        assert await ended(server, "echo-after") == "COMPLETED"

    asyncio.run(visit())


@on(BEGIN_AT_ONCE)
def test_the_body_of_the_stream_reads_a_request_that_is_being_sent(server: RunningServer) -> None:
    """``await request.json()`` in a generator works before the client has finished sending."""
    sent = json.dumps({"a": "é" * 100}).encode()

    async def visit() -> None:
        async with Upload.to(server, "/echo?key=echo-before", len(sent), sent[:7]) as stream:
            await stream.events(1)
            await stream.wire.send(sent[7:])
            (_, got) = await stream.events(2)
            assert json.loads(got.removeprefix("got ")) == {"a": "é" * 100}
            assert await stream.end() is Ending.COMPLETE
        assert await ended(server, "echo-before") == "COMPLETED"

    asyncio.run(visit())


@on(HTTP1)
def test_a_large_request_is_read_slowly(server: RunningServer) -> None:
    """Nothing of a request is lost that is larger than what is kept of it, and read while it is answered."""

    async def visit() -> None:
        async with Upload.to(server, "/upload?key=upload", LARGE) as stream:
            async with anyio.create_task_group() as group:
                group.start_soon(stream.wire.send, b"x" * LARGE)
                assert await stream.end() is Ending.COMPLETE
            assert stream.data[-1] == str(LARGE)
            assert [int(size) for size in stream.data] == sorted(int(size) for size in stream.data)
        assert await ended(server, "upload") == "COMPLETED"

    asyncio.run(visit())


@on([kind for kind in HTTP1 if kind.name in ("hypercorn-h1-asyncio", "hypercorn-h1-trio", "daphne-h1")])
def test_a_large_request_that_nobody_reads(server: RunningServer) -> None:
    """The client's leaving is noticed behind a request that is larger than what is kept, and that nobody reads."""

    async def visit() -> None:
        async with Upload.to(server, "/ignored?key=ignored", LARGE) as stream, anyio.create_task_group() as group:
            group.start_soon(stream.wire.send, b"x" * LARGE)
            await stream.events(1)
            group.cancel_scope.cancel()
        assert await ended(server, "ignored") == "CLIENT_DISCONNECTED"

    asyncio.run(visit())


@pytest.mark.parametrize("ticks", [False, True], ids=["silent", "ticking"])
@on([*HTTP1, HTTPTOOLS_ON_ASYNCIO])
def test_a_client_that_leaves_behind_another_request_of_its_own_is_noticed(server: RunningServer, ticks: bool) -> None:
    """It has sent the next request on the same connection, of which Uvicorn tells that its client has left."""

    async def visit() -> None:
        with closing(await Wire.open(server.address)) as wire:
            stream = Http1Stream(wire, f"/pipelined?key={ticks}&ticks={ticks}", "GET")
            await stream.ask(stream.path)
            await stream.events(1)
            await stream.ask("/of-nobody")
        assert await ended(server, str(ticks)) == "CLIENT_DISCONNECTED"

    asyncio.run(visit())
    assert "Traceback" not in server.output()
