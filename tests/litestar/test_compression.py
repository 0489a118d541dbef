"""Compressed streams: each event arrives at once, and a client may leave."""

from __future__ import annotations

import gc
import zlib
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from litestar import get
from litestar.config.compression import CompressionConfig

from litestar_safe_sse import CloseReason, SafeServerSentEvent
from tests.litestar.apps import closed, serving, serving_defaults
from tests.litestar.bodies import ENDLESS, Trace
from tests.litestar.clients import connect

pytestmark = pytest.mark.anyio


def decompressor(encoding: str) -> Callable[[bytes], bytes]:
    if encoding == "gzip":
        return zlib.decompressobj(wbits=31).decompress
    brotli = pytest.importorskip("brotli")
    process: Callable[[bytes], bytes] = brotli.Decompressor().process
    return process


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_compressed_events_arrive_at_once(encoding: str) -> None:
    """Each event can be decompressed before the next one is produced."""
    config = CompressionConfig(backend="gzip" if encoding == "gzip" else "brotli", minimum_size=1)
    seen = [anyio.Event() for _ in range(3)]

    async def body() -> AsyncIterator[str]:
        for number, event in enumerate(seen):
            yield f"event {number}"
            await event.wait()

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(body(), comment_message="hello")

    async with serving(handler, compression_config=config) as (app, _):
        async with connect(app, headers=[("accept-encoding", encoding)]) as connection:
            decompress = decompressor(encoding)
            text, read = b"", 0
            for number, event in enumerate(seen):
                while f"event {number}".encode() not in text:
                    await connection.until(lambda: len(connection.bodies) > read)  # noqa: B023
                    text += decompress(connection.bodies[read])
                    read += 1
                event.set()
            await connection.finished()
        assert connection.headers["content-encoding"] == encoding
        assert text.startswith(b": hello\r\ndata: event 0\r\n\r\n")


# Litestar closes its GzipFile at a response's end only; what was left is collected, which Python 3.13 reports.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_compressed_stream_can_be_left(trace: Trace, encoding: str) -> None:
    """A client that leaves a compressed stream ends it as any other."""
    config = CompressionConfig(backend="gzip" if encoding == "gzip" else "brotli", minimum_size=1)
    async with serving_defaults(trace, compression_config=config) as (app, streams):
        async with connect(app, "/endless", headers=[("accept-encoding", encoding)]) as connection:
            await connection.until(lambda: b"".join(connection.bodies))
        assert trace == ENDLESS
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}
    gc.collect()
