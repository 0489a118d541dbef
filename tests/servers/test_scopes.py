"""A scope of anyio's around a request, as a middleware that bounds its time has one, on real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.servers.kinds import ServerKind, parameters
from tests.servers.processes import FLAVOUR, running

pytestmark = pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar has no such handlers")

SOME = ("uvicorn-h1-httptools-uvloop", "granian-h1-asyncio")
OTHERS = ("uvicorn-h1-h11-asyncio", "hypercorn-h1-asyncio", "hypercorn-h1-trio", "daphne-h1")


async def read_and_forget(host: str, port: int) -> None:
    """Asks for the stream, and reads it as fast as it comes."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while await reader.read(1 << 16):
            pass
    finally:
        writer.close()


@pytest.mark.parametrize("kind", parameters(*SOME, *OTHERS, long=OTHERS))
def test_request_is_given_up_though_its_body_never_waits(kind: ServerKind, tmp_path: Path) -> None:
    """The body ends and is cleaned up, once, and only then goes the cancellation on."""

    async def give_up() -> None:
        assert not isinstance(server.address, str)
        reading = asyncio.create_task(read_and_forget(*server.address))
        assert await server.records.until_each(["busy"], "given up"), server.output()[-3000:]
        reading.cancel()  # Daphne leaves a response open that its application has not ended

    with running(kind, tmp_path, app="tests.servers.cutting:app") as server:
        asyncio.run(give_up())
        assert server.records.story("busy") == ["ended", "cleaned: client_disconnected", "given up"]
