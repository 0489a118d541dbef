"""``SafeSSEPlugin(adopt=True)``: the streams of other classes, served by ours."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import strawberry
from datastar_py.litestar import DatastarResponse, ServerSentEventGenerator
from litestar import Controller, Litestar, Response, Router, get, post, route
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Cookie
from litestar.di import Provide
from litestar.response import ServerSentEvent, ServerSentEventMessage, Stream
from strawberry.litestar import make_graphql_controller
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    ShortLivedDependencyWarning,
    SSEMessage,
    StreamContext,
    StreamProvide,
)
from litestar_safe_sse._core.registry import StreamRegistry
from litestar_safe_sse.testing import open_stream
from tests.litestar.apps import CONFIG, PLAIN, NamedDependency, cause, cleaned, closed
from tests.litestar.bodies import Trace, brief, endless
from tests.litestar.clients import Connection, connect, lifespan
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@asynccontextmanager
async def adopting(
    *handlers: Any, config: SafeSSEConfig = CONFIG, **options: Any
) -> AsyncIterator[tuple[Litestar, StreamRegistry]]:
    """An application that adopts, whose streams must all have ended by the end of the block."""
    plugin = SafeSSEPlugin(config, adopt=True)
    app = Litestar(handlers, plugins=[plugin], **{**PLAIN, **options})
    async with lifespan(app):
        yield app, plugin.streams
        assert plugin.streams.statistics().open == 0


async def untouched(*handlers: Any, path: str = "/", method: str = "GET") -> Connection:
    """What Litestar answers by itself."""
    async with lifespan(app := Litestar(handlers, **PLAIN)):
        return await request(app, path, method=method)


def chunks(trace: Trace) -> AsyncIterator[bytes]:
    async def body() -> AsyncIterator[bytes]:
        async for item in endless(trace):
            yield f"data: {item}\n\n".encode()

    return body()


async def datastar(trace: Trace) -> AsyncIterator[Any]:
    async for item in endless(trace):
        yield ServerSentEventGenerator.patch_elements(f"<p>{item}</p>")


ENDLESS: dict[str, Callable[[Trace], Any]] = {
    "ServerSentEvent": lambda trace: ServerSentEvent(endless(trace)),  # type: ignore[arg-type]
    "callable": lambda trace: ServerSentEvent(lambda: endless(trace)),  # type: ignore[arg-type]
    "Stream": lambda trace: Stream(chunks(trace), media_type="text/event-stream"),
    "datastar-py": lambda trace: DatastarResponse(datastar(trace)),
}
each_class = pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)


@each_class
async def test_client_that_leaves_ends_the_body_and_then_the_cleanups(
    make: Callable[[Trace], Any], trace: Trace
) -> None:
    """The body may await in its ``finally``, and what the handler registered is cleaned up."""

    @get("/")
    async def handler(stream: StreamContext) -> Response[Any]:
        cleaned(trace, stream)
        return make(trace)  # type: ignore[no-any-return]

    async with adopting(handler) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            assert [stream.handler for stream in streams] == [str(next(iter(app.routes)).route_handlers[0])]  # type: ignore[union-attr]
        assert trace == ["body begins", "body ends", "cleaned: client_disconnected"]


@each_class
async def test_shutdown_ends_it_first(make: Callable[[Trace], Any], trace: Trace) -> None:
    """The application's own hooks come after the streams, as with ours."""

    @get("/")
    async def handler(stream: StreamContext) -> Response[Any]:
        cleaned(trace, stream)
        return make(trace)  # type: ignore[no-any-return]

    plugin = SafeSSEPlugin(CONFIG, adopt=True)
    app = Litestar([handler], plugins=[plugin], on_shutdown=[lambda: trace.append("on_shutdown")], **PLAIN)
    async with lifespan(app) as life, connect(app) as connection:
        await connection.until_body(b"begun")
        await life.shutdown()
        assert trace == ["body begins", "body ends", "cleaned: shutdown", "on_shutdown"]
        assert connection.complete
    assert closed(plugin.streams) == {CloseReason.SHUTDOWN: 1}


async def test_body_parked_at_its_yield_is_closed(trace: Trace) -> None:
    """It is the handler's own generator that is closed, and not what Litestar has put around it."""

    async def body() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            trace.append("body ends")

    @get("/")
    async def handler() -> ServerSentEvent:
        return ServerSentEvent(body())

    async with adopting(handler) as (app, _):
        left = anyio.Event()

        def leave(message: Any) -> None:
            if message.get("body"):
                left.set()

        async with connect(app, on_send=leave):
            await left.wait()
        assert trace == ["body ends"]


async def test_sync_body_has_one_thread(trace: Trace) -> None:
    """It is advanced and closed by one thread, whichever class it was given to."""
    import threading

    def body() -> Iterator[str]:
        trace.append(threading.get_ident())
        try:
            yield "data: one\n\n"
            trace.append(threading.get_ident())
            yield "data: two\n\n"
        finally:
            trace.append(threading.get_ident())

    @get("/event", sync_to_thread=False)
    def event() -> ServerSentEvent:
        return ServerSentEvent(body())

    @get("/chunks", sync_to_thread=False)
    def raw() -> Stream:
        return Stream(body(), media_type="text/event-stream")

    async with adopting(event, raw) as (app, _):
        for path in ("/event", "/chunks"):
            await request(app, path)
            assert len(trace) == 3, path
            assert len(set(trace)) == 1, path
            trace.clear()


ITEMS: list[Any] = [
    "text",
    "two\nlines",
    b"bytes",
    7,
    {"data": {"a": 1}, "event": "other", "id": 5, "retry": 10},
    {"comment": "a comment"},
    ServerSentEventMessage("message", event="third", id="6", sep="\n"),
]


async def items() -> AsyncIterator[Any]:
    for item in ITEMS:
        yield item.copy() if isinstance(item, dict) else item


def everything() -> ServerSentEvent:
    return ServerSentEvent(
        items(),
        background=BackgroundTask(lambda: None),
        cookies=[Cookie("a", "1"), Cookie("b", "2", httponly=True)],
        headers={"X-Own": "yes", "Cache-Control": "private"},
        event_type="kind",
        event_id=3,
        retry_duration=1000,
        comment_message="hello\nthere",
        status_code=202,
    )


def everything_raw() -> Stream:
    return Stream(
        ["data: a\n", b"\nda", "ta: \xe9", "\n\n", "data: unended"],
        headers={"X-Own": "yes"},
        media_type="text/event-stream",
        status_code=202,
        encoding="latin-1",
    )


async def frames() -> AsyncIterator[Any]:
    yield ServerSentEventGenerator.patch_signals({"a": 1})
    yield ServerSentEventGenerator.remove_elements("#gone")


RESPONSES: dict[str, Callable[[], Response[Any]]] = {
    "ServerSentEvent": everything,
    "plain ServerSentEvent": lambda: ServerSentEvent(["a", "b"]),
    "single item": lambda: ServerSentEvent("alone"),
    "Stream": everything_raw,
    "datastar-py": lambda: DatastarResponse(frames(), headers={"X-Own": "yes"}),
    "datastar-py, one event": lambda: DatastarResponse(ServerSentEventGenerator.remove_elements("#gone")),
    "datastar-py, empty": DatastarResponse,
}


@pytest.mark.parametrize("make", RESPONSES.values(), ids=RESPONSES)
async def test_what_it_has_set_is_kept(make: Callable[[], Response[Any]]) -> None:
    """Status, headers, cookies and bytes are those that Litestar sends by itself."""

    def handler() -> Any:
        @get("/", response_headers={"X-Layer": "too"}, response_cookies={"layer": "too"})
        async def answer() -> Response[Any]:
            return make()

        return answer

    expected = await untouched(handler())
    async with adopting(handler()) as (app, streams):
        actual = await request(app)
        assert streams.statistics().opened == (expected.status != 204)
    assert actual.status == expected.status
    assert set(expected.header_list) <= set(actual.header_list)
    assert len(actual.header_list) - len(expected.header_list) <= 2  # what keeps proxies from holding events back
    assert len({name for name, _ in actual.header_list if name != "set-cookie"}) + len(
        actual.header_values("set-cookie")
    ) == len(actual.header_list)
    assert actual.body == expected.body


async def test_background_and_hooks_run_as_ever(trace: Trace) -> None:
    """Once each, after the stream has cleaned up; a hook may still change the response."""

    async def before_request(_: Any) -> None:
        trace.append("before request")

    async def after_request(response: Response[Any]) -> Response[Any]:
        assert isinstance(response, ServerSentEvent)
        response.headers["X-Hook"] = "yes"
        return response

    async def after_response(_: Any) -> None:
        trace.append("after response")

    @get("/", before_request=before_request, after_request=after_request, after_response=after_response)
    async def handler(stream: StreamContext) -> ServerSentEvent:
        cleaned(trace, stream)
        return ServerSentEvent(brief(trace), background=BackgroundTask(trace.append, "background"))  # type: ignore[arg-type]

    async with adopting(handler) as (app, _):
        assert (await request(app)).headers["x-hook"] == "yes"
    ends = ["cleaned: completed", "background", "after response"]
    assert trace == ["before request", "body begins", "body ends", *ends]


async def test_what_is_answered_before_the_handler_is_adopted_too(trace: Trace) -> None:
    """A hook may answer with a stream in the handler's place."""

    async def before_request(_: Any) -> ServerSentEvent:
        return ServerSentEvent(endless(trace))  # type: ignore[arg-type]

    @get("/", before_request=before_request)
    async def handler() -> str:
        return "never"

    async with adopting(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert trace == ["body begins", "body ends"]


async def test_layers_and_later_routes_are_adopted(trace: Trace) -> None:
    """Controllers, routers, routes of several methods, and what is registered later."""

    class Streams(Controller):
        path = "/controller"

        @get()
        async def handler(self) -> ServerSentEvent:
            return ServerSentEvent(["controller"])

    @route("/many", http_method=["GET", "POST"])
    async def many() -> ServerSentEvent:
        return ServerSentEvent(["many"])

    @get("/later")
    async def later() -> ServerSentEvent:
        return ServerSentEvent(["later"])

    async with adopting(Router("/router", route_handlers=[Streams, many])) as (app, streams):
        app.register(later)
        for number, path in enumerate(("/router/controller", "/router/many", "/later"), 1):
            assert (await request(app, path)).status == 200
            assert streams.statistics().opened == number


async def test_post_is_answered_200_unless_the_response_says_otherwise() -> None:
    """Litestar's 201 is nobody's choice, and clients give up on it."""

    @post("/default")
    async def default() -> ServerSentEvent:
        return ServerSentEvent(["x"])

    @post("/chosen")
    async def chosen() -> ServerSentEvent:
        return ServerSentEvent(["x"], status_code=201)

    async with adopting(default, chosen) as (app, _):
        assert (await request(app, "/default", method="POST")).status == 200
        assert (await request(app, "/chosen", method="POST")).status == 201


async def test_head_never_starts_the_body(trace: Trace) -> None:
    """It is answered with the headers, and what the handler has given is closed."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(stream: StreamContext) -> ServerSentEvent:
        cleaned(trace, stream)
        return ServerSentEvent(endless(trace))  # type: ignore[arg-type]

    async with adopting(handler) as (app, _):
        answer = await request(app, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert trace == ["cleaned: completed"]


async def test_other_responses_are_left_alone(trace: Trace) -> None:
    """Downloads, JSON, streams of ours and cached streams are what they were."""

    @get("/download")
    async def download() -> Stream:
        return Stream([b"x"], media_type="application/octet-stream")

    @get("/json")
    async def json() -> dict[str, int]:
        return {"a": 1}

    @get("/cached", cache=True)
    async def cached() -> ServerSentEvent:
        return ServerSentEvent(["x"])

    @get("/ours")
    async def ours() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with adopting(download, json, cached, ours) as (app, streams):
        for path in ("/download", "/json", "/cached"):
            assert (await request(app, path)).status == 200
        assert streams.statistics().opened == 0
        await request(app, "/ours")
        assert streams.statistics().opened == 1


async def test_nothing_is_adopted_unless_asked_for(trace: Trace) -> None:
    """Without ``adopt`` a ``ServerSentEvent`` is Litestar's."""

    @get("/")
    async def handler() -> ServerSentEvent:
        return ServerSentEvent(["x"])

    plugin = SafeSSEPlugin(CONFIG)
    async with lifespan(app := Litestar([handler], plugins=[plugin], **PLAIN)):
        await request(app)
    assert plugin.streams.statistics().opened == 0


def pieces(*parts: str) -> Callable[[], AsyncIterator[str]]:
    async def body() -> AsyncIterator[str]:
        for part in parts:
            yield part
            await anyio.sleep(0.15)

    return body


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("data: a\n\n", "data: b\n\n"), {b"data: a\n\n: ping\r\n", b"data: b\n\n"}),
        (("data: a\n", "data: b\n\n"), {b"data: a\n: ping\r\n", b"data: b\n\n"}),
        (("data: a\r", "\ndata: b\r\n\r\n"), {b"data: a\r\n: ping\r\n", b"data: b\r\n\r\n"}),
        (("data: a\r", "data: b\r\r"), {b"data: a\r\n: ping\r", b"data: b\r\r"}),
        (("dat", "a: b\n\n"), {b"data: b\n\n"}),
    ],
    ids=["between blocks", "between lines", "behind half a line end", "behind another", "never within a line"],
)
async def test_heartbeats_go_between_lines(parts: Sequence[str], expected: set[bytes]) -> None:
    """What a ``Stream`` sends may be any part of a block, which a heartbeat must not break."""

    @get("/")
    async def handler() -> Stream:
        return Stream(pieces(*parts)(), media_type="text/event-stream")

    config = SafeSSEConfig(ping_interval=0.05)
    async with adopting(handler, config=config) as (app, _):
        body = (await request(app)).body
    assert re.sub(rb"\n: ping\r|: ping\r\n", b"", body) == "".join(parts).encode()
    for part in expected:
        assert part in body


async def test_settings_of_the_plugin_apply(trace: Trace) -> None:
    """Its reconnection time, its limit of streams, and its last event for a body that fails."""

    async def failing() -> AsyncIterator[str]:
        yield "one"
        raise LookupError("on purpose")

    @get("/fails")
    async def fails() -> ServerSentEvent:
        return ServerSentEvent(failing())

    @get("/raw")
    async def raw() -> Stream:
        return Stream(failing(), media_type="text/event-stream")

    @get("/endless")
    async def endless_handler() -> ServerSentEvent:
        return ServerSentEvent(endless(trace))  # type: ignore[arg-type]

    def on_error(error: Exception) -> SSEMessage:
        return SSEMessage(str(error), event="problem")

    config = SafeSSEConfig(ping_interval=None, retry=500, max_streams=1, on_error=on_error)
    async with adopting(fails, raw, endless_handler, config=config) as (app, _):
        problem = b"event: problem\r\ndata: on purpose\r\n\r\n"
        for path, body in (("/fails", b"retry: 500\r\ndata: one\r\n\r\n"), ("/raw", b"one\n\n")):
            async with connect(app, path) as connection:
                assert isinstance(cause(await connection.finished()), LookupError)
                assert connection.body == body + problem
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            assert (await request(app, "/endless")).status == 503
        assert trace == ["body begins", "body ends"]


@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"])
async def test_what_is_sent_beside_it_is_an_event_of_its_own(end: str) -> None:
    """Wherever in a block of the body's it comes; what the body has said of the block so far is an event, too."""

    @get("/")
    async def handler(stream: StreamContext) -> Stream:
        async def body() -> AsyncIterator[str]:
            yield f"event: half\ndata: one{end}"
            await stream.send(SSEMessage("two"))

        return Stream(body(), media_type="text/event-stream")

    async with adopting(handler) as (app, _), open_stream(app, "GET", "/") as stream:
        assert [(event.type, event.data) async for event in stream] == [("half", "one"), ("message", "two")]


async def test_reconnection_time_is_drawn_for_each_stream() -> None:
    """Where a range of it is configured; one of the response's own stays."""

    @get("/")
    async def drawn() -> ServerSentEvent:
        return ServerSentEvent(["one"])

    @get("/own")
    async def own() -> ServerSentEvent:
        return ServerSentEvent(["one"], retry_duration=7)

    async with adopting(drawn, own, config=SafeSSEConfig(ping_interval=None, retry=(20, 21))) as (app, _):
        assert (await request(app, "/")).body in (b"retry: 20\r\ndata: one\r\n\r\n", b"retry: 21\r\ndata: one\r\n\r\n")
        assert set(re.findall(b"retry: .*", (await request(app, "/own")).body)) == {b"retry: 7\r"}


async def test_context_can_send_to_it() -> None:
    """``stream.send`` takes messages of ours, in order with what the body yields."""

    @get("/")
    async def handler(stream: StreamContext) -> ServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield "one"
            await stream.send(SSEMessage("two"))
            yield "three"

        return ServerSentEvent(body())

    async with adopting(handler) as (app, _):
        assert (await request(app)).body == b"data: one\r\n\r\ndata: two\r\n\r\ndata: three\r\n\r\n"


async def test_item_that_is_no_chunk_is_named() -> None:
    """A ``Stream`` of something else than text ends with an error that says what it must be."""

    @get("/")
    async def handler() -> Stream:
        return Stream([1], media_type="text/event-stream")  # type: ignore[list-item]

    async with adopting(handler) as (app, _), connect(app) as connection:
        failure = cause(await connection.finished())
        assert isinstance(failure, InvalidFieldError)
        assert str(failure) == "invalid content: must yield str or bytes where it is a Stream, not int"


async def test_dependencies_may_live_as_long_as_it(trace: Trace) -> None:
    """What a handler of an adopted stream depends on is closed after the body, and an ordinary one is warned of."""

    async def resource() -> AsyncIterator[str]:
        yield "resource"
        trace.append("closed")

    def handler(provider: Provide) -> Any:
        @get("/", dependencies={"resource": provider})
        async def answer(resource: NamedDependency[str]) -> ServerSentEvent:
            return ServerSentEvent(brief(trace, resource))  # type: ignore[arg-type]

        return answer

    async with adopting(handler(StreamProvide(resource))) as (app, _):
        await request(app)
    assert trace == ["body begins", "body ends", "closed"]
    with pytest.warns(ShortLivedDependencyWarning, match="'resource'"):
        Litestar([handler(Provide(resource))], plugins=[SafeSSEPlugin(adopt=True)], **PLAIN)


@only_asyncio  # as it is itself
@pytest.mark.filterwarnings("ignore:.*Inferred dependency field")  # its own
async def test_subscription_of_strawberry_is_adopted(trace: Trace) -> None:
    """A GraphQL subscription over server-sent events is ended with its client."""

    @strawberry.type
    class Query:
        number: int = 1

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def count(self) -> AsyncIterator[int]:
            trace.append("begins")
            try:
                yield 1
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                trace.append("ends")

    schema = strawberry.Schema(Query, subscription=Subscription)
    controller = make_graphql_controller(
        schema, path="/graphql", graphql_ide=None, subscription_protocols=[GRAPHQL_SSE_PROTOCOL]
    )
    async with adopting(controller) as (app, streams):
        headers = [("accept", "text/event-stream"), ("content-type", "application/json")]
        query = b'{"query": "subscription { count }"}'
        async with connect(app, "/graphql", method="POST", headers=headers, chunks=[query]) as connection:
            await connection.until_body(b'"count":1')
            assert streams.statistics().opened == 1
        assert trace == ["begins", "ends"]


def test_adopt_is_checked() -> None:
    """Only ``True`` and ``False`` mean something."""
    with pytest.raises(InvalidFieldError, match="adopt: must be a bool"):
        SafeSSEPlugin(adopt="yes")  # type: ignore[arg-type]
