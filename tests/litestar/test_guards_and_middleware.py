"""Guards and middleware of every kind, around a stream on every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from litestar import Controller, Router, get
from litestar.exceptions import LitestarException, NotAuthorizedException
from litestar.middleware import ASGIMiddleware, DefineMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext
from tests.litestar.apps import ClassMiddleware, cause, cleaned, closed, serving, serving_defaults
from tests.litestar.bodies import BRIEF, ENDLESS, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

if TYPE_CHECKING:
    from litestar.handlers import BaseRouteHandler

pytestmark = pytest.mark.anyio


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


class LitestarMiddleware(ASGIMiddleware):
    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await next_app(scope, receive, send)


class CopyingMiddleware(ClassMiddleware):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await self.app(scope.copy(), receive, send)


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
            group.start_soon(self.app, scope, receive, send)  # type: ignore[arg-type]


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
