"""The application shuts down: streams end first, while everything they use is still open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from litestar import Litestar, get
from litestar.plugins import InitPlugin
from litestar.stores.memory import MemoryStore

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext
from tests.bounds import WAIT
from tests.litestar.apps import cleaned, closed, endless_and_brief, make_app, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import connect, lifespan

if TYPE_CHECKING:
    from litestar.config.app import AppConfig

pytestmark = pytest.mark.anyio


class RecordingStore(MemoryStore):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    async def __aexit__(self, *_: object) -> None:
        self.trace.append("store closed")


class OtherPlugin(InitPlugin):
    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        @asynccontextmanager
        async def manager(app: Litestar) -> AsyncIterator[None]:
            yield
            self.trace.append("other plugin closed")

        app_config.lifespan.append(manager)
        app_config.on_shutdown.append(lambda: self.trace.append("other plugin's on_shutdown"))
        return app_config


async def test_drain_comes_before_everything_else(trace: Trace) -> None:
    """At shutdown, streams end while all that the application has opened is still open."""

    @asynccontextmanager
    async def manager(app: Litestar) -> AsyncIterator[None]:
        yield
        trace.append("lifespan closed")

    app, streams = make_app(
        *endless_and_brief(trace),
        lifespan=[manager],
        on_shutdown=[lambda: trace.append("on_shutdown")],
        stores={"pool": RecordingStore(trace)},
        plugins_before=[OtherPlugin(trace)],
        plugins_after=[OtherPlugin(trace)],
    )
    async with lifespan(app) as life, connect(app, "/endless") as connection:
        await connection.until_body(b"begun")
        await life.shutdown()
        assert await connection.finished() is None
    assert connection.complete
    assert trace[:3] == ["body begins", "body ends", "cleaned: shutdown"]
    assert sorted(trace[3:]) == sorted(
        [
            "store closed",
            "lifespan closed",
            *["other plugin closed"] * 2,
            *["other plugin's on_shutdown"] * 2,
            "on_shutdown",
        ]
    )
    assert closed(streams) == {CloseReason.SHUTDOWN: 1}


async def test_drain_grants_a_farewell(trace: Trace) -> None:
    """At shutdown, a body that waits for it says farewell, and the client gets it."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            assert not stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
            yield "begun"
            await stream.wait_closing()
            yield f"farewell: {stream.close_reason}"

        return SafeServerSentEvent(body())

    app, _ = make_app(handler)
    async with lifespan(app) as life, connect(app) as connection:
        await connection.until_body(b"begun")
        await life.shutdown()
        await connection.finished()
    assert connection.body.endswith(b"data: farewell: shutdown\r\n\r\n")
    assert connection.complete


async def test_handler_at_work_when_the_application_shuts_down(trace: Trace) -> None:
    """A stream whose handler is still at work at the shutdown is refused when it returns, and its cleanups run."""
    entered, go_on = anyio.Event(), anyio.Event()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        entered.set()
        await go_on.wait()
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            with anyio.fail_after(WAIT):
                await entered.wait()
            streams.begin_drain()
            go_on.set()
            await connection.finished()
        assert connection.status == 503
        assert "retry-after" in connection.headers
        assert trace == ["cleaned: shutdown"]
        assert closed(streams) == {CloseReason.SHUTDOWN: 1}
