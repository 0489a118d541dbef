"""Refusals that an ``EventSource`` survives: 200, a reconnection time, and a proper end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import MediaType, Request, Response, get, post, route
from litestar.exceptions import HTTPException

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.registry import StreamRegistry
from tests.litestar.apps import collect, serving
from tests.litestar.bodies import Closeable, Trace, endless
from tests.litestar.clients import Connection, connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

EVENT_SOURCE = [("Accept", "text/event-stream")]


def check_reconnects(response: Connection, seconds: float = 1, separator: str = "\r\n") -> None:
    """Asserts that a client is told to come back, after so many seconds or up to twice as many."""
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert "retry-after" not in response.headers
    line = response.body.decode()
    assert line.startswith("retry: ")
    assert line.endswith(separator)
    assert not line.endswith(separator * 2), "a block without data would be an empty event to some clients"
    assert seconds * 1000 <= int(line[len("retry: ") :]) <= seconds * 2000 + 1
    assert response.complete


def handlers(trace: Trace) -> list[Any]:
    """Handlers that learn at different moments that they are refused."""

    @get("/injected")
    async def injected(stream: StreamContext) -> SafeServerSentEvent:
        trace.append("handler")
        return SafeServerSentEvent(endless(trace))

    @get("/plain")
    async def plain() -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace))

    return [injected, plain]


@asynccontextmanager
async def full(*more: Any, **config: Any) -> AsyncIterator[tuple[Any, StreamRegistry]]:
    """An application of which as many streams are open as may be."""

    @get("/endless")
    async def other() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless([]))

    settings = SafeSSEConfig(max_streams=1, cleanup_timeout=1, **config)
    async with serving(*more, other, config=settings) as (app, streams), connect(app, "/endless") as connection:
        await connection.until_body(b"begun")
        yield app, streams


@pytest.mark.parametrize("accept", ["text/event-stream", "text/event-stream, */*;q=0.1", "Text/Event-Stream"])
@pytest.mark.parametrize(("path", "seen"), [("/injected", []), ("/plain", ["closed"])])
async def test_event_source_at_a_shutdown(trace: Trace, path: str, seen: Trace, accept: str) -> None:
    """At a shutdown an ``EventSource`` is told to come back, and its connection is closed; the body is, too."""
    async with serving(*handlers(trace)) as (app, streams):
        streams.begin_drain()
        response = await request(app, path, headers=[("Accept", accept)])
        check_reconnects(response)
        assert response.headers["connection"] == "close"
        assert trace == seen
        assert streams.statistics().refused == 1


@pytest.mark.parametrize("path", ["/injected", "/plain"])
@pytest.mark.parametrize("headers", [[], [("Accept", "*/*")], [("Accept", "application/json")]])
async def test_others_at_a_shutdown(trace: Trace, path: str, headers: Any) -> None:
    """A client that does not name ``text/event-stream`` is answered 503 with ``Retry-After``."""
    async with serving(*handlers(trace)) as (app, streams):
        streams.begin_drain()
        response = await request(app, path, headers=headers)
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_other_methods_at_a_shutdown(method: str) -> None:
    """No ``EventSource`` uses another method than GET: who does is answered 503, and no empty answer."""

    @route("/", http_method=["GET", "HEAD", "POST"])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, streams):
        streams.begin_drain()
        assert (await request(app, method=method, headers=EVENT_SOURCE)).status == 503


async def test_http_2_has_no_connection_header() -> None:
    """The connection of HTTP/2 carries other requests, and knows no such header."""
    async with serving(*handlers([])) as (app, streams):
        streams.begin_drain()
        response = await request(app, "/plain", headers=EVENT_SOURCE, http_version="2")
        check_reconnects(response)
        assert "connection" not in response.headers


@pytest.mark.parametrize(("retry_after", "seconds"), [(0, 0.1), (0.05, 0.1), (2.5, 2.5)])
async def test_reconnection_time_is_spread(retry_after: float, seconds: float) -> None:
    """Clients that are refused together come back one by one, and none of them at once."""
    async with serving(*handlers([]), config=SafeSSEConfig(retry_after=retry_after)) as (app, streams):
        streams.begin_drain()
        told = set()
        for _ in range(20):
            response = await request(app, "/plain", headers=EVENT_SOURCE)
            check_reconnects(response, seconds)
            told.add(response.body)
        assert len(told) > 5


@pytest.mark.parametrize("separator", ["\n", "\r"])
async def test_separator_of_a_refusal(separator: str) -> None:
    """The line ends as those of events do."""
    async with serving(*handlers([]), config=SafeSSEConfig(separator=separator)) as (app, streams):
        streams.begin_drain()
        check_reconnects(await request(app, "/plain", headers=EVENT_SOURCE), separator=separator)


@pytest.mark.parametrize("path", ["/injected", "/plain"])
async def test_beyond_the_limit_by_default(path: str) -> None:
    """Beyond ``max_streams`` an ``EventSource`` is answered 503, as any other: it is the application that is full."""
    async with full(*handlers([])) as (app, _):
        response = await request(app, path, headers=EVENT_SOURCE)
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert "connection" not in response.headers


@pytest.mark.parametrize("path", ["/injected", "/plain"])
async def test_beyond_the_limit_if_asked_to_reconnect(path: str) -> None:
    """With ``on_refusal="reconnect"`` an ``EventSource`` comes back to see whether there is room; others get a 503."""
    async with full(*handlers([]), on_refusal="reconnect", retry_after=3) as (app, _):
        response = await request(app, path, headers=EVENT_SOURCE)
        check_reconnects(response, seconds=3)
        assert "connection" not in response.headers
        assert (await request(app, path)).status == 503


async def test_at_a_shutdown_a_limit_does_not_matter() -> None:
    """Whatever ``on_refusal`` says of a limit, at a shutdown an ``EventSource`` is told to come back."""
    config = SafeSSEConfig(max_streams=1, on_refusal="unavailable")
    async with serving(*handlers([]), config=config) as (app, streams):
        streams.begin_drain()
        check_reconnects(await request(app, "/plain", headers=EVENT_SOURCE))


async def test_stream_whose_handler_is_at_work_when_the_shutdown_begins(trace: Trace) -> None:
    """A stream that was admitted, but whose response comes too late, is refused alike, and cleaned up."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        stream.callback(lambda: trace.append("cleaned"))
        streams.begin_drain()
        return SafeServerSentEvent(Closeable(trace))

    async with serving(handler) as (app, streams):
        check_reconnects(await request(app, headers=EVENT_SOURCE))
        assert sorted(trace) == ["cleaned", "closed"]


@pytest.mark.parametrize("layer", ["app", "handler"])
@pytest.mark.parametrize("kind", [Exception, HTTPException])
@pytest.mark.parametrize("asks", [True, False], ids=["with-context", "without"])
async def test_exception_handlers_of_the_user(asks: bool, layer: str, kind: type[Exception]) -> None:
    """Exception handlers of whole families still have the 503, and leave what an ``EventSource`` is told alone."""

    def answer(_: Request[Any, Any, Any], exc: Exception) -> Response[str]:
        return Response("busy", status_code=429, media_type=MediaType.TEXT)

    at: dict[str, Any] = {name: {kind: answer} if name == layer else {} for name in ("app", "handler")}

    @get("/", exception_handlers=at["handler"])
    async def asking(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    @get("/", exception_handlers=at["handler"])
    async def returning() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(asking if asks else returning, exception_handlers=at["app"]) as (app, streams):
        streams.begin_drain()
        assert (await request(app)).status == 429
        check_reconnects(await request(app, headers=EVENT_SOURCE))
    assert set(at["app"]) <= {kind}, "what the user gave was changed"


@pytest.mark.parametrize("headers", [[], EVENT_SOURCE])
async def test_exception_handler_that_answers_by_a_stream_is_refused(trace: Trace, headers: Any) -> None:
    """A stream that an exception handler makes is refused in the same ways, and not answered 500."""
    seen: list[Exception] = []

    @get("/")
    async def handler() -> None:
        raise LookupError

    def answer(_: Request[Any, Any, Any], exc: Exception) -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace))

    handlers = {Exception: answer}
    async with serving(handler, exception_handlers=handlers, after_exception=[collect(seen)]) as (app, streams):
        streams.begin_drain()
        response = await request(app, headers=headers)
        if headers:
            check_reconnects(response)
        else:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
        assert trace == ["closed"]
        assert [type(exc) for exc in seen] == [LookupError]


async def test_plain_posts_are_answered_at_a_shutdown() -> None:
    """Whoever is no stream is left alone."""

    @post("/")
    async def handler() -> str:
        return "made"

    async with serving(handler) as (app, streams):
        streams.begin_drain()
        assert (await request(app, method="POST", headers=EVENT_SOURCE)).status == 201
