"""Streams that are refused: at a shutdown, beyond a limit, for a wrong ``Last-Event-ID``, or in a cache."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Response, get
from litestar.config.response_cache import ResponseCacheConfig
from litestar.exceptions import ImproperlyConfiguredException
from litestar.stores.memory import MemoryStore

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, StreamContext
from tests.litestar.apps import make_app, serving, serving_defaults
from tests.litestar.bodies import BRIEF, ENDLESS, Closeable, Trace, endless
from tests.litestar.clients import connect, lifespan
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


# Refusals


@pytest.mark.parametrize("injected", [False, True])
async def test_stream_after_the_shutdown_began_is_refused(trace: Trace, injected: bool) -> None:
    """Once a shutdown has begun, a new stream is answered 503 with ``Retry-After``; other handlers still answer."""

    @get("/stream")
    async def with_context(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    @get("/stream")
    async def without() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    @get("/other")
    async def other() -> str:
        return "answered"

    config = SafeSSEConfig(retry_after=2.5, cleanup_timeout=1)
    async with serving(with_context if injected else without, other, config=config) as (app, streams):
        streams.begin_drain()
        response = await request(app, "/stream")
        assert response.status == 503
        assert response.headers["retry-after"] == "3"
        assert trace == []
        assert (await request(app, "/other")).status == 200
        statistics = streams.statistics()
        assert (statistics.opened, statistics.refused, statistics.draining) == (0, 1, True)


@pytest.mark.parametrize(
    ("seconds", "header"), [(0, "0"), (0.001, "1"), (1, "1"), (1.0, "1"), (2.001, "3"), (2.5, "3"), (3.999, "4")]
)
async def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    """``Retry-After`` is in whole seconds, and never sooner than configured."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=SafeSSEConfig(retry_after=seconds)) as (app, streams):
        streams.begin_drain()
        assert (await request(app)).headers["retry-after"] == header


async def test_max_streams(trace: Trace) -> None:
    """Streams beyond ``max_streams`` are answered 503 with ``Retry-After``, until one has ended."""
    config = SafeSSEConfig(max_streams=1, cleanup_timeout=1)
    async with serving_defaults(trace, config=config) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            refused = await request(app, "/brief")
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
        assert (await request(app, "/brief")).status == 200
        assert trace == [*ENDLESS, *BRIEF]
        statistics = streams.statistics()
        assert (statistics.opened, statistics.refused, statistics.draining) == (2, 1, False)


async def test_refused_stream_closes_its_body(trace: Trace) -> None:
    """A body that is refused is closed, since it may hold something already."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace))

    async with serving(handler) as (app, streams):
        streams.begin_drain()
        assert (await request(app)).status == 503
        assert trace == ["closed"]


@pytest.mark.parametrize(
    ("header", "value"),
    [("5", "5"), ("é€".encode(), "é€"), ("", ""), (" spaced ", " spaced "), ("a" * 1024, "a" * 1024), (None, None)],
)
async def test_last_event_id(header: str | bytes | None, value: str | None) -> None:
    """``Last-Event-ID`` is given to the handler as the UTF-8 that the standard makes it."""
    seen: list[str | None] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        seen.append(stream.last_event_id)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        headers = [] if header is None else [("Last-Event-ID", header)]
        assert (await request(app, headers=headers)).status == 200
        assert seen == [value]


@pytest.mark.parametrize("header", [b"a\0b", b"a\rb", b"a\nb", b"\xff", b"a" * 1025])
async def test_last_event_id_that_no_event_can_have_had(trace: Trace, header: bytes) -> None:
    """A ``Last-Event-ID`` that no event can have had, or that is too long, is answered 400, without a stream."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        response = await request(app, headers=[("Last-Event-ID", header)])
        assert response.status == 400
        assert b"Last-Event-ID" in response.body
        assert trace == []
        assert streams.statistics().opened == 0


# Caching


def test_stream_that_is_to_be_cached_is_refused() -> None:
    """With ``cache``, Litestar would keep every event, and replay a stream that was cut: refused at the start."""

    @get("/", cache=True)
    async def handler() -> SafeServerSentEvent:
        raise AssertionError

    with pytest.raises(ImproperlyConfiguredException, match="cannot be cached"):
        make_app(handler)


async def test_stream_of_a_cached_handler_is_refused(trace: Trace) -> None:
    """Where the annotation does not tell, the request is answered 500, and nothing is cached."""

    @get("/", cache=True)
    async def handler() -> Response[Any]:
        return SafeServerSentEvent(endless(trace))

    store = MemoryStore()
    app, streams = make_app(handler, stores={"response_cache": store}, response_cache_config=ResponseCacheConfig())
    async with lifespan(app):
        assert (await request(app)).status == 500
        assert trace == []
        assert len(streams) == 0
        assert store._store == {}
