from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import inspect
import logging
import signal
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio
import anyio.lowlevel
import litestar.di
import pytest
from asgi_client import LIMIT, connect, http_scope, lifespan
from asgi_client import get as request
from litestar import Controller, Litestar, Request, Response, Router, WebSocket, asgi, get, post, route, websocket
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.config.csrf import CSRFConfig
from litestar.config.response_cache import ResponseCacheConfig
from litestar.datastructures import CacheControlHeader, Cookie, ResponseHeader
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException, LitestarException, NotAuthorizedException
from litestar.middleware import ASGIMiddleware, DefineMiddleware
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import Parameter
from litestar.plugins import InitPlugin
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.stores.memory import MemoryStore
from litestar.testing import AsyncTestClient, TestClient
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    SSEMessage,
    StreamClosedError,
    StreamContext,
    StreamState,
)

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.handlers import BaseRouteHandler

    from litestar_safe_sse._registry import StreamRegistry

T = TypeVar("T")

try:
    from litestar.di import NamedDependency
except ImportError:  # before Litestar 2.23
    NamedDependency = Annotated[T, "a dependency"]

try:
    from litestar.params import FromQuery, QueryParameter
except ImportError:  # before Litestar 2.23
    FromQuery = Annotated[T, "a query parameter"]

    def QueryParameter(name: str) -> Any:  # noqa: N802
        return Parameter(query=name)


Trace = list[Any]

pytestmark = pytest.mark.anyio

CONFIG = SafeSSEConfig(ping_interval=None, cleanup_timeout=1, shutdown_grace=0.2)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trace() -> Trace:
    return []


only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def endless(trace: Trace, *items: object) -> AsyncIterator[object]:
    """A body that yields some items and then waits, and that awaits while it ends."""
    trace.append("body begins")
    try:
        for item in items or ("begun",):
            yield item
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):  # as trio asks for
            await anyio.lowlevel.checkpoint()
        trace.append("body ends")


async def brief(trace: Trace, *items: object) -> AsyncIterator[object]:
    """A body that comes to its end by itself."""
    trace.append("body begins")
    for item in items or ("begun",):
        yield item
    trace.append("body ends")


def make_app(*handlers: Any, config: SafeSSEConfig = CONFIG, **options: Any) -> tuple[Litestar, StreamRegistry]:
    plugin = SafeSSEPlugin(config)
    options.setdefault("logging_config", None)
    options.setdefault("openapi_config", None)
    plugins = [*options.pop("plugins_before", ()), plugin, *options.pop("plugins_after", ())]
    return Litestar(handlers, plugins=plugins, **options), plugin.streams


@asynccontextmanager
async def serving(*handlers: Any, **options: Any) -> AsyncIterator[tuple[Litestar, StreamRegistry]]:
    """Runs an application whose streams must all have ended by the end of the block."""
    app, streams = make_app(*handlers, **options)
    async with lifespan(app):
        yield app, streams
        assert streams.statistics().open == 0


def cause(failure: BaseException | None) -> BaseException | None:
    """What the application raised: each of Litestar's layers wraps it, once the response has begun."""
    while isinstance(failure, LitestarException) and failure.__cause__ is not None:
        failure = failure.__cause__
    return failure


def closed(streams: StreamRegistry) -> dict[CloseReason, int]:
    return dict(streams.statistics().closed)


def cleaned(trace: Trace, stream: StreamContext) -> StreamContext:
    """Registers a cleanup that tells the reason it runs for."""
    stream.callback(lambda: trace.append(f"cleaned: {stream.close_reason}"))
    return stream


def endless_and_brief(trace: Trace) -> list[Any]:
    """Handlers of an endless and a brief stream; new ones for each application, since Litestar keeps state in them."""

    @get("/endless")
    async def endless_handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    @get("/brief")
    async def brief_handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace))

    return [endless_handler, brief_handler]


@asynccontextmanager
async def serving_defaults(trace: Trace, **options: Any) -> AsyncIterator[tuple[Litestar, StreamRegistry]]:
    """An application with an endless and a brief stream."""
    async with serving(*endless_and_brief(trace), **options) as (app, streams):
        app.state.trace = trace
        yield app, streams


ENDLESS = ["body begins", "body ends", "cleaned: client_disconnected"]
BRIEF = ["body begins", "body ends", "cleaned: completed"]


async def test_response_is_an_event_stream(trace: Trace) -> None:
    """A stream is answered with the content type of the standard, and without caching or buffering on its way."""
    async with serving_defaults(trace) as (app, streams):
        response = await request(app, "/brief")
        assert response.status == 200
        assert response.headers == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
        }
        assert response.body == b"data: begun\r\n\r\n"
        assert response.complete
        assert trace == BRIEF
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_client_that_leaves_ends_the_stream(trace: Trace) -> None:
    """A client that leaves ends the body and the cleanups in this order, once each."""
    async with serving_defaults(trace) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().open == 1
        assert trace == ENDLESS
        assert not connection.complete
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


# Guards


@pytest.mark.parametrize("layer", ["app", "router", "controller", "handler"])
@pytest.mark.parametrize("leaves_first", [False, True])
async def test_guard_that_refuses_keeps_the_stream_from_being(trace: Trace, layer: str, leaves_first: bool) -> None:
    """A guard that refuses, on any layer, is answered with its own status, and there has been no stream."""

    def refuse(connection: Any, handler: BaseRouteHandler) -> None:
        raise NotAuthorizedException("no")

    guards = {name: [refuse] if name == layer else [] for name in ("app", "router", "controller", "handler")}

    class Streams(Controller):
        pass

    Streams.guards = guards["controller"]

    @get("/", guards=guards["handler"])
    async def handler(self: Any, stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    Streams.handler = handler  # type: ignore[attr-defined]
    router = Router("/", route_handlers=[Streams], guards=guards["router"])
    async with serving(router, guards=guards["app"]) as (app, streams):
        async with connect(app) as connection:
            if leaves_first:
                connection.leave()
            await connection.finished()
        assert connection.status == 401
        assert trace == []
        assert streams.statistics().opened == 0


async def test_guard_that_lets_pass_is_asked_once(trace: Trace) -> None:
    """A guard that lets a request pass has been asked once, before the handler."""

    async def let_pass(connection: Any, handler: BaseRouteHandler) -> None:
        trace.append("guard")

    async with serving_defaults(trace, guards=[let_pass]) as (app, _):
        await request(app, "/brief")
        assert trace == ["guard", *BRIEF]


# Middleware


def function_middleware(app: ASGIApp) -> ASGIApp:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await app(scope, receive, send)

    return middleware


class ClassMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await self.app(scope, receive, send)


class LitestarMiddleware(ASGIMiddleware):
    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await next_app(scope, receive, send)


class CopyingMiddleware(ClassMiddleware):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await self.app(scope.copy(), receive, send)  # type: ignore[arg-type]


class WrappingMiddleware(ClassMiddleware):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")

        async def wrapped_receive() -> Any:
            return await receive()

        async def wrapped_send(message: Message) -> None:
            await send(message)

        await self.app(scope, wrapped_receive, wrapped_send)


class TaskGroupMiddleware(ClassMiddleware):
    """Runs the rest in another task, as Starlette's ``BaseHTTPMiddleware`` does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        async with anyio.create_task_group() as group:
            group.start_soon(self.app, scope, receive, send)


MIDDLEWARE = [
    function_middleware,
    ClassMiddleware,
    DefineMiddleware(ClassMiddleware),
    LitestarMiddleware(),
    CopyingMiddleware,
    WrappingMiddleware,
    TaskGroupMiddleware,
]


@pytest.mark.parametrize("middleware", MIDDLEWARE)
@pytest.mark.parametrize("layer", ["app", "router", "handler"])
async def test_middleware_of_any_kind_and_layer(trace: Trace, middleware: Any, layer: str) -> None:
    """A stream works behind middleware of each kind on each layer: to its end, and when the client leaves."""
    layers = {name: [middleware] if name == layer else [] for name in ("app", "router", "handler")}

    @get("/endless", middleware=layers["handler"])
    async def endless_one(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    @get("/brief", middleware=layers["handler"])
    async def brief_one(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace))

    router = Router("/", route_handlers=[endless_one, brief_one], middleware=layers["router"])
    async with serving(router, middleware=layers["app"]) as (app, _):
        app.state.trace = trace
        response = await request(app, "/brief")
        assert response.complete
        assert trace == ["middleware", *BRIEF]
        trace.clear()
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
        assert trace == ["middleware", *ENDLESS]


async def test_middleware_sees_the_stream_of_a_copied_scope_ended(trace: Trace) -> None:
    """A handler that returns something else behind a middleware that copies the scope has its cleanups run."""

    @get("/")
    async def handler(stream: StreamContext) -> str:
        cleaned(trace, stream)
        return "no stream"

    async with serving(handler, middleware=[CopyingMiddleware]) as (app, _):
        app.state.trace = trace
        response = await request(app)
        assert response.body == b"no stream"
        assert trace == ["middleware", "cleaned: completed"]


async def test_middleware_that_answers_by_itself(trace: Trace) -> None:
    """A middleware that answers without calling the rest leaves no stream behind."""

    class Answer(ClassMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving_defaults(trace, middleware=[Answer]) as (app, streams):
        response = await request(app, "/endless")
        assert response.status == 429
        assert trace == []
        assert streams.statistics().opened == 0


async def test_middleware_that_fails_while_sending(trace: Trace) -> None:
    """A middleware whose ``send`` raises ends the stream as an error, and its exception goes on to the server."""

    class Failing(ClassMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def failing_send(message: Message) -> None:
                if message.get("body"):
                    raise LookupError("in send")
                await send(message)

            await self.app(scope, receive, failing_send)

    async with serving_defaults(trace, middleware=[Failing]) as (app, streams):
        async with connect(app, "/endless") as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert trace == ["body begins", "body ends", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_middleware_that_fails_after_the_handler(trace: Trace) -> None:
    """A middleware that raises once the stream has ended changes nothing about how it ended."""

    class Failing(ClassMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            raise LookupError("too late")

    async with serving_defaults(trace, middleware=[Failing]) as (app, streams):
        async with connect(app, "/brief") as connection:
            assert isinstance(await connection.finished(), LitestarException)
        assert trace == BRIEF
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_middleware_that_tries_again(trace: Trace) -> None:
    """A middleware that calls the rest again, since a handler failed, gets a stream: the failed one has ended."""

    class Retry(ClassMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def unless_failed(message: Message) -> None:
                if message.get("status") != 500 and trace[-1] != "cleaned: error":
                    await send(message)

            await self.app(scope, receive, unless_failed)
            trace.append("again")
            await self.app(scope, receive, unless_failed)

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        if "again" not in trace:
            raise LookupError
        return SafeServerSentEvent(brief(trace))

    async with serving(handler, middleware=[Retry]) as (app, _):
        response = await request(app)
        assert response.body == b"data: begun\r\n\r\n"
        assert trace == ["cleaned: error", "again", *BRIEF]


async def test_middleware_that_cancels_the_rest(trace: Trace) -> None:
    """A middleware whose timeout runs out cancels the stream, which still cleans up as it should."""

    class Timeout(ClassMiddleware):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.CancelScope() as scope_of_request:

                async def cancelling_send(message: Message) -> None:
                    await send(message)
                    if message.get("body"):
                        scope_of_request.cancel()

                await self.app(scope, receive, cancelling_send)

    async with serving_defaults(trace, middleware=[Timeout]) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.finished()
        assert trace == ENDLESS
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


# Hooks


async def test_before_request_may_return_a_stream(trace: Trace) -> None:
    """A stream that ``before_request`` returns takes the handler's place."""

    async def before_request(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        return SafeServerSentEvent(brief(trace, "from the hook"))

    async with serving_defaults([], before_request=before_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.body == b"data: from the hook\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_after_request_may_change_the_response(trace: Trace) -> None:
    """What ``after_request`` sets on the response is sent."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        assert isinstance(response, SafeServerSentEvent)
        response.set_header("X-After", "request")
        response.set_cookie("after", "request")
        return response

    async with serving_defaults(trace, after_request=after_request) as (app, _):
        response = await request(app, "/brief")
        assert response.headers["x-after"] == "request"
        assert response.headers["set-cookie"].startswith("after=request")
        assert trace == BRIEF


async def test_after_request_may_replace_the_response(trace: Trace) -> None:
    """A stream whose response ``after_request`` replaces has its cleanups run, and its body never begins."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        return Response("instead", media_type="text/plain")

    async with serving_defaults(trace, after_request=after_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.body == b"instead"
        assert trace == ["cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_after_request_that_raises(trace: Trace) -> None:
    """A stream whose ``after_request`` raises has its cleanups run, and its body never begins."""

    async def after_request(response: Response[Any]) -> Response[Any]:
        raise LookupError

    async with serving_defaults(trace, after_request=after_request) as (app, streams):
        response = await request(app, "/endless")
        assert response.status == 500
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_before_send_sees_each_message(trace: Trace) -> None:
    """``before_send`` is called for the start, for each body message and for the end."""
    seen: list[str] = []

    async def before_send(message: Message, scope: Scope) -> None:
        seen.append(message["type"])
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-before", b"send")]

    async with serving_defaults(trace, before_send=[before_send]) as (app, _):
        response = await request(app, "/brief")
        assert response.headers["x-before"] == "send"
        assert seen == [message["type"] for message in response.sent]
        assert seen[0] == "http.response.start"


@pytest.mark.parametrize("moment", ["http.response.start", "http.response.body"])
async def test_before_send_that_raises(trace: Trace, moment: str) -> None:
    """A ``before_send`` that raises ends the stream as an error, with its cleanups."""

    async def before_send(message: Message, scope: Scope) -> None:
        if message["type"] == moment and not scope["state"].get("raised"):
            scope["state"]["raised"] = True
            raise LookupError

    async with serving_defaults(trace, before_send=[before_send]) as (app, streams):
        async with connect(app, "/endless") as connection:
            await connection.finished()
        assert trace[-1] == "cleaned: error"
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize("path", ["/brief", "/endless"])
async def test_after_response_runs_after_the_cleanup(trace: Trace, path: str) -> None:
    """``after_response`` runs once, when everything has been given back, also when the client left."""

    async def after_response(request: Request[Any, Any, Any]) -> None:
        trace.append("after response")

    async with serving_defaults(trace, after_response=after_response) as (app, _):
        async with connect(app, path) as connection:
            await connection.until_body(b"begun")
        assert trace == [*(BRIEF if path == "/brief" else ENDLESS), "after response"]


async def test_after_exception_of_the_user_is_kept(trace: Trace) -> None:
    """The user's ``after_exception`` hook sees what a handler raised."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    async def after_exception(exc: Exception, scope: Scope) -> None:
        trace.append(repr(exc))

    async with serving(handler, after_exception=[after_exception]) as (app, streams):
        response = await request(app)
        assert response.status == 500
        assert sorted(trace) == ["LookupError('in the handler')", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_after_exception_that_raises(trace: Trace) -> None:
    """A user's ``after_exception`` hook that raises does not keep the stream from being ended."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    async def after_exception(exc: Exception, scope: Scope) -> None:
        raise ValueError("in the hook")

    async with serving(handler, after_exception=[after_exception]) as (app, streams):
        async with connect(app) as connection:
            await connection.finished()
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


# Headers and cookies


async def test_headers_of_each_layer() -> None:
    """Headers come from the response, the handler and the application; the nearest layer wins."""

    @get("/", response_headers=[ResponseHeader(name="X-Handler", value="handler")])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], headers={"X-Response": "response", "X-Handler": "response"})

    async with serving(handler, response_headers={"X-App": "app", "X-Response": "app"}) as (app, _):
        response = await request(app)
        assert response.header_values("x-app") == ["app"]
        assert response.header_values("x-handler") == ["response"]
        assert response.header_values("x-response") == ["response"]


@pytest.mark.parametrize("name", ["Cache-Control", "cache-control", "CACHE-CONTROL"])
async def test_header_of_the_response_replaces_the_default(name: str) -> None:
    """A header that the response is given replaces ours, however it is spelt."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], headers={name: "private", "x-accel-buffering": "yes"})

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["private"]
        assert response.header_values("x-accel-buffering") == ["yes"]


@pytest.mark.parametrize(
    "option",
    [
        {"response_headers": {"Cache-Control": "no-store"}},
        {"response_headers": [ResponseHeader(name="cache-control", value="no-store")]},
        {"cache_control": CacheControlHeader(no_store=True)},
    ],
)
@pytest.mark.parametrize("layer", ["app", "handler"])
async def test_header_of_a_layer_replaces_the_default(option: dict[str, Any], layer: str) -> None:
    """A header that a handler or the application is given replaces ours."""

    @get("/", **(option if layer == "handler" else {}))
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler, **(option if layer == "app" else {})) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["no-store"]


async def test_header_set_by_set_header() -> None:
    """A header set on the response after it was made is sent once."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        response = SafeServerSentEvent(["x"])
        response.set_header("Cache-Control", "private")
        response.set_etag('"1"')
        return response

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["private"]
        assert response.header_values("etag") == ['"1"']


async def test_cookies_of_each_layer() -> None:
    """Cookies come from the response, the handler and the application."""

    @get("/", response_cookies=[Cookie(key="handler", value="1"), Cookie(key="both", value="handler")])
    async def handler() -> SafeServerSentEvent:
        response = SafeServerSentEvent(["x"], cookies={"response": "2"})
        response.set_cookie("both", "response")
        response.delete_cookie("old")
        return response

    async with serving(handler, response_cookies={"app": "3"}) as (app, _):
        response = await request(app)
        cookies = [value.partition(";")[0] for value in response.header_values("set-cookie")]
        assert {"handler=1", "response=2", "app=3"} < set(cookies)
        assert next(cookie for cookie in cookies if cookie.startswith("both=")) == "both=response"
        assert any(cookie.startswith("old=") for cookie in cookies)


async def test_cookies_may_be_a_list() -> None:
    """The response takes a list of ``Cookie`` objects, too."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], cookies=[Cookie(key="a", value="1", httponly=True)])

    async with serving(handler) as (app, _):
        response = await request(app)
        (cookie,) = response.header_values("set-cookie")
        assert cookie.startswith("a=1")
        assert "HttpOnly" in cookie


async def test_encoding_is_announced_as_it_is() -> None:
    """Whatever the encoding of the headers, the events are announced as the UTF-8 that they are."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["é€"], encoding="latin-1")

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body.decode() == "data: é€\r\n\r\n"
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_media_type_of_the_handler_is_overruled() -> None:
    """A handler's ``media_type`` does not make a stream something else."""

    @get("/", media_type="text/plain")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        assert (await request(app)).headers["content-type"].startswith("text/event-stream")


async def test_status_code() -> None:
    """The status is the response's, else the handler's, else Litestar's for the method."""

    @post("/default")
    async def default() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    @post("/handler", status_code=202)
    async def of_handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    @post("/response", status_code=202)
    async def of_response() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], status_code=200)

    async with serving(default, of_handler, of_response) as (app, _):
        for path, status in (("/default", 201), ("/handler", 202), ("/response", 200)):
            assert (await request(app, path, method="POST")).status == status


# Background tasks


async def note(trace: Trace, what: str) -> None:
    await anyio.lowlevel.checkpoint()
    trace.append(what)


@pytest.mark.parametrize("kind", ["single", "several", "group", "sync"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_background_runs_once_after_the_cleanup(trace: Trace, kind: str, leaves: bool) -> None:
    """Background tasks of each kind run once, when everything has been given back, also when the client left."""

    def background() -> Any:
        tasks = [BackgroundTask(note, trace, "background"), BackgroundTask(note, trace, "background")]
        return {
            "single": BackgroundTask(note, trace, "background"),
            "several": BackgroundTasks(tasks),
            "group": BackgroundTasks(tasks, run_in_task_group=True),
            "sync": BackgroundTask(trace.append, "background"),
        }[kind]

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent((endless if leaves else brief)(trace), background=background())

    count = 1 if kind in ("single", "sync") else 2
    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert trace == [*(ENDLESS if leaves else BRIEF), *["background"] * count]


async def test_background_of_the_handler_layer(trace: Trace) -> None:
    """Background tasks that Litestar hands to the response are run, too."""

    @get("/")
    async def handler() -> Response[Any]:
        response = SafeServerSentEvent(brief(trace))
        response.background = BackgroundTask(note, trace, "background")
        return response

    async with serving(handler) as (app, _):
        await request(app)
        assert trace == ["body begins", "body ends", "background"]


async def test_background_runs_when_the_server_cancels(trace: Trace) -> None:
    """Background tasks run when the server cancels the request's task, as it does with a client that has left."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            connection.cancel()
        assert trace == [*ENDLESS, "background"]


async def test_background_runs_after_a_body_that_failed(trace: Trace) -> None:
    """Background tasks run when the body failed, and the body's exception still goes on to the server."""

    async def body() -> AsyncIterator[str]:
        yield "begun"
        raise LookupError("in the body")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body(), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert trace == ["cleaned: error", "background"]


async def test_background_that_fails(trace: Trace) -> None:
    """A background task that fails raises to the server, after a response that was complete and has cleaned up."""

    async def fail() -> None:
        raise LookupError("in the background")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace), background=BackgroundTask(fail))

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert connection.complete
        assert trace == BRIEF
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_background_runs_to_a_head_request_after_the_cleanup(trace: Trace) -> None:
    """To HEAD, too, background tasks run when the cleanups have."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), background=BackgroundTask(note, trace, "background"))

    async with serving(handler) as (app, _):
        await request(app, method="HEAD")
        assert trace == ["cleaned: completed", "background"]


# Sessions, CORS, CSRF


SESSIONS = [CookieBackendConfig(secret=b"0123456789abcdef"), ServerSideSessionConfig()]


@pytest.mark.parametrize("session", SESSIONS)
async def test_session_is_read_and_stored(session: Any) -> None:
    """What the handler puts in a session is stored with the stream's headers and read by the next request."""

    @get("/set")
    async def put(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        request.session["name"] = "Ada"
        return SafeServerSentEvent(["stored"])

    @get("/get")
    async def read(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield stream.request.session["name"]

        return SafeServerSentEvent(body())

    async with serving(put, read, middleware=[session.middleware], stores={"sessions": MemoryStore()}) as (app, _):
        stored = await request(app, "/set")
        cookie = stored.header_values("set-cookie")[0].partition(";")[0]
        response = await request(app, "/get", headers=[("cookie", cookie)])
        assert response.body == b"data: Ada\r\n\r\n"


async def test_cors() -> None:
    """A stream carries the headers of CORS, and its preflight begins none."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    cors = CORSConfig(allow_origins=["https://other.example"], allow_credentials=True)
    async with serving(handler, cors_config=cors) as (app, streams):
        origin = ("origin", "https://other.example")
        preflight = await request(app, method="OPTIONS", headers=[origin, ("access-control-request-method", "GET")])
        assert preflight.status == 204
        assert streams.statistics().opened == 0
        response = await request(app, headers=[origin])
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert response.body == b"data: x\r\n\r\n"


async def test_csrf_refuses_without_a_stream(trace: Trace) -> None:
    """A request that CSRF protection refuses has no stream."""

    @post("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler, csrf_config=CSRFConfig(secret="0123456789abcdef")) as (app, streams):
        assert (await request(app, method="POST")).status == 403
        assert trace == []
        assert streams.statistics().opened == 0


# Compression


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
                    await connection.until(lambda read=read: len(connection.bodies) > read)
                    text += decompress(connection.bodies[read])
                    read += 1
                event.set()
            await connection.finished()
        assert connection.headers["content-encoding"] == encoding
        assert text.startswith(b": hello\r\n\r\n")


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


# Exceptions


async def test_handler_that_raises_is_answered_by_its_exception_handler(trace: Trace) -> None:
    """A handler that raises has its cleanups run as an error, before its exception handler answers."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        raise LookupError("in the handler")

    def answer(request: Request[Any, Any, Any], exc: LookupError) -> Response[str]:
        trace.append("exception handler")
        return Response(str(exc), status_code=418, media_type="text/plain")

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        response = await request(app)
        assert response.status == 418
        assert response.body == b"in the handler"
        assert trace == ["cleaned: error", "exception handler"]
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize("injected", [False, True])
async def test_exception_handler_may_answer_with_a_stream(trace: Trace, injected: bool) -> None:
    """An exception handler can tell of the error in an event, although the handler's own stream has ended."""

    async def take(stream: StreamContext) -> None:
        cleaned(trace, stream)

    @get("/", dependencies={"taken": Provide(take)} if injected else {})
    async def handler(taken: NamedDependency[Any] = None) -> SafeServerSentEvent:
        raise LookupError("in the handler")

    def answer(request: Request[Any, Any, Any], exc: LookupError) -> SafeServerSentEvent:
        return SafeServerSentEvent([str(exc)], event_type="error", status_code=200)

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert response.body == b"event: error\r\ndata: in the handler\r\n\r\n"
        assert response.complete
        assert trace == (["cleaned: error"] if injected else [])
        assert closed(streams)[CloseReason.COMPLETED] == 1


async def test_handler_that_raises_rolls_back(trace: Trace) -> None:
    """A context that a handler entered before it raised is left with an exception, as a block around it would be."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as exc:
            trace.append(type(exc))
            raise
        else:
            trace.append("committed")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(transaction())
        raise LookupError("in the handler")

    async with serving(handler) as (app, _):
        await request(app)
        assert trace == [LookupError]


@pytest.mark.parametrize("position", [0, 1, 3])
async def test_body_that_raises(trace: Trace, position: int) -> None:
    """A body that raises sends what came before, leaves the response without an end, cleans up, and is reported."""

    async def body() -> AsyncIterator[int]:
        for number in range(position):
            yield number
        raise LookupError("in the body")

    def answer(request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
        raise AssertionError("the response had started")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body())

    async with serving(handler, exception_handlers={LookupError: answer}) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), LookupError)
        assert connection.body == b"".join(b"data: %d\r\n\r\n" % number for number in range(position))
        assert not connection.complete
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


INVALID_ITEMS = [
    None,
    {"event": "a\nb", "data": 1},
    {"id": "a\0b", "data": 1},
    {"retry": -1},
    {"unknown": 1},
    {},
    b"\xff",
    "\ud800",
    object(),
    ServerSentEventMessage("x", event="a\rdata: forged"),
    ServerSentEventMessage("x", retry="5\ndata: forged"),  # type: ignore[arg-type]
    ServerSentEventMessage("x", sep="X"),
    ["a", object()],
]


@pytest.mark.parametrize("item", INVALID_ITEMS, ids=[str(number) for number in range(len(INVALID_ITEMS))])
async def test_body_that_yields_an_invalid_item(trace: Trace, item: object) -> None:
    """An item that cannot be sent ends the stream as an error, and not a byte of it is written."""

    async def body() -> AsyncIterator[object]:
        try:
            yield "before"
            yield item
            yield "after"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            trace.append("body ends")

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert isinstance(cause(failure), InvalidFieldError)
        assert connection.body == b"data: before\r\n\r\n"
        assert not connection.complete
        assert trace == ["body ends", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"ping_interval": 0}, "ping_interval"),
        ({"ping_interval": -1}, "ping_interval"),
        ({"ping_interval": float("nan")}, "ping_interval"),
        ({"send_timeout": 0}, "send_timeout"),
        ({"max_lifetime": float("inf")}, "max_lifetime"),
        ({"cleanup_timeout": "1"}, "cleanup_timeout"),
        ({"shutdown_grace": -1}, "shutdown_grace"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"separator": ""}, "separator"),
        ({"separator": "X"}, "separator"),
        ({"event_type": "a\nb"}, "event"),
        ({"event_id": "a\0b"}, "id"),
        ({"event_id": True}, "id"),
        ({"retry_duration": -1}, "retry"),
        ({"retry_duration": 1.5}, "retry"),
        ({"comment_message": 5}, "comment"),
        ({"comment_message": "\ud800"}, "comment"),
    ],
)
def test_invalid_parameters_of_a_response(parameters: dict[str, Any], field: str) -> None:
    """A parameter that cannot be sent or used is refused where the response is made, by name."""
    with pytest.raises(InvalidFieldError) as raised:
        SafeServerSentEvent(["x"], **parameters)
    assert raised.value.field == field


async def a_coroutine() -> str:
    return "x"


@pytest.mark.parametrize("make", [lambda: None, a_coroutine, lambda: list])
def test_content_that_can_be_no_body(make: Callable[[], Any]) -> None:
    """Content that can be no body is refused where the response is made."""
    with pytest.raises(InvalidFieldError) as raised:
        SafeServerSentEvent(make())
    assert raised.value.field == "content"


async def test_invalid_parameters_in_a_handler_leak_nothing(trace: Trace) -> None:
    """A handler whose response is refused has its cleanups run."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), ping_interval=0)

    async with serving(handler) as (app, _):
        assert (await request(app)).status == 500
        assert trace == ["cleaned: error"]


# Test clients


def test_test_client(trace: Trace) -> None:
    """Litestar's ``TestClient`` reads a stream to its end, with and without its lifespan."""
    app, streams = make_app(*endless_and_brief(trace))
    with TestClient(app) as client:
        assert client.get("/brief").text == "data: begun\r\n\r\n"
        with client.stream("GET", "/brief") as response:
            assert list(response.iter_lines()) == ["data: begun", ""]
        assert len(streams) == 0
    assert closed(streams) == {CloseReason.COMPLETED: 2}
    with TestClient(app) as client:  # a second life of the same application
        assert client.get("/brief").status_code == 200
    assert trace == BRIEF * 3


def test_test_client_raises_what_the_body_raised() -> None:
    """``TestClient`` raises what a body raised, unless told to answer 500."""

    async def body() -> AsyncIterator[str]:
        yield "x"
        raise LookupError("in the body")

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(body())

    app, _ = make_app(handler)
    with TestClient(app) as client, pytest.raises(LitestarException) as raised:
        client.get("/")
    assert isinstance(cause(raised.value), LookupError)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").status_code in (200, 500)


async def test_async_test_client(trace: Trace) -> None:
    """Litestar's ``AsyncTestClient`` reads a stream to its end."""
    app, streams = make_app(*endless_and_brief(trace))
    async with AsyncTestClient(app) as client:
        assert (await client.get("/brief")).text == "data: begun\r\n\r\n"
        async with client.stream("GET", "/brief") as response:
            assert [line async for line in response.aiter_lines()] == ["data: begun", ""]
    assert trace == BRIEF * 2
    assert closed(streams) == {CloseReason.COMPLETED: 2}


# HEAD


class Closeable:
    """An async iterator that holds something from the moment it is made."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __aiter__(self) -> Closeable:
        self.trace.append("started")
        return self

    async def __anext__(self) -> str:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.trace.append("closed")


async def test_head_never_starts_the_body(trace: Trace) -> None:
    """HEAD is answered with the headers of GET and one empty, final body; the body never begins."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(brief(trace), headers={"X-Stream": "1"}, cookies={"a": "b"}, comment_message="hello")

    async with serving(handler) as (app, streams):
        head = await request(app, method="HEAD")
        assert trace == ["cleaned: completed"]
        assert head.bodies == [b""]
        assert head.complete
        full = await request(app)
        assert head.status == full.status
        assert sorted(head.header_list) == sorted(full.header_list)
        assert closed(streams) == {CloseReason.COMPLETED: 2}


async def test_head_without_a_context(trace: Trace) -> None:
    """HEAD to a handler that asks for no context starts no body either."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        head = await request(app, method="HEAD")
        assert head.bodies == [b""]
        assert trace == []
        assert streams.statistics().closed == {CloseReason.COMPLETED: 1}


async def test_head_closes_a_body_that_was_never_started(trace: Trace) -> None:
    """HEAD closes the body that it does not start, since it may hold something already."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(Closeable(trace))

    async with serving(handler) as (app, _):
        await request(app, method="HEAD")
        assert trace == ["closed"]


# POST


@pytest.mark.parametrize("chunks", [[b'"a"'], [b'"', b"a", b'"'], [b'"a"', b""]])
async def test_post_with_its_body_read(trace: Trace, chunks: list[bytes]) -> None:
    """A POST whose body the handler has read streams, and ends when the client leaves."""

    @post("/", status_code=200)
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace, await request.json()))

    async with serving(handler) as (app, _):
        async with connect(app, method="POST", chunks=chunks) as connection:
            await connection.until_body(b"data: a")
        assert trace == ENDLESS


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x"] * 100])
async def test_post_with_its_body_unread(trace: Trace, chunks: list[bytes]) -> None:
    """A POST whose body nobody reads streams, and ends when the client leaves."""

    @post("/", status_code=200)
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        async with connect(app, method="POST", chunks=chunks) as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().open == 1
        assert trace == ENDLESS


async def test_request_of_the_context_reads_the_body() -> None:
    """``stream.request`` is a full request: the body can be read through it."""

    @post("/", status_code=200)
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent([await stream.request.json()])

    async with serving(handler) as (app, _):
        response = await request(app, method="POST", chunks=[b'{"data":', b"1}"])
        assert response.body == b"data: 1\r\n\r\n"


class CustomRequest(Request[Any, Any, Any]):
    pass


async def test_request_of_the_context_is_the_handlers_class() -> None:
    """``stream.request`` is of the handler's own request class, and sees the same state."""

    @get("/{name:str}", request_class=CustomRequest)
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        request.state.seen = "seen"
        assert isinstance(stream.request, CustomRequest)
        assert stream.request.state.seen == "seen"
        return SafeServerSentEvent([f"{stream.request.path_params['name']} {stream.request.query_params['q']}"])

    async with serving(handler) as (app, _):
        assert (await request(app, "/ada?q=1")).body == b"data: ada 1\r\n\r\n"


# Several applications, several loops


async def test_two_applications_do_not_know_of_each_other(trace: Trace) -> None:
    """Streams of one application are not in the registry of another, and survive its shutdown."""
    one, streams_of_one = make_app(*endless_and_brief([]))
    two, streams_of_two = make_app(*endless_and_brief(trace))
    async with lifespan(two), connect(two, "/endless") as connection:
        await connection.until_body(b"begun")
        async with lifespan(one), connect(one, "/endless") as other:
            await other.until_body(b"begun")
            assert (len(streams_of_one), len(streams_of_two)) == (1, 1)
        assert (len(streams_of_one), len(streams_of_two)) == (0, 1)
        assert trace == ["body begins"]
    assert trace == ENDLESS


COPY_SCOPE: list[dict[str, bool]] = [{}]
if "copy_scope" in inspect.signature(asgi).parameters:
    COPY_SCOPE = [{"copy_scope": True}, {"copy_scope": False}]


@pytest.mark.parametrize("copy_scope", COPY_SCOPE)
async def test_application_mounted_in_another(trace: Trace, copy_scope: dict[str, bool]) -> None:
    """An application mounted in another one keeps its streams in its own registry."""
    inner, inner_streams = make_app(*endless_and_brief(trace))

    @asgi("/inner", is_mount=True, **copy_scope)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async with lifespan(inner), serving_defaults([]) as (outer, outer_streams):
        outer.register(mount)
        async with connect(outer, "/inner/endless") as connection:
            await connection.until_body(b"begun")
            assert (len(inner_streams), len(outer_streams)) == (1, 0)
        assert trace == ENDLESS
        await request(outer, "/brief")
        assert outer_streams.statistics().opened == 1
        assert inner_streams.statistics().opened == 1


@pytest.mark.parametrize("copy_scope", COPY_SCOPE)
async def test_mounted_application_without_a_plugin(trace: Trace, copy_scope: dict[str, bool]) -> None:
    """The streams of an application without the plugin, mounted in one that has it, are that one's to end."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    inner = Litestar([handler], logging_config=None, openapi_config=None)

    @asgi("/inner", is_mount=True, **copy_scope)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async with serving(mount) as (outer, streams):
        async with connect(outer, "/inner/") as connection:
            await connection.until_body(b"begun")
            assert len(streams) == 1
            await streams.aclose_all()
            await connection.finished()
        assert connection.complete
        assert trace == ["body begins", "body ends"]


def collect(seen: list[Exception]) -> Any:
    async def after_exception(exc: Exception, scope: Scope) -> None:
        seen.append(exc)

    return after_exception


def test_two_plugins_in_one_application_are_refused() -> None:
    """An application takes one plugin; a second one is refused when the application is made."""
    with pytest.raises(ImproperlyConfiguredException, match="stream"):
        Litestar([], plugins=[SafeSSEPlugin(), SafeSSEPlugin()])


def test_event_loops_in_threads(trace: Trace) -> None:
    """Streams of one application in several event loops at once are counted together, and each ends in its own."""
    app, streams = make_app(*endless_and_brief(trace))
    all_open = threading.Barrier(4)
    failures: list[BaseException] = []

    async def stream_once() -> None:
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            await anyio.to_thread.run_sync(all_open.wait, LIMIT)
            assert len(streams) == 3
            await anyio.to_thread.run_sync(all_open.wait, LIMIT)

    def work(backend: str) -> None:
        try:
            anyio.run(stream_once, backend=backend)
        except BaseException as exc:
            failures.append(exc)
            all_open.abort()

    threads = [threading.Thread(target=work, args=(backend,)) for backend in ("asyncio", "asyncio", "trio")]
    for thread in threads:
        thread.start()
    all_open.wait(LIMIT)
    all_open.wait(LIMIT)
    for thread in threads:
        thread.join(LIMIT)
    assert failures == []
    assert sorted(trace) == sorted(ENDLESS * 3)
    assert len(streams) == 0


def handlers_in_chain(number: int) -> int:
    """How many handlers of a signal call one another."""
    handler, count = signal.getsignal(number), 0
    while handler is not None and hasattr(handler, "previous"):
        handler, count = handler.previous, count + 1
    return count


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loops_one_after_another_leave_nothing(trace: Trace, backend: str) -> None:
    """Without a lifespan, as on Daphne, loop after loop leaves no growing list of loops and signal handlers."""
    app, streams = make_app(*endless_and_brief(trace))
    before = handlers_in_chain(signal.SIGINT)
    for _ in range(5):
        anyio.run(request, app, "/brief", backend=backend)
    assert handlers_in_chain(signal.SIGINT) - before <= 1
    assert len(streams._loops) <= 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_application_lives_several_times(trace: Trace, backend: str) -> None:
    """An application that is started and shut down again and again streams each time, and leaves nothing."""
    app, streams = make_app(*endless_and_brief(trace))
    before = signal.getsignal(signal.SIGINT), list(app._lifespan_managers)

    async def live() -> None:
        async with lifespan(app) as life, connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            await life.shutdown()
            await connection.finished()

    for _ in range(3):
        anyio.run(live, backend=backend)
    assert trace == ["body begins", "body ends", "cleaned: shutdown"] * 3
    assert (signal.getsignal(signal.SIGINT), list(app._lifespan_managers)) == before
    assert len(streams._loops) == 0


@pytest.mark.parametrize("position", ["lifespan", "store", "on_startup"])
async def test_start_that_fails_leaves_nothing(position: str) -> None:
    """An application that fails to start, wherever, has taken out what the plugin had hooked in."""

    @asynccontextmanager
    async def failing(app: Litestar) -> AsyncIterator[None]:
        raise LookupError
        yield

    class FailingStore(MemoryStore):
        async def __aenter__(self) -> None:
            raise LookupError

    def fail() -> None:
        raise LookupError

    options: dict[str, Any] = {
        "lifespan": {"lifespan": [failing]},
        "store": {"stores": {"failing": FailingStore()}},
        "on_startup": {"on_startup": [fail]},
    }[position]
    app, streams = make_app(**options)
    before = signal.getsignal(signal.SIGINT), list(app._lifespan_managers)
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017, PT011 - an exception group on the newest Litestar only
            async with app.lifespan():
                pass
    assert (signal.getsignal(signal.SIGINT), list(app._lifespan_managers)) == before
    assert len(streams._loops) == 0


# Layers and dependencies


async def test_controllers_and_routers(trace: Trace) -> None:
    """A context is injected into controllers' methods, below routers, into sync and async handlers."""

    class Streams(Controller):
        path = "/controller"

        @get("/async")
        async def asynchronous(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

        @get("/sync", sync_to_thread=False)
        def synchronous(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

        @get("/thread", sync_to_thread=True)
        def in_a_thread(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

    async with serving(Router("/router", route_handlers=[Streams])) as (app, _):
        for name in ("async", "sync", "thread"):
            response = await request(app, f"/router/controller/{name}")
            assert response.body == b"data: begun\r\n\r\n"
    assert trace == BRIEF * 3


async def test_handler_registered_later(trace: Trace) -> None:
    """A handler registered when the application exists already streams, and is checked as the others are."""

    @get("/wrong")
    async def wrong(stream: NamedDependency[bool]) -> None: ...

    async with serving() as (app, _):
        app.register(endless_and_brief(trace)[1])
        await request(app, "/brief")
        assert trace == BRIEF
        with pytest.raises(ImproperlyConfiguredException, match="stream"):
            app.register(wrong)


@dataclass
class Pool:
    name: str


async def test_nested_dependencies(trace: Trace) -> None:
    """A dependency, and one of its own, can ask for the context; all get the same stream."""

    async def provide_pool(stream: StreamContext) -> Pool:
        stream.callback(trace.append, "pool closed")
        return Pool(stream.id)

    async def provide_client(pool: NamedDependency[Pool], stream: StreamContext) -> str:
        stream.callback(trace.append, "client closed")
        assert pool.name == stream.id
        return pool.name

    @get("/", dependencies={"client": Provide(provide_client)})
    async def handler(client: NamedDependency[str], stream: StreamContext) -> SafeServerSentEvent:
        assert client == stream.id
        return SafeServerSentEvent(endless(trace))

    async with serving(handler, dependencies={"pool": Provide(provide_pool)}) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().opened == 1
        assert trace == ["body begins", "body ends", "client closed", "pool closed"]


async def test_dependencies_that_enter_contexts_side_by_side(trace: Trace) -> None:
    """Dependencies that Litestar resolves at the same time can each enter a context, all left last in first out."""

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        trace.append(f"{name} opens")
        yield name
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        trace.append(f"{name} closes")

    async def provide_one(stream: StreamContext) -> str:
        return await stream.enter_async_context(resource("one"))

    async def provide_two(stream: StreamContext) -> str:
        return await stream.enter_async_context(resource("two"))

    dependencies = {"one": Provide(provide_one), "two": Provide(provide_two)}

    @get("/", dependencies=dependencies)
    async def handler(one: NamedDependency[str], two: NamedDependency[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent([one, two])

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body == b"data: one\r\n\r\ndata: two\r\n\r\n"
        opened = [line.split()[0] for line in trace[:2]]
        assert trace[2:] == [f"{name} closes" for name in reversed(opened)]


async def test_generator_dependency(trace: Trace) -> None:
    """A generator dependency can use the context; Litestar ends it when the handler has returned, as ever."""

    async def provide(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        yield stream.id
        trace.append("dependency ends")

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str], stream: StreamContext) -> SafeServerSentEvent:
        assert value == stream.id
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert trace == ["dependency ends", *ENDLESS]


async def test_generator_dependency_sees_a_handler_that_raises(trace: Trace) -> None:
    """A generator dependency is given the handler's exception, and the stream ends as an error."""

    async def provide(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        try:
            yield stream.id
        except LookupError:
            trace.append("dependency fails")
            raise

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str]) -> SafeServerSentEvent:
        raise LookupError

    async with serving(handler) as (app, streams):
        assert (await request(app)).status == 500
        assert trace == ["dependency fails", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_dependency_that_raises(trace: Trace) -> None:
    """A dependency that raises after it has registered cleanups has them run, and the handler is not called."""

    async def provide(stream: StreamContext) -> str:
        cleaned(trace, stream)
        raise NotAuthorizedException

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str]) -> SafeServerSentEvent:
        trace.append("called")
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        assert (await request(app)).status == 401
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_invalid_parameter_next_to_a_context(trace: Trace) -> None:
    """A request that fails validation next to a context leaves no stream behind."""

    @get("/")
    async def handler(number: FromQuery[int], stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        assert (await request(app, "/?number=x")).status == 400
        assert streams.statistics().open == 0
        assert trace == []


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@only_asyncio
async def test_context_variables_reach_the_body() -> None:
    """What a handler, or a context that it enters, sets in a context variable is seen by the body."""

    @asynccontextmanager
    async def setting() -> AsyncIterator[None]:
        token = variable.set("set")
        try:
            yield
        finally:
            variable.reset(token)

    async def body() -> AsyncIterator[str]:
        yield variable.get()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(setting())
        assert variable.get() == "set"
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, streams):
        assert (await request(app)).body == b"data: set\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 1}


@only_asyncio
async def test_context_entered_beside_a_handler_that_returns(trace: Trace) -> None:
    """Contexts that other tasks of a handler are still entering when it returns are entered and left, or refused."""
    go_on = asyncio.Event()

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[None]:
        await go_on.wait()
        trace.append(f"{name} opens")
        yield
        trace.append(f"{name} closes")

    tasks: list[asyncio.Task[None]] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        tasks.extend(asyncio.create_task(stream.enter_async_context(resource(name))) for name in ("one", "two"))
        await asyncio.sleep(0)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until(lambda: len(connection.sent) > 1)
            go_on.set()
            await connection.finished()
        done, pending = await asyncio.wait(tasks, timeout=1)
        for task in pending:
            task.cancel()
        assert not pending
        assert all(task.exception() is None or isinstance(task.exception(), StreamClosedError) for task in done)
        assert sum("opens" in line for line in trace) == sum("closes" in line for line in trace)


# Annotations

POSTPONED = """
from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import get

import litestar_safe_sse

if TYPE_CHECKING:
    from litestar_safe_sse import SafeServerSentEvent, StreamContext


@get("/")
async def handler(stream: StreamContext) -> SafeServerSentEvent:
    return litestar_safe_sse.SafeServerSentEvent([stream.id])
"""


@contextmanager
def module(source: str) -> Iterator[Any]:
    """A module of its own, as annotations are looked up in the module of their function."""
    spec = importlib.util.spec_from_loader("postponed_annotations", loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[made.__name__] = made
    try:
        exec(compile(source, made.__name__, "exec", dont_inherit=True), made.__dict__)
        yield made
    finally:
        del sys.modules[made.__name__]


async def test_annotations_imported_for_type_checking_only() -> None:
    """A handler's module may import the names it is annotated with under ``TYPE_CHECKING`` only."""
    with module(POSTPONED) as made:
        async with serving(made.handler) as (app, streams):
            response = await request(app)
            assert response.body.startswith(b"data: ")
            assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_context_imported_from_its_own_module(trace: Trace) -> None:
    """The class itself works as an annotation, also where Litestar wants dependencies to be marked."""
    source = POSTPONED.replace(
        "    from litestar_safe_sse import SafeServerSentEvent, StreamContext",
        "    from litestar_safe_sse import SafeServerSentEvent\nfrom litestar_safe_sse.context import StreamContext",
    )
    with module(source) as made:
        try:
            app, streams = make_app(made.handler)
        except Warning:
            return  # Litestar asks for NamedDependency[StreamContext]
        async with lifespan(app):
            await request(app)
        assert closed(streams) == {CloseReason.COMPLETED: 1}


# What the user configured


async def test_configuration_of_the_user_is_extended(trace: Trace) -> None:
    """The plugin keeps what the user configured, and does not touch the user's own lists."""
    dependencies = {"pool": Provide(lambda: Pool("mine"), sync_to_thread=False)}
    middleware = [ClassMiddleware]
    namespace = {"Mine": str}
    after_exception = [collect([])]
    on_startup = [lambda: trace.append("startup")]
    on_shutdown = [lambda: trace.append("shutdown")]

    @asynccontextmanager
    async def manager(app: Litestar) -> AsyncIterator[None]:
        trace.append("enter")
        yield
        trace.append("exit")

    lifespans = [manager]

    @get("/")
    async def handler(pool: NamedDependency[Pool], stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent([pool.name])

    async with serving(
        handler,
        dependencies=dependencies,
        middleware=middleware,
        signature_namespace=namespace,
        after_exception=after_exception,
        on_startup=on_startup,
        on_shutdown=on_shutdown,
        lifespan=lifespans,
    ) as (app, _):
        app.state.trace = trace
        assert (await request(app)).body == b"data: mine\r\n\r\n"
        assert app.signature_namespace["Mine"] is str
    assert trace == ["enter", "startup", "middleware", "exit", "shutdown"]
    assert list(dependencies) == ["pool"]
    assert middleware == [ClassMiddleware]
    assert list(namespace) == ["Mine"]
    assert len(after_exception) == len(on_startup) == len(on_shutdown) == len(lifespans) == 1


def test_dependency_of_the_user_with_our_name_is_refused() -> None:
    """An application that has a dependency ``stream`` already is told to rename it."""
    with pytest.raises(ImproperlyConfiguredException, match="rename it"):
        make_app(dependencies={"stream": Provide(lambda: 1, sync_to_thread=False)})


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
            with anyio.fail_after(LIMIT):
                await entered.wait()
            streams.begin_drain()
            go_on.set()
            await connection.finished()
        assert connection.status == 503
        assert "retry-after" in connection.headers
        assert trace == ["cleaned: shutdown"]
        assert closed(streams) == {CloseReason.SHUTDOWN: 1}


# OpenAPI


@pytest.mark.parametrize("injected", [False, True])
async def test_openapi_schema(injected: bool) -> None:
    """The OpenAPI schema can be made, has the handler's own parameters, and no trace of the context."""

    @get("/with")
    async def with_context(stream: StreamContext, number: FromQuery[int]) -> SafeServerSentEvent:
        return SafeServerSentEvent([number])

    @get("/without")
    async def without(number: FromQuery[int]) -> SafeServerSentEvent:
        return SafeServerSentEvent([number])

    app = Litestar([with_context if injected else without], plugins=[SafeSSEPlugin()], logging_config=None)
    async with lifespan(app):
        response = await request(app, "/schema/openapi.json")
        assert response.status == 200
        assert b"StreamContext" not in response.body
        (path,) = app.openapi_schema.to_schema()["paths"].values()
        assert [parameter["name"] for parameter in path["get"]["parameters"]] == ["number"]


# Contexts without a stream, responses without a context


async def test_handler_that_returns_something_else(trace: Trace) -> None:
    """A handler that asks for a context and returns something else has its cleanups run, as completed."""

    @get("/")
    async def handler(stream: StreamContext) -> dict[str, str]:
        cleaned(trace, stream)
        return {"id": stream.id}

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert trace == ["cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_handler_that_returns_litestars_own_response(trace: Trace) -> None:
    """A handler that asks for a context and returns Litestar's ``ServerSentEvent`` has its cleanups run after it."""

    @get("/")
    async def handler(stream: StreamContext) -> ServerSentEvent:
        cleaned(trace, stream)
        return ServerSentEvent(brief(trace))  # type: ignore[arg-type]

    async with serving(handler) as (app, _):
        response = await request(app)
        assert b"data: begun" in response.body
        assert trace == BRIEF


async def test_handler_that_is_cancelled(trace: Trace) -> None:
    """A handler that the server cancels has its cleanups run, since the client has left."""
    entered = anyio.Event()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            with anyio.fail_after(LIMIT):
                await entered.wait()
            connection.cancel()
        assert trace == ["cleaned: client_disconnected"]
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_client_that_leaves_while_the_handler_works(trace: Trace) -> None:
    """A client that leaves before the handler has returned is known before the body begins to wait."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            connection.leave()
            await connection.finished()
        assert trace[-1] == "cleaned: client_disconnected"
        assert trace.count("body begins") == trace.count("body ends")
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


async def test_handler_that_closes_its_stream(trace: Trace) -> None:
    """A handler that closes its stream and returns a response all the same answers an empty, complete stream."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        await stream.aclose(CloseReason.REVOKED)
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.status == 200
        assert response.body == b""
        assert response.complete
        assert trace == ["cleaned: revoked"]
        assert closed(streams) == {CloseReason.REVOKED: 1}


async def test_response_used_by_several_requests() -> None:
    """One response object whose content can be iterated over again serves several requests."""
    shared = SafeServerSentEvent(lambda: ["x"])

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return shared

    async with serving(handler) as (app, streams):
        for _ in range(2):
            assert (await request(app)).body == b"data: x\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 2}


async def test_asgi_response_called_twice(trace: Trace) -> None:
    """Answering twice with one stream is a typed error for the second answer, which is not begun."""

    @get("/")
    async def handler(request: Request[Any, Any, Any]) -> ASGIApp:
        made = SafeServerSentEvent(brief(trace)).to_asgi_response(None, request)

        async def twice(scope: Scope, receive: Receive, send: Send) -> None:
            await made(scope, receive, send)
            with pytest.raises(StreamClosedError):
                await made(scope, receive, send)
            trace.append("refused")

        return twice

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body == b"data: begun\r\n\r\n"
        assert trace == ["body begins", "body ends", "refused"]


async def test_asgi_response_that_is_never_called(trace: Trace) -> None:
    """A response that was made and not used is ended with its request, and its body is closed."""

    @get("/")
    async def handler(request: Request[Any, Any, Any], stream: StreamContext) -> str:
        cleaned(trace, stream)
        SafeServerSentEvent(Closeable(trace)).to_asgi_response(None, request)
        return "something else"

    async with serving(handler) as (app, streams):
        assert (await request(app)).body == b"something else"
        assert trace == ["closed", "cleaned: completed"]
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_registry_used_after_the_stream_has_ended() -> None:
    """Registering something with a stream that has ended raises a typed error, and nothing is opened."""
    kept: list[StreamContext] = []
    opened: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        opened.append("async")
        yield

    @contextmanager
    def sync_resource() -> Iterator[None]:
        opened.append("sync")
        yield

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        kept.append(stream)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        await request(app)
        (stream,) = kept
        with pytest.raises(StreamClosedError):
            stream.callback(print)
        with pytest.raises(StreamClosedError):
            stream.push_async_callback(anyio.sleep, 0)
        with pytest.raises(StreamClosedError):
            stream.enter_context(sync_resource())
        with pytest.raises(StreamClosedError):
            await stream.enter_async_context(resource())
        assert opened == []
        assert stream.state is StreamState.CLOSED
        assert stream.close_reason is CloseReason.COMPLETED
        assert stream.closing
        with anyio.fail_after(LIMIT):
            await stream.aclose()
            await stream.wait_closing()


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


# WebSockets


def test_websockets_are_left_alone() -> None:
    """WebSockets work as they do without the plugin."""

    @websocket("/")
    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    app, streams = make_app(echo)
    with TestClient(app) as client, client.websocket_connect("/") as session:
        session.send_text("hello")
        assert session.receive_text() == "hello"
    assert streams.statistics().opened == 0


async def test_context_in_a_websocket_handler() -> None:
    """A context asked for by a WebSocket's handler is a typed error that says why there is none."""
    seen: list[Exception] = []

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], stream: StreamContext) -> None:
        await socket.accept()

    async with serving(handler, after_exception=[collect(seen)]) as (app, streams):
        sent: list[Message] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {**http_scope("/"), "type": "websocket", "subprotocols": []}
        del scope["method"]
        with anyio.fail_after(LIMIT):
            await app(scope, receive, send)  # type: ignore[arg-type]
        assert [message["type"] for message in sent] == ["websocket.close"]
        assert [type(exc) for exc in seen] == [OutsideRequestError]
        assert streams.statistics().opened == 0


# Errors that say what to do


async def test_response_without_the_plugin(trace: Trace) -> None:
    """A response in an application without the plugin is a typed error that says how to register it."""
    seen: list[Exception] = []

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    app = Litestar([handler], logging_config=None, openapi_config=None, after_exception=[collect(seen)])
    response = await request(app)
    assert response.status == 500
    assert trace == []
    (error,) = seen
    assert isinstance(error, MissingPluginError)
    assert "plugins=[SafeSSEPlugin()]" in str(error)


def test_context_without_the_plugin() -> None:
    """A context asked for in an application without the plugin is refused, by older Litestars at the request only."""

    def ask() -> int:
        with TestClient(Litestar(endless_and_brief([]), logging_config=None, openapi_config=None)) as client:
            return client.get("/brief").status_code

    if hasattr(litestar.di, "NamedDependency"):  # from Litestar 2.23
        with pytest.raises(ImproperlyConfiguredException, match="stream"):
            ask()
    else:
        assert ask() == 400


def test_context_outside_a_request() -> None:
    """A context cannot be made by hand; the error says how to ask for one."""
    with pytest.raises(OutsideRequestError, match="stream: StreamContext"):
        StreamContext()


def test_context_of_another_type_in_a_handler() -> None:
    """A handler's parameter ``stream`` of another type is refused when the application is made."""

    @get("/")
    async def handler(stream: NamedDependency[bool]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


def test_context_of_another_type_in_a_websocket_handler() -> None:
    """A WebSocket handler's parameter ``stream`` of another type is refused when the application is made."""

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], stream: NamedDependency[bool]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


def test_context_of_another_type_in_a_dependency() -> None:
    """A dependency's parameter ``stream`` of another type is refused when the application is made."""

    async def provide(stream: NamedDependency[bool]) -> int:
        return int(stream)

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[int]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


async def test_query_parameter_keeps_its_name_as_an_alias() -> None:
    """A query parameter may be called ``stream`` on the wire, as the error advises."""

    @get("/")
    async def handler(wanted: Annotated[bool, QueryParameter(name="stream")]) -> str:
        return str(wanted)

    async with serving(handler) as (app, _):
        assert (await request(app, "/?stream=true")).body == b"True"


def test_config_of_another_type() -> None:
    """A plugin takes a ``SafeSSEConfig``, and says so."""
    with pytest.raises(InvalidFieldError, match="SafeSSEConfig"):
        SafeSSEPlugin({"ping_interval": 1})  # type: ignore[arg-type]


async def test_close_with_something_that_is_no_reason() -> None:
    """``aclose()`` takes a ``CloseReason``, and says so."""
    seen: list[Exception] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.aclose("closed")  # type: ignore[arg-type]
        return SafeServerSentEvent(["x"])

    async with serving(handler, after_exception=[collect(seen)]) as (app, _):
        assert (await request(app)).status == 500
        assert [type(exc) for exc in seen] == [InvalidFieldError]


# Settings of one response


async def test_settings_of_a_response_go_before_the_plugins() -> None:
    """A response's own settings are in force for its stream, and for no other."""

    @get("/own")
    async def own() -> SafeServerSentEvent:
        return SafeServerSentEvent([SSEMessage("a\nb", comment="c")], separator="\n", retry_duration=5)

    @get("/plugin")
    async def plugins() -> SafeServerSentEvent:
        return SafeServerSentEvent(["a"])

    config = SafeSSEConfig(retry=7, separator="\r")
    async with serving(own, plugins, config=config) as (app, _):
        assert (await request(app, "/own")).body == b": c\ndata: a\ndata: b\nretry: 5\n\n"
        assert (await request(app, "/plugin")).body == b"retry: 7\r\rdata: a\r\r"


async def test_max_lifetime_of_a_response(trace: Trace) -> None:
    """``max_lifetime`` given to a response ends its stream, completely, for the client to reconnect."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned(trace, stream)
        return SafeServerSentEvent(endless(trace), max_lifetime=0.02)

    async with serving(handler) as (app, streams):
        response = await request(app)
        assert response.complete
        assert trace == ["body begins", "body ends", "cleaned: max_lifetime"]
        assert closed(streams) == {CloseReason.MAX_LIFETIME: 1}


async def test_type_encoders_of_each_layer() -> None:
    """Objects that msgspec does not know are encoded by the type encoders of the layers, the nearest first."""

    class Odd:
        pass

    class Even:
        pass

    @get("/", type_encoders={Even: lambda _: "handler"})
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent([Odd(), {"data": [Even()]}], type_encoders={Odd: lambda _: "response"})

    async with serving(handler, type_encoders={Odd: lambda _: "app", Even: lambda _: "app"}) as (app, _):
        assert (await request(app)).body == b'data: "response"\r\n\r\ndata: ["handler"]\r\n\r\n'


async def test_streams_can_be_listed_and_closed(trace: Trace) -> None:
    """The registry lists the live streams by handler, and ends them all for the reason given."""
    async with serving_defaults(trace) as (app, streams):
        async with connect(app, "/endless") as one, connect(app, "/endless") as two:
            await one.until_body(b"begun")
            await two.until_body(b"begun")
            assert len(streams) == 2
            assert len({stream.id for stream in streams}) == 2
            assert all("endless_handler" in stream.handler for stream in streams)
            with anyio.fail_after(LIMIT):
                await streams.aclose_all(CloseReason.REVOKED)
            assert len(streams) == 0
            assert await one.finished() is None
            assert await two.finished() is None
            assert one.complete
        assert closed(streams) == {CloseReason.REVOKED: 2}
        assert trace.count("cleaned: revoked") == 2


def test_plugin_without_a_config() -> None:
    """A plugin without a configuration has the defaults."""
    assert SafeSSEPlugin().config == SafeSSEConfig()


async def test_logger_is_the_standard_librarys_without_a_logging_config(caplog: pytest.LogCaptureFixture) -> None:
    """Where the application has no logging configuration, the standard library's logger hears of streams."""
    with caplog.at_level(logging.DEBUG, "litestar_safe_sse"):
        async with serving_defaults([]) as (app, _):
            await request(app, "/brief")
    assert any("closed: completed" in record.getMessage() for record in caplog.records)
