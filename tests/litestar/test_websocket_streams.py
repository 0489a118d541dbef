"""``@sse_websocket``, and ``@sse(..., websocket=...)``: Litestar's manners, and the stream's."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Controller, Litestar, Router, WebSocket
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.dto import DataclassDTO, DTOConfig
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException, NotFoundException
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    MissingPluginError,
    PerKey,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
    StreamProvide,
    UndeclaredEventError,
    sse,
    sse_websocket,
)
from litestar_safe_sse.sources import MemoryEventLog
from litestar_safe_sse.testing import open_stream, open_websocket
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.websockets import Socket
from tests.litestar.apps import PLAIN, FromPath, FromQuery, JSONBody, NamedDependency, closed, collect, serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


class Progress(Struct, tag="progress"):
    percent: int


class Done(Struct, tag="done"):
    pass


class Colour:
    pass


@dataclass
class User:
    name: str
    password: str


def socket_at(path: str, query: str = "", *said: str) -> Socket:
    """A client that says something, and stays."""
    socket = Socket()
    socket.scope |= {"path": path, "raw_path": path.encode(), "query_string": query.encode()}
    for text in said:
        socket.say(text)
    return socket


async def visit(app: Any, path: str, query: str = "", *said: str) -> Socket:
    socket = socket_at(path, query, *said)
    await serve(app, socket)
    return socket


async def serve(app: Any, socket: Socket) -> None:
    with anyio.fail_after(WAIT):
        await app(socket.scope, socket.receive, socket.send)


def messages(socket: Socket) -> list[Any]:
    return [json.loads(line) for line in socket.body.splitlines()]


def make_jobs() -> Any:
    @sse("/jobs/{job:int}", websocket="/jobs/{job:int}/ws")
    async def jobs(job: FromPath[int], stream: StreamContext) -> AsyncIterator[Progress | Done]:
        yield Progress(job)
        yield Done()

    return jobs


async def test_one_handler_serves_both() -> None:
    """The same events, with the same types, by HTTP and over the WebSocket."""
    async with serving(make_jobs()) as (app, streams):
        answer = await request(app, "/jobs/5")
        socket = await visit(app, "/jobs/5/ws")
    assert b'event: progress\r\ndata: {"type":"progress","percent":5}' in answer.body
    assert messages(socket) == [
        {"event": "progress", "data": {"type": "progress", "percent": 5}},
        {"event": "done", "data": {"type": "done"}},
    ]
    assert socket.code == 1000
    assert closed(streams) == {CloseReason.COMPLETED: 2}


@pytest.mark.parametrize("options", [{}, {"event_type": "tick", "retry_duration": 9}])
@pytest.mark.parametrize("prepared", [True, False])
async def test_messages_say_the_same_by_both(options: Any, prepared: bool) -> None:
    """Whatever fields they have, and whether they come one by one or are joined."""
    said: list[str | SSEMessage[Any]] = [
        "text",
        SSEMessage("one", id="1"),
        SSEMessage("two\nlines", "own", 2),
        SSEMessage('"quoted"', "own", '"3"'),
        SSEMessage("é", id="é"),
        SSEMessage("later", id="5", retry=7),
        SSEMessage({"a": 1}, id=6),
        SSEMessage({"b": 2}, "own"),
        SSEMessage("x" * 100_000, id=7),
        SSEMessage("no ID", "own"),
        SSEMessage("\ud7ff", "é", 8),
        SSEMessage(id="9"),
        SSEMessage("", id="10"),
    ]

    @sse("/", websocket="/ws", **options)
    async def both() -> AsyncIterator[str | SSEMessage[Any]]:
        for item in said:
            yield item
            if not prepared:
                await anyio.lowlevel.checkpoint()

    app = Litestar([both], plugins=[SafeSSEPlugin()])
    async with open_stream(app, "GET", "/") as stream:
        expected = [event async for event in stream]
    async with open_websocket(app, "/ws") as socket:
        assert [event async for event in socket] == expected
        assert (socket.last_event_id, socket.retry) == (stream.last_event_id, stream.retry)
        assert socket.close_code == 1000
    assert len(expected) == len(said) - 1


async def test_events_of_a_log_arrive_with_their_ids() -> None:
    """By which a client resumes, over either."""
    log = MemoryEventLog()

    @sse("/", websocket="/ws")
    async def news(stream: StreamContext) -> AsyncIterator[Any]:
        async for event in log.subscribe("news", after=stream.last_event_id):
            yield event

    app = Litestar([news], plugins=[SafeSSEPlugin()])
    async with open_websocket(app, "/ws") as socket:
        first = await socket.next()
        for text in ("one", "two"):
            await log.append("news", text)
        seen = [await socket.next() for _ in range(2)]
    assert [event.data for event in seen] == ["one", "two"]
    assert first.id != seen[0].id
    async with open_websocket(app, "/ws", last_event_id=seen[0].id) as socket:
        assert await socket.next() == seen[1]


async def test_layers_are_those_of_the_handler() -> None:
    """Paths, guards, dependencies and the controller itself; by a decorator of its own as well."""
    trace: list[str] = []

    def guard(name: str) -> Any:
        async def guards(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
            trace.append(name)

        return guards

    async def provide_size() -> int:
        return 3

    class Numbers(Controller):
        path = "/numbers"
        guards = [guard("controller")]  # noqa: RUF012
        label = "n"

        @sse(["/a", "/b"], websocket="/ws", guards=[guard("handler")])
        async def both(self, size: NamedDependency[int]) -> AsyncIterator[str]:
            for number in range(size):
                yield f"{self.label}{number}"

        @sse_websocket("/own")
        async def own(self, size: NamedDependency[int]) -> AsyncIterator[str]:
            yield f"{self.label}{size}"

    router = Router(
        "/api", route_handlers=[Numbers], guards=[guard("router")], dependencies={"size": Provide(provide_size)}
    )
    async with serving(router) as (app, _):
        assert [each["data"] for each in messages(await visit(app, "/api/numbers/ws"))] == ["n0", "n1", "n2"]
        assert trace == ["router", "controller", "handler"]
        assert messages(await visit(app, "/api/numbers/own")) == [{"data": "n3"}]
        assert (await request(app, "/api/numbers/b")).status == 200
        assert len([route for route in app.routes if route.path == "/api/numbers/ws"]) == 1


async def test_routes_beside_it_are_registered_too() -> None:
    """Whatever comes behind it, in the same router."""

    @sse("/second")
    async def second() -> AsyncIterator[str]:
        yield "2"

    async with serving(Router("/r", route_handlers=[make_jobs(), second])) as (app, _):
        assert (await request(app, "/r/second")).status == 200
        assert (await request(app, "/r/jobs/1")).status == 200
        assert messages(await visit(app, "/r/jobs/1/ws"))[-1]["event"] == "done"


async def test_application_that_is_there_already_takes_no_more() -> None:
    """What is registered later has to be registered twice, as it is told."""
    async with serving() as (app, _):
        with pytest.raises(ImproperlyConfiguredException, match="register the function twice"):
            app.register(make_jobs())


async def test_guard_refuses_the_handshake() -> None:
    """As ever: nothing is accepted, and nothing is opened."""

    def refuse(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        raise NotAuthorizedException

    @sse_websocket("/", guards=[refuse])
    async def handler() -> AsyncIterator[str]:
        yield "never"

    async with serving(handler) as (app, streams):
        assert (await visit(app, "/")).kinds == ["close"]
        assert streams.statistics().opened == 0


async def test_stream_beyond_the_limit_is_told_to_come_back() -> None:
    """By 1013, which a handshake that is refused could not say."""

    @sse_websocket("/")
    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    async with serving(handler, config=SafeSSEConfig(max_streams=1)) as (app, streams):
        async with anyio.create_task_group() as tasks:
            first = socket_at("/")
            tasks.start_soon(serve, app, first)
            await first.until(lambda got: b"one" in got.body)
            second = await visit(app, "/")
            assert second.kinds == ["accept", "close"]
            assert second.messages[-1]["code"] == 1013
            first.leave()
        assert streams.statistics().refused == 1
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_limits_of_a_client_hold() -> None:
    """The key is told of the WebSocket; one too many is sent away by 1013, and a revoked one by 1008."""
    per_user = PerKey(lambda connection: connection.query_params["user"], 1)

    @sse_websocket("/")
    async def handler() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    async with (
        serving(handler, config=SafeSSEConfig(admission=per_user)) as (app, streams),
        anyio.create_task_group() as tasks,
    ):
        first, other = socket_at("/", "user=ann"), socket_at("/", "user=ben")
        for socket in (first, other):
            tasks.start_soon(serve, app, socket)
            await socket.until(lambda got: b"one" in got.body)
        assert (await visit(app, "/", "user=ann")).messages[-1]["code"] == 1013
        assert await streams.aclose_where(key="ann", reason=CloseReason.REVOKED) == 1
        await first.until(lambda _: first.code == 1008)
        assert other.code is None
        await streams.aclose_all()
    assert closed(streams) == {CloseReason.REVOKED: 1, CloseReason.CLOSED: 1}


@pytest.mark.parametrize("seconds", [-1.0, SHORT])
async def test_right_to_a_stream_ends(seconds: float) -> None:
    """Before it has begun, or while it is open: by 1008."""

    @sse_websocket("/", expires_at=lambda connection: time.time() + seconds)
    async def handler() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    async with serving(handler) as (app, _):
        assert (await visit(app, "/")).messages[-1]["code"] == 1008


async def test_stream_is_refused_at_a_shutdown() -> None:
    """By 1013 too: another process takes over."""

    @sse_websocket("/")
    async def handler() -> AsyncIterator[str]:
        yield "never"

    async with serving(handler) as (app, streams):
        streams.begin_drain()
        assert (await visit(app, "/")).messages[-1]["code"] == 1013


async def test_dependencies_live_as_long_as_the_stream() -> None:
    """Of Litestar's kind and of ours: Litestar leaves its own when the handler returns, which is after the stream."""
    trace: list[str] = []

    async def plain() -> AsyncGenerator[str, None]:
        yield "plain"
        trace.append("plain closed")

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        yield "opened"
        trace.append("opened closed")

    @sse_websocket("/", dependencies={"plain": Provide(plain), "opened": StreamProvide(opened)})
    async def handler(
        stream: StreamContext, plain: NamedDependency[str], opened: NamedDependency[str]
    ) -> AsyncIterator[str]:
        stream.callback(lambda: trace.append(f"stream {stream.close_reason}"))
        assert not trace
        yield f"{plain} {opened}"

    async with serving(handler) as (app, _):
        assert messages(await visit(app, "/")) == [{"data": "plain opened"}]
    assert trace == ["stream completed", "opened closed", "plain closed"]


async def test_socket_can_be_asked_for() -> None:
    """As ``socket``, or as the request of the stream."""

    @sse_websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], stream: StreamContext) -> AsyncIterator[str]:
        assert isinstance(stream.request, WebSocket)
        yield socket.query_params["a"]
        yield stream.request.query_params["a"]

    async with serving(handler) as (app, _):
        assert messages(await visit(app, "/", "a=1")) == [{"data": "1"}, {"data": "1"}]


async def test_function_may_be_wrapped_by_one_that_awaits() -> None:
    """By whoever keeps it known as what it is; it streams the same by both."""
    trace = []

    def audited(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            trace.append("audited")
            return function(*args, **kwargs)

        return wrapped

    async def feed(word: FromQuery[str] = "x") -> AsyncIterator[str]:
        yield word

    async with serving(sse("/", websocket="/ws")(audited(feed))) as (app, _):
        assert (await request(app, "/?word=y")).body == b"data: y\r\n\r\n"
        assert messages(await visit(app, "/ws", "word=y")) == [{"data": "y"}]
    assert trace == ["audited"] * 2


async def test_sync_generator() -> None:
    """It is advanced by a thread, as by ``@sse``."""

    @sse_websocket("/", event_type="row")
    def handler() -> Iterator[int]:
        yield from (1, 2)

    async with serving(handler) as (app, _):
        assert messages(await visit(app, "/")) == [{"event": "row", "data": 1}, {"event": "row", "data": 2}]


async def test_dto_and_encoders_of_the_layers() -> None:
    """What is sent is what ``@sse`` would send."""

    class Public(DataclassDTO[User]):
        config = DTOConfig(exclude={"password"})

    @sse_websocket("/users", return_dto=Public)
    async def users() -> AsyncIterator[User]:
        yield User("a", "secret")

    @sse_websocket("/colours")
    async def colours() -> AsyncIterator[Colour | SSEMessage[Colour]]:
        yield Colour()
        yield SSEMessage(Colour(), id=1)

    async with serving(users, colours, type_encoders={Colour: lambda _: "red"}) as (app, _):
        assert messages(await visit(app, "/users")) == [{"data": {"name": "a"}}]
        assert messages(await visit(app, "/colours")) == [{"data": "red"}, {"id": "1", "data": "red"}]


async def test_what_the_annotation_does_not_name_is_refused() -> None:
    """In the log, and to the client by 1011."""
    seen: list[Exception] = []

    @sse_websocket("/", validate=True)
    async def handler() -> AsyncIterator[Progress | str]:
        yield Progress(1)
        yield "text"
        yield Done()  # type: ignore[misc]

    async with serving(handler, after_exception=[collect(seen)]) as (app, streams):
        socket = await visit(app, "/")
    assert [each["data"] for each in messages(socket)][1:] == ["text"]
    assert socket.code == 1011
    assert [type(error) for error in seen] == [UndeclaredEventError]
    assert closed(streams) == {CloseReason.ERROR: 1}


async def test_failure_is_told_once() -> None:
    """By 1011, be it an HTTP exception: it has been accepted. Litestar, which logs it, adds no close frame."""
    seen: list[Exception] = []

    @sse_websocket("/")
    async def handler() -> AsyncIterator[str]:
        raise NotFoundException
        yield ""

    async with serving(handler, after_exception=[collect(seen)]) as (app, _):
        socket = await visit(app, "/")
    assert socket.kinds == ["accept", "close"]
    assert socket.code == 1011
    assert [type(error) for error in seen] == [NotFoundException]


async def test_reconnection_time_comes_first() -> None:
    """That of the configuration in a message of its own, that of a handler in each event."""

    @sse_websocket("/configured")
    async def configured() -> AsyncIterator[str]:
        yield "x"

    @sse_websocket("/own", retry_duration=5)
    async def own() -> AsyncIterator[str]:
        yield "x"

    async with serving(configured, own, config=SafeSSEConfig(retry=3000)) as (app, _):
        assert messages(await visit(app, "/configured")) == [{"retry": 3000}, {"data": "x"}]
        assert messages(await visit(app, "/own")) == [{"retry": 5, "data": "x"}]


def resuming(timeout: float) -> Any:
    @sse_websocket("/", resume_timeout=timeout)
    async def handler(stream: StreamContext) -> AsyncIterator[str]:
        yield f"after {stream.last_event_id}"

    return handler


@pytest.mark.parametrize(
    ("query", "said", "told"),
    [
        ("", '{"last_event_id": "7"}', "after 7"),
        ("", "{}", "after None"),
        ("after=5", '{"last_event_id": null}', "after 5"),
        ("after=5", '{"last_event_id": "7", "more": 1}', "after 7"),
        ("last_event_id=5", "{}", "after None"),
        ("after=5%0A", "{}", 1007),
        ("", "", 1007),
        ("", "7", 1007),
        ("", '{"last_event_id": 7}', 1007),
        ("", '{"last_event_id": "\\u0000"}', 1007),
        ("", '{"last_event_id": "123456789"}', 1007),
        ("", " " * 1000 + "{}", 1009),
    ],
)
async def test_client_resumes(query: str, said: str, told: str | int) -> None:
    """By its first message before the query; what cannot be resumed by is refused by a code, and closes the stream."""
    config = SafeSSEConfig(last_event_id_query="after", max_last_event_id=8)
    async with serving(resuming(NEVER), config=config) as (app, streams):
        socket = await visit(app, "/", query, said)
        assert streams.statistics().open == 0
    assert (messages(socket)[0]["data"] if messages(socket) else socket.code) == told


async def test_first_message_that_does_not_come_is_not_waited_for_for_ever() -> None:
    """After ``resume_timeout`` the WebSocket is closed by 1008."""
    async with serving(resuming(SHORT)) as (app, streams):
        assert (await visit(app, "/")).code == 1008
    assert closed(streams) == {CloseReason.CLOSED: 1}


async def test_first_message_is_waited_for_in_the_loops_time() -> None:
    """One that comes while the loop is blocked, for longer than ``resume_timeout``, is read."""

    async def speak() -> None:
        await socket.until(lambda got: got.kinds)  # type: ignore[attr-defined]
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        block()
        await anyio.sleep(0.001)
        socket.say('{"last_event_id": "7"}')

    def block() -> None:
        time.sleep(3 * SHORT)

    socket = socket_at("/")
    async with serving(resuming(SHORT)) as (app, _), anyio.create_task_group() as tasks:
        tasks.start_soon(speak)
        await serve(app, socket)
    assert [message["data"] for message in messages(socket)] == ["after 7"]


async def test_shutdown_does_not_wait_for_a_first_message() -> None:
    """The stream ends as one that waits in its body."""
    async with serving(resuming(NEVER)) as (app, streams):
        socket = socket_at("/")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, app, socket)
            await socket.until(lambda got: got.kinds)  # type: ignore[attr-defined]
            await streams.drain()
    assert socket.code == 1001
    assert closed(streams) == {CloseReason.SHUTDOWN: 1}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mode": "json"}, "mode"),
        ({"resume_timeout": -1}, "resume_timeout"),
        ({"resume_timeout": float("inf")}, "resume_timeout"),
        ({"validate": "yes"}, "validate"),
        ({"ping_interval": 0}, "ping_interval"),
        ({"expires_at": 5}, "expires_at"),
        ({"on_error": lambda: None}, "on_error"),
        ({"event_type": "a\nb"}, "event_type"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], field: str) -> None:
    """With the field and the remedy."""
    with pytest.raises(InvalidFieldError) as raised:
        sse_websocket("/", **options)
    assert raised.value.field == field


def test_wrong_functions_are_refused_at_once() -> None:
    """Neither a coroutine function, nor an empty path beside ``@sse``, nor a function in the place of the path."""

    async def coroutine() -> int:
        return 1

    async def streams() -> AsyncIterator[int]:
        yield 1

    decorate: Any = sse_websocket
    with pytest.raises(InvalidFieldError, match=r"@sse_websocket above .*streams.*; did you mean resume_timeout\?"):
        decorate("/", resume_timeot=1)(streams)
    with pytest.raises(InvalidFieldError, match=r"prefetch: must be an option of @sse_websocket"):
        decorate("/", prefetch=1)(streams)
    with pytest.raises(InvalidFieldError, match=r"max_streams: must be .*; .* give it to SafeSSEConfig"):
        decorate("/", max_streams=1)(streams)
    with pytest.raises(InvalidFieldError, match=r'must be a str.*; write @sse_websocket\("/'):
        decorate(streams)
    with pytest.raises(InvalidFieldError, match="generator function"):
        sse_websocket("/")(coroutine)  # type: ignore[type-var]
    with pytest.raises(InvalidFieldError, match="websocket"):
        sse("/", websocket="")


def test_request_body_is_refused_at_startup() -> None:
    """A WebSocket has none: Litestar says so, and names the handler."""

    @sse("/", method="POST", websocket="/ws")
    async def handler(data: JSONBody[dict[str, str]]) -> AsyncIterator[str]:
        yield "x"

    with pytest.raises(ImproperlyConfiguredException, match="data kwarg is not supported"):
        Litestar([handler], plugins=[SafeSSEPlugin()], **PLAIN)


def test_handler_without_the_plugin() -> None:
    """The application is refused, with the handler and the remedy."""

    @sse_websocket("/")
    async def handler() -> AsyncIterator[str]:
        yield "x"

    with pytest.raises(MissingPluginError, match=r"the handler .*handler needs its plugin: .*plugins=\[SafeSSEPlugin"):
        Litestar([handler], **PLAIN)
