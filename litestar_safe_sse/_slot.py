"""What a request has of the plugin: its slot, the stream that is admitted for it, and the end of both."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
from litestar import Request, WebSocket
from litestar.connection.base import empty_receive, empty_send
from litestar.enums import ScopeType

from litestar_safe_sse._core.iteration import aclose
from litestar_safe_sse._core.receiving import Receiver
from litestar_safe_sse._core.registry import StreamRefusedError
from litestar_safe_sse._core.state import CloseReason, StreamState
from litestar_safe_sse._handler import Handler
from litestar_safe_sse._litestar import logger_of, request_class_of
from litestar_safe_sse._refusal import raised_by_the_application, refuse
from litestar_safe_sse._servers.endings import close_after_response
from litestar_safe_sse.exceptions import InvalidFieldError, MissingPluginError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from litestar import Litestar
    from litestar.connection import ASGIConnection
    from litestar.exceptions import HTTPException, WebSocketException
    from litestar.types import Scope

    from litestar_safe_sse._core.buffer import BlockEncoder
    from litestar_safe_sse._core.registry import LoopState, StreamRegistry
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._core.websocket import WebSocketChannel
    from litestar_safe_sse.config import PerKey, SafeSSEConfig
    from litestar_safe_sse.context import StreamContext

__all__ = ("SLOT", "NeedsPlugin", "Slot", "SlotSource", "WebSocketSlot")

SLOT = "_litestar_safe_sse"
"""The key of the request's slot in the ``state`` of its scope, which survives a middleware's copy of the scope."""


class SlotSource:
    """What the slots of an application's requests are made of; the plugin is one.

    Args:
        registry: The application's streams.
    """

    def __init__(self, registry: StreamRegistry) -> None:
        self.streams = registry
        self._handlers: dict[object, Handler] = {}
        """What the responses of each handler have in common: no more than the application has."""

    @staticmethod
    def of(scope: Scope) -> SlotSource:
        """Returns that of a request's application.

        Raises:
            MissingPluginError: If it has none.
        """
        source = SlotSource.find(scope["litestar_app"])
        if source is None:
            missing = missing_plugin("SafeServerSentEvent")
            logger_of(scope["litestar_app"]).error(str(missing))  # Litestar's answer is a 500, of which it logs nothing
            raise missing
        return source

    @staticmethod
    def find(app: Litestar) -> SlotSource | None:
        """Returns that of an application, or ``None`` if it has none."""
        return next((plugin for plugin in app.plugins if isinstance(plugin, SlotSource)), None)


def missing_plugin(what: str) -> MissingPluginError:
    """Returns the error for what needs the plugin in an application without."""
    return MissingPluginError(f"{what} needs its plugin: register it with Litestar(..., plugins=[SafeSSEPlugin()])")


class NeedsPlugin:
    """A route handler that is refused by an application without the plugin."""

    def on_registration(self, *args: Any, **kwargs: Any) -> None:
        """Is called by Litestar, from 3 on with the route besides.

        Raises:
            MissingPluginError: If the application has no plugin.
        """
        if SlotSource.find(kwargs["app"] if "app" in kwargs else args[-1]) is None:
            raise missing_plugin(f"the handler {self}")
        super().on_registration(*args, **kwargs)  # type: ignore[misc]


class Slot:
    """What one request has of the plugin: the registry, and its stream once there is one.

    Args:
        source: What it is made of.
        receiver: The ``receive`` of all who read the request.
        send: The ASGI ``send``.
        is_guarded: Whether somebody ends it with the request. Litestar runs no middleware for a request that it can't
            route; only an exception handler may stream to it.
    """

    __slots__ = ("_loop", "_source", "_unused", "has_failed", "is_guarded", "receiver", "registry", "send", "stream")

    def __init__(
        self, source: SlotSource, receiver: Receiver | WebSocketChannel, send: Any, *, is_guarded: bool = True
    ) -> None:
        self._source = source
        self.registry = source.streams
        self.receiver = receiver
        self.send = send
        self.is_guarded = is_guarded
        self.has_failed = not is_guarded
        """Whether it is for an exception handler to answer, beyond which nobody handles exceptions."""
        self.stream: Stream | None = None
        self._loop: LoopState | None = None
        """Who waits at a shutdown until the response is over, if somebody tells."""
        self._unused: tuple[object, ...] = ()
        """Bodies of responses that were refused or replaced, which are closed all the same."""

    @staticmethod
    def of(scope: Scope) -> Slot:
        """Returns the slot of a request.

        Raises:
            MissingPluginError: If the application has no plugin.
        """
        slot: Slot | None = scope["state"].get(SLOT)
        if slot is None:
            source = SlotSource.of(scope)
            receiver = Receiver(empty_receive, source.streams.config.buffer_size)
            slot = scope["state"][SLOT] = Slot(source, receiver, empty_send, is_guarded=False)
        return slot

    def handler(self, scope: Scope) -> Handler:
        """Returns what the responses of the request's handler have in common."""
        route_handler = scope.get("route_handler")
        handler = self._source._handlers.get(route_handler)
        if handler is None:
            name = "an exception handler" if route_handler is None else str(route_handler)
            handler = self._source._handlers[route_handler] = Handler(name)
        return handler

    def admit(self, scope: Scope) -> Stream:
        """Returns the request's stream, made if there is none that can still be answered with.

        Args:
            scope: The ASGI scope of the request.

        Raises:
            HTTPException: If it is refused.
        """
        if self.stream is None or self.stream.state is not StreamState.NEW:
            try:
                connection = self._connection(scope) if self.registry.config.admission else None
                self.stream = self.registry.admit(self.handler(scope).names, connection)
            except StreamRefusedError as refusal:
                why, is_shutdown = str(refusal), refusal.is_shutdown
                raise self._refuse(scope, why, is_shutdown=is_shutdown, rule=refusal.rule) from refusal
            except InvalidFieldError as error:
                raise raised_by_the_application(error) from error
            if self._loop is None:
                self._loop = self.registry.loop_state()
                if self.is_guarded:
                    self._loop.begin_response()
        return self.stream

    def accept(self, scope: Scope, content: object, encoder: BlockEncoder, config: SafeSSEConfig) -> Stream:
        """Has the request's stream take over a body, which is closed though the stream be refused.

        Args:
            scope: The ASGI scope of the request.
            content: The body.
            encoder: Makes the bytes of events.
            config: The settings in force for the stream.

        Raises:
            HTTPException: If it is refused.
        """
        try:
            stream = self.admit(scope)
            if stream.close_reason is CloseReason.SHUTDOWN:
                raise self._refuse(scope, "the server is shutting down", is_shutdown=True)
        except BaseException:
            self._unused += (content,)
            raise
        replaced = stream.accept(content, encoder, config)
        if replaced is not None:
            self._unused += (replaced,)
        return stream

    async def end(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Ends what the request has: its stream, if that still lives, and bodies that were never started.

        Args:
            reason: Why the stream ends, unless it has a reason already.
            failure: What the request failed with.
        """
        try:
            while self._unused:
                *others, unused = self._unused
                self._unused = tuple(others)
                await self._close(unused)
        finally:
            if self.stream is not None and self.stream.state is not StreamState.CLOSED:
                await self.stream.discard(reason, failure)

    def end_response(self) -> None:
        """Tells who waits for it at a shutdown that the response is over; called by whoever guards the request."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.end_response()

    async def run_background(
        self, work: Coroutine[Any, Any, object], stream: Stream, *, is_cancelled: bool
    ) -> BaseException | None:
        """Runs the background tasks of the response, which a shutdown waits for.

        Args:
            work: The background tasks.
            stream: The stream of the response.
            is_cancelled: Whether the server has cancelled the request.

        Returns:
            What they raised, if they did.
        """
        loop = self._loop or self.registry.loop_state()
        return await loop.run_background(work, stream, is_cancelled=is_cancelled)

    def _connection(self, scope: Scope) -> ASGIConnection[Any, Any, Any, Any]:
        if scope["type"] == ScopeType.WEBSOCKET:
            return WebSocket(scope, self.receiver.receive, self.send)
        request_class = request_class_of(scope) if "route_handler" in scope else Request
        return request_class(scope, self.receiver.receive, self.send)

    def _refuse(
        self, scope: Scope, why: str, *, is_shutdown: bool, rule: PerKey | None = None
    ) -> HTTPException | WebSocketException:
        if is_shutdown:
            close_after_response(self.send)
        return refuse(scope, self.registry.config, why, is_shutdown=is_shutdown, rule=rule)

    async def _close(self, unused: object) -> None:
        try:
            with anyio.move_on_after(self.registry.config.cleanup_timeout, shield=True):
                await aclose(unused)
        except Exception as exc:
            logger = self.registry.logger or logging.getLogger("litestar_safe_sse")
            logger.warning(f"SSE stream that was never started: its body failed to close: {exc!r}")


class WebSocketSlot(Slot):
    """What one WebSocket has of the plugin."""

    __slots__ = ("channel", "context")

    def __init__(self, source: SlotSource, channel: WebSocketChannel) -> None:
        super().__init__(source, channel, channel.send)
        self.channel = channel
        self.context: StreamContext | None = None
        """What the handler sees of the stream, if it asks for it: it is told what the client resumes after."""
