"""The plugin: extends what the user configured, and assigns nothing."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, ImproperlyConfiguredException
from litestar.middleware import DefineMiddleware
from litestar.plugins.base import InitPlugin, ReceiveRoutePlugin
from litestar.routes import HTTPRoute, WebSocketRoute
from litestar.types import Scope

from litestar_safe_sse._core.encoding import decode_last_event_id
from litestar_safe_sse._core.registry import StreamRegistry
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse.config import SafeSSEConfig
from litestar_safe_sse.context import StreamContext
from litestar_safe_sse.exceptions import InvalidFieldError, OutsideRequestError
from litestar_safe_sse.response import SLOT, SafeServerSentEvent, Slot, end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar import Litestar, Request
    from litestar.config.app import AppConfig
    from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
    from litestar.routes import BaseRoute
    from litestar.types import ASGIApp, Receive, Send

    from litestar_safe_sse.response import Handlers

__all__ = ("SafeSSEPlugin",)

KEY = "stream"
"""The name of the parameter that a stream's context is injected as."""


try:
    from litestar.di import NamedDependency
except ImportError:  # before Litestar 2.23
    InjectedStreamContext: Any = StreamContext
else:
    InjectedStreamContext = NamedDependency[StreamContext]
"""What ``litestar_safe_sse.StreamContext`` is at run time: the class, marked as Litestar 3 wants a dependency to be."""


class SafeSSEPlugin(InitPlugin, ReceiveRoutePlugin):
    """Makes ``SafeServerSentEvent`` and ``StreamContext`` work in an application.

    Args:
        config: The settings; the defaults unless given.

    Attributes:
        config: The settings.
        streams: The registry of the live streams.
    """

    def __init__(self, config: SafeSSEConfig | None = None) -> None:
        if config is not None and not isinstance(config, SafeSSEConfig):
            raise InvalidFieldError("config", f"{type(config).__name__} is no SafeSSEConfig; give one, or None")
        self.config = config or SafeSSEConfig()
        self.streams = StreamRegistry(self.config)
        self._handlers: Handlers = {}  # no more than the application has

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Extends the application's configuration; called by Litestar."""
        if KEY in app_config.dependencies:
            raise ImproperlyConfiguredException(
                f"the application has a dependency {KEY!r} already, which is where SafeSSEPlugin provides a "
                "StreamContext; rename it"
            )
        app_config.dependencies[KEY] = Provide(provide_stream, sync_to_thread=False)
        app_config.signature_namespace.setdefault("StreamContext", InjectedStreamContext)
        app_config.signature_namespace.setdefault("SafeServerSentEvent", SafeServerSentEvent)
        app_config.middleware.insert(0, DefineMiddleware(StreamGuard, registry=self.streams, handlers=self._handlers))
        app_config.after_exception.append(end_stream_of_failed_handler)
        app_config.lifespan.append(self._lifespan)
        app_config.on_shutdown.append(self.streams.stop)  # after the hooks of the application
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Refuses handlers that cannot work; called by Litestar.

        Raises:
            ImproperlyConfiguredException: If a parameter ``stream`` is something else, or a stream is to be cached.
        """
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                check_parameters(handler)
                check_cache(handler)
        elif isinstance(route, WebSocketRoute):
            check_parameters(route.route_handler)

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncGenerator[None, None]:
        self.streams.logger = logger_of(app)
        self.streams.start()
        drained = False

        @asynccontextmanager
        async def drain(_: Litestar) -> AsyncGenerator[None, None]:
            nonlocal drained
            try:
                yield
            finally:
                drained = True
                await self.streams.drain()

        managers = getattr(app, "_lifespan_managers", [])
        # Litestar.lifespan() is iterating over this list now: what is added is entered last, so it is left first.
        managers.append(drain)
        try:
            yield
        finally:
            managers.remove(drain)
            if not drained:  # the start failed on the way there
                await self.streams.drain()


class StreamGuard:
    """Gives each request its slot, and makes sure that a stream no response has taken is ended all the same."""

    def __init__(self, app: ASGIApp, registry: StreamRegistry, handlers: Handlers) -> None:
        self.app = app
        self.registry = registry
        self.handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        if self.registry.logger is None:  # a server that runs no lifespan
            self.registry.logger = logger_of(scope["litestar_app"])
        slot = scope["state"][SLOT] = Slot(self.registry, self.handlers, receive, send)
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            await end(slot, CloseReason.ERROR, exc)
            raise
        except BaseException:
            await end(slot, CloseReason.CLIENT_DISCONNECTED)
            raise
        else:
            await end(slot, CloseReason.COMPLETED)


def check_parameters(handler: BaseRouteHandler) -> None:
    """Refuses a parameter ``stream``, of a handler or of a dependency, that would be given a ``StreamContext``."""
    providers = handler.resolve_dependencies()
    if KEY not in providers or providers[KEY].dependency is not provide_stream:
        return
    takers: tuple[BaseRouteHandler | Provide, ...] = (handler, *providers.values())
    for taker in takers:
        field = taker.parsed_fn_signature.parameters.get(KEY)
        if field is not None and not field.is_subclass_of(StreamContext):
            raise ImproperlyConfiguredException(
                f"the parameter {KEY!r} of {handler}, or of a dependency of it, would be given a StreamContext; rename "
                "the parameter (a query parameter can keep its name on the wire, as an alias)"
            )


def check_cache(handler: HTTPRouteHandler) -> None:
    """Refuses to cache a stream: Litestar would keep every event, and replay a stream that was cut as a whole one."""
    if handler.cache and handler.parsed_fn_signature.return_type.is_subclass_of(SafeServerSentEvent):
        raise ImproperlyConfiguredException(f"{handler} returns a stream, which cannot be cached; remove `cache`")


async def end_stream_of_failed_handler(exc: Exception, scope: Scope) -> None:
    """Ends the stream of a handler that raised, before the error response is sent."""
    slot = scope["state"].get(SLOT)
    if slot is not None:
        await end(slot, CloseReason.ERROR, exc)


def provide_stream(scope: Scope) -> StreamContext:
    """Makes the context of the request's stream; the stream lives until the response has ended.

    Raises:
        OutsideRequestError: In the handler of a WebSocket.
        ClientException: If the client sent a ``Last-Event-ID`` that no event can have had.
        ServiceUnavailableException: If the stream is refused.
    """
    if scope["type"] != ScopeType.HTTP:
        raise OutsideRequestError("a StreamContext belongs to an HTTP request; a WebSocket has no event stream")
    slot = Slot.of(scope)
    last_event_id = last_event_id_of(scope, slot.registry.config.max_last_event_id)
    request_class: type[Request[Any, Any, Any]] = scope["route_handler"].resolve_request_class()  # type: ignore[union-attr]
    return StreamContext(slot.admit(scope), request_class(scope, slot.receive, slot.send), last_event_id)


def last_event_id_of(scope: Scope, max_length: int) -> str | None:
    """Reads the header by which a client resumes (WHATWG HTML, section 9.2.4)."""
    for name, value in scope["headers"]:
        if name == b"last-event-id":
            try:
                return decode_last_event_id(value, max_length)
            except InvalidFieldError as error:
                raise ClientException(str(error)) from error
    return None


def logger_of(app: Litestar) -> Any:
    """The application's logger, or the standard library's where it has none."""
    return app.logger if app.logging_config is not None and app.logger else logging.getLogger("litestar_safe_sse")
