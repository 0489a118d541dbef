"""The plugin: extends what the user configured, and assigns nothing."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware import DefineMiddleware
from litestar.plugins.base import CLIPlugin, InitPlugin, ReceiveRoutePlugin
from litestar.response import Stream
from litestar.routes import HTTPRoute, WebSocketRoute

from litestar_safe_sse._adopt import Adopter
from litestar_safe_sse._core.receiving import Receiver
from litestar_safe_sse._core.registry import StreamRegistry
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.websocket import WebSocketChannel
from litestar_safe_sse._litestar import chosen_status, logger_of
from litestar_safe_sse._options import check_functions
from litestar_safe_sse._refusal import ReconnectLater, answer_refusal
from litestar_safe_sse._slot import SLOT, Slot, SlotSource, WebSocketSlot
from litestar_safe_sse.config import SafeSSEConfig, refusing_unknown_names, unknown_name
from litestar_safe_sse.context import StreamContext
from litestar_safe_sse.dependencies import KEY, check_parameters, provide_stream, warn_of_short_lives
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.handlers import SSERouteHandler, describe_stream
from litestar_safe_sse.response import SafeServerSentEvent
from litestar_safe_sse.view import StreamsView
from litestar_safe_sse.websocket import SSEWebSocketHandler, register_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from click import Group
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.handlers import HTTPRouteHandler
    from litestar.openapi import OpenAPIConfig
    from litestar.routes import BaseRoute
    from litestar.types import ASGIApp, Receive, Scope, Send

__all__ = ("SafeSSEPlugin",)


_SETTINGS = tuple(setting.name for setting in fields(SafeSSEConfig))


def _refuse_name(name: str, known: Iterable[str]) -> InvalidFieldError:
    if name in _SETTINGS:
        return InvalidFieldError(name, f"must be given to the configuration: SafeSSEPlugin(SafeSSEConfig({name}=...))")
    what = "a parameter of SafeSSEPlugin, or a setting, as in SafeSSEPlugin(SafeSSEConfig(...))"
    return unknown_name(name, (*known, *_SETTINGS), what)


@refusing_unknown_names(_refuse_name)
class SafeSSEPlugin(SlotSource, InitPlugin, ReceiveRoutePlugin, CLIPlugin):
    """Makes ``SafeServerSentEvent`` and ``StreamContext`` work in an application.

    Args:
        config: The settings; the defaults unless given.
        adopt: Whether handlers that answer with another response of the type ``text/event-stream`` have it served by
            our stream too: Litestar's ``ServerSentEvent`` and ``Stream``, and those that libraries make of them.
        view: A page of the live streams, for those who pass its guards; ``None`` for none.

    Attributes:
        config: The settings.
        streams: The registry of the live streams.
    """

    def __init__(
        self, config: SafeSSEConfig | None = None, *, adopt: bool = False, view: StreamsView | None = None
    ) -> None:
        if config is not None and not isinstance(config, SafeSSEConfig):
            raise InvalidFieldError("config", f"must be a SafeSSEConfig, or None, not {type(config).__name__}")
        if adopt not in (True, False):
            raise InvalidFieldError("adopt", f"must be a bool, not {adopt!r}")
        if view is not None and not isinstance(view, StreamsView):
            raise InvalidFieldError("view", f"must be a StreamsView, or None, not {type(view).__name__}")
        self.config = config or SafeSSEConfig()
        check_functions(vars(self.config), "the connection")
        super().__init__(StreamRegistry(self.config))
        self._app_config: AppConfig | None = None
        self._adopter = Adopter() if adopt else None
        self._view = view

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Extends the application's configuration; called by Litestar."""
        if sum(isinstance(plugin, SafeSSEPlugin) for plugin in app_config.plugins) > 1:
            raise ImproperlyConfiguredException(
                "the application has SafeSSEPlugin more than once; leave one of them, with one SafeSSEConfig"
            )
        if KEY in app_config.dependencies:
            raise ImproperlyConfiguredException(
                f"the application has a dependency {KEY!r} already, which is where SafeSSEPlugin provides a "
                "StreamContext; rename it"
            )
        app_config.dependencies[KEY] = Provide(provide_stream, sync_to_thread=False)
        app_config.signature_namespace.setdefault("StreamContext", StreamContext)
        app_config.signature_namespace.setdefault("SafeServerSentEvent", SafeServerSentEvent)
        app_config.middleware.insert(0, DefineMiddleware(StreamGuard, source=self))
        app_config.exception_handlers = {**app_config.exception_handlers, ReconnectLater: answer_refusal}
        app_config.after_exception.append(end_stream_of_failed_handler)
        app_config.lifespan.append(self._lifespan)
        if self.config.doctor is not None:
            from litestar_safe_sse._doctor.route import make_doctor_router

            app_config.route_handlers.append(make_doctor_router(self.config, self.config.doctor))
        if self._view is not None:
            self._show(self._view, app_config)
        self._app_config = app_config
        app_config.on_shutdown.append(self.streams.stop)  # after the hooks of the application
        return app_config

    def _show(self, view: StreamsView, app_config: AppConfig) -> None:
        from litestar_safe_sse._view.records import Records, RememberRequest
        from litestar_safe_sse._view.route import make_view_router

        records = Records(self.streams, view.who)
        self.streams.observe(records)
        app_config.middleware.insert(0, DefineMiddleware(RememberRequest, records=records))
        app_config.route_handlers.append(make_view_router(view, records))

    def on_cli_init(self, cli: Group) -> None:
        """Adds the commands of ``litestar sse``; called by Litestar."""
        from litestar_safe_sse.cli import sse_group

        cli.add_command(sse_group)

    def receive_route(self, route: BaseRoute) -> None:
        """Refuses handlers that cannot work, and decides the status of those that stream; called by Litestar.

        Raises:
            ImproperlyConfiguredException: If a parameter ``stream`` is something else, or a stream is to be cached.
            MissingPluginError: If a parameter that is to be a ``StreamContext`` has another name.

        Warns:
            ShortLivedDependencyWarning: If a dependency of a handler that streams is closed before its stream begins.
        """
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                check_parameters(handler)
                if handler.parsed_fn_signature.return_type.is_subclass_of(SafeServerSentEvent):
                    check_cache(handler)
                    handler.status_code = chosen_status(handler.status_code, handler)  # which the schema tells
                if streams(handler, adopting=self._adopter is not None):
                    check_is_called(handler)
                describe_stream(handler, self._openapi_config)
                if self._adopter is not None:
                    self._adopter.adopt(handler)
                if streams(handler, adopting=self._adopter is not None):
                    warn_of_short_lives(handler)
                if isinstance(handler, SSERouteHandler):
                    register_websocket(handler, self._app_config.route_handlers if self._app_config else [])
        elif isinstance(route, WebSocketRoute):
            check_parameters(route.route_handler)
            if isinstance(route.route_handler, SSEWebSocketHandler):
                route.route_handler.endpoint.describe(route.route_handler)

    def _openapi_config(self) -> OpenAPIConfig | None:
        """Returns how the document is made: whatever other plugins have made of it."""
        return None if self._app_config is None else self._app_config.openapi_config

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

    def __init__(self, app: ASGIApp, source: SlotSource) -> None:
        self.app = app
        self.source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        slot: Slot
        if scope["type"] == ScopeType.HTTP:
            slot = Slot(self.source, Receiver.of(receive, self.source.streams.config.buffer_size), send)
        elif isinstance(scope["route_handler"], SSEWebSocketHandler):
            slot = WebSocketSlot(self.source, WebSocketChannel(receive, send))
        else:
            await self.app(scope, receive, send)
            return
        if slot.registry.logger is None:  # a server that runs no lifespan
            slot.registry.logger = logger_of(scope["litestar_app"])
        scope["state"][SLOT] = slot
        try:
            await self.app(scope, slot.receiver.receive, slot.send)
        except Exception as exc:
            await slot.end(CloseReason.ERROR, exc)
            raise
        except BaseException:
            await slot.end(CloseReason.CLIENT_DISCONNECTED)
            raise
        else:
            await slot.end(CloseReason.COMPLETED)
        finally:
            slot.end_response()


def streams(handler: HTTPRouteHandler, *, adopting: bool) -> bool:
    """Returns whether a handler tells that it streams: by what it returns, what it is, or what it asks for."""
    signature = handler.parsed_fn_signature
    return (
        isinstance(handler, SSERouteHandler)
        or signature.return_type.is_subclass_of((SafeServerSentEvent, Stream) if adopting else SafeServerSentEvent)
        or KEY in signature.parameters
    )


def check_is_called(handler: HTTPRouteHandler) -> None:
    """Refuses a generator function as the handler of a decorator that would have Litestar send the generator itself.

    Raises:
        InvalidFieldError: If it is one.
    """
    if isinstance(handler, SSERouteHandler):
        return
    function = getattr(handler.fn, "func", handler.fn)  # which Litestar may have wrapped, for a thread
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidFieldError(
            "handler",
            f"must be a function that returns a stream, but {handler} has a yield; decorate it by @sse, and annotate "
            "it with AsyncIterator[...], or have it return SafeServerSentEvent(...) of a generator",
        )


def check_cache(handler: HTTPRouteHandler) -> None:
    """Refuses to cache a stream: Litestar would keep every event, and replay a stream that was cut as a whole one."""
    if handler.cache:
        raise ImproperlyConfiguredException(f"{handler} returns a stream, which cannot be cached; remove `cache`")


async def end_stream_of_failed_handler(exc: Exception, scope: Scope) -> None:
    """Ends the stream of a handler that raised, before the error response is sent."""
    slot: Slot | None = scope["state"].get(SLOT)
    if slot is not None:
        slot.has_failed = True
        await slot.end(CloseReason.ERROR, exc)
