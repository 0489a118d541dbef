"""Applications, what is registered with them, and what can be asked of their streams."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from litestar import Litestar, Request, Response, get
from litestar.exceptions import LitestarException
from litestar.params import Parameter
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamContext
from tests.litestar.bodies import Trace, brief, endless
from tests.litestar.clients import lifespan

if TYPE_CHECKING:
    from litestar_safe_sse._core.registry import StreamRegistry

T = TypeVar("T")

if TYPE_CHECKING:
    from litestar.di import NamedDependency as NamedDependency
    from litestar.params import FromPath as FromPath
    from litestar.params import FromQuery as FromQuery
    from litestar.params import JSONBody as JSONBody
    from litestar.params import QueryParameter as QueryParameter
else:
    try:
        from litestar.di import NamedDependency
        from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
    except ImportError:  # before Litestar 2.23
        NamedDependency = Annotated[T, "a dependency"]
        FromPath = Annotated[T, "a path parameter"]
        FromQuery = Annotated[T, "a query parameter"]
        JSONBody = Annotated[T, "the body"]

        def QueryParameter(name: str) -> Any:  # noqa: N802
            return Parameter(query=name)


CONFIG = SafeSSEConfig(ping_interval=None, cleanup_timeout=1, shutdown_grace=0.2)

CONFIGURES_LOGGING = "logging_config" in inspect.signature(Litestar).parameters
"""Whether applications configure logging: until Litestar 3."""

UNLOGGED: dict[str, Any] = {"logging_config": None} if CONFIGURES_LOGGING else {}
"""What an application is made with that configures no logging."""

PLAIN: dict[str, Any] = {"openapi_config": None, **UNLOGGED}
"""What an application of the tests is made with."""


def make_app(*handlers: Any, config: SafeSSEConfig = CONFIG, **options: Any) -> tuple[Litestar, StreamRegistry]:
    plugin = SafeSSEPlugin(config)
    options = {**PLAIN, **options}
    plugins = [*options.pop("plugins_before", ()), plugin, *options.pop("plugins_after", ())]
    return Litestar(handlers, plugins=plugins, **options), plugin.streams


@asynccontextmanager
async def serving(*handlers: Any, **options: Any) -> AsyncIterator[tuple[Litestar, StreamRegistry]]:
    """Runs an application whose streams must all have ended by the end of the block."""
    app, streams = make_app(*handlers, **options)
    async with lifespan(app):
        yield app, streams
        assert streams.statistics().open == 0


def to_asgi(response: Response[Any], request: Request[Any, Any, Any], **options: Any) -> ASGIResponse:
    """Makes the ASGI response, as middleware and exception handlers do; from Litestar 3 there is no ``app`` to pass."""
    if "app" in inspect.signature(Response.to_asgi_response).parameters:
        options["app"] = None
    return response.to_asgi_response(request=request, **options)


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


class ClassMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"].state.trace.append("middleware")
        await self.app(scope, receive, send)


def collect(seen: list[Exception]) -> Any:
    """An ``after_exception`` hook that keeps what was raised."""

    async def after_exception(exc: Exception, scope: Scope) -> None:
        seen.append(exc)

    return after_exception


@dataclass
class Pool:
    name: str
