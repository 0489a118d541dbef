"""Figures of a stream and of all streams, to assert on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from litestar import get

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamState
from tests.bounds import WAIT
from tests.litestar.clients import connect
from tests.litestar.clients import get as request
from tests.litestar.logs import endless, serving, streaming

if TYPE_CHECKING:
    from litestar_safe_sse import StreamContext

pytestmark = pytest.mark.anyio


async def test_statistics_of_a_stream() -> None:
    """A stream's statistics are a value that tells what it is doing, at each stage of its life."""
    contexts: list[StreamContext] = []
    go_on = anyio.Event()

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        contexts.append(stream)
        stream.callback(lambda: None)
        statistics = stream.statistics()
        assert statistics.state is StreamState.NEW
        assert statistics.close_reason is None
        assert statistics.cleanups == 1
        assert statistics.events == statistics.bytes_pending == statistics.heartbeats == 0

        async def body() -> AsyncIterator[str]:
            yield "one"
            yield "two"
            await go_on.wait()

        return SafeServerSentEvent(body(), ping_interval=0.01)

    async with serving(a_handler, None) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b": ping")
            (stream,) = contexts
            statistics = stream.statistics()
            assert statistics.id == stream.id
            assert "a_handler" in statistics.handler
            assert statistics.state is StreamState.OPEN
            assert statistics.events == 2 + statistics.heartbeats
            assert statistics.heartbeats >= 1
            assert statistics.bytes_pending == 0
            assert 0 < statistics.age < WAIT
            assert [live.statistics().id for live in streams] == [stream.id]
            go_on.set()
            await connection.finished()
        statistics = stream.statistics()
        assert statistics.state is StreamState.CLOSED
        assert statistics.close_reason is CloseReason.COMPLETED
        assert statistics.cleanups == 0
        assert statistics.heartbeats >= 1
        assert statistics.events == 2 + statistics.heartbeats
        assert list(streams) == []


async def test_statistics_of_the_registry() -> None:
    """The registry's statistics are a value: open, opened, refused, ended by reason, draining."""
    async with serving(streaming(content=endless), None) as (app, streams):
        empty = streams.statistics()
        assert (empty.open, empty.opened, empty.refused, empty.closed, empty.draining) == (0, 0, 0, {}, False)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            assert (streams.statistics().open, streams.statistics().opened) == (1, 1)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            streams.begin_drain()
            assert streams.statistics().draining
            await connection.finished()
        assert (await request(app)).status == 503
        full = streams.statistics()
        assert (full.open, full.opened, full.refused) == (0, 2, 1)
        assert full.closed == {CloseReason.CLIENT_DISCONNECTED: 1, CloseReason.SHUTDOWN: 1}
    assert not streams.statistics().draining
    assert empty.opened == 0
