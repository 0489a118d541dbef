"""What a request has of the plugin: its slot, the stream that is admitted for it, and the end of both."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import anyio
from litestar.exceptions import ServiceUnavailableException

from litestar_safe_sse._core.iteration import aclose
from litestar_safe_sse._core.registry import StreamRefusedError
from litestar_safe_sse._core.state import CloseReason, StreamState
from litestar_safe_sse._handler import Handler
from litestar_safe_sse.exceptions import MissingPluginError

if TYPE_CHECKING:
    from litestar.types import Scope, Send

    from litestar_safe_sse._core.buffer import BlockEncoder
    from litestar_safe_sse._core.receiving import Receiver
    from litestar_safe_sse._core.registry import StreamRegistry
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse.config import SafeSSEConfig

    Handlers = dict[object, Handler]

__all__ = ("SLOT", "Slot", "unavailable")

SLOT = "_litestar_safe_sse"
"""The key of the request's slot in the ``state`` of its scope, which survives a middleware's copy of the scope."""


class Slot:
    """What one request has of the plugin: the registry, and its stream once there is one.

    Args:
        registry: The application's streams.
        handlers: What the responses of each handler have in common.
        receiver: The ``receive`` of all who read the request.
        send: The ASGI ``send``.
    """

    __slots__ = ("_unused", "handlers", "receiver", "registry", "send", "stream")

    def __init__(self, registry: StreamRegistry, handlers: Handlers, receiver: Receiver, send: Send) -> None:
        self.registry = registry
        self.handlers = handlers
        self.receiver = receiver
        self.send = send
        self.stream: Stream | None = None
        self._unused: list[object] = []
        """Bodies of responses that were refused or replaced, which are closed all the same."""

    @staticmethod
    def of(scope: Scope) -> Slot:
        """Returns the slot of a request.

        Raises:
            MissingPluginError: If there is none, since the application has no plugin.
        """
        slot = scope["state"].get(SLOT)
        if slot is None:
            raise MissingPluginError(
                "SafeServerSentEvent needs its plugin: register it with Litestar(..., plugins=[SafeSSEPlugin()])"
            )
        return slot  # type: ignore[no-any-return]

    def handler(self, scope: Scope) -> Handler:
        """Returns what the responses of the request's handler have in common."""
        route_handler = scope["route_handler"]
        handler = self.handlers.get(route_handler)
        if handler is None:
            handler = self.handlers[route_handler] = Handler(str(route_handler))
        return handler

    def admit(self, scope: Scope) -> Stream:
        """Returns the request's stream, made if there is none that can still be answered with.

        Args:
            scope: The ASGI scope of the request.

        Raises:
            ServiceUnavailableException: If it is refused.
        """
        if self.stream is None or self.stream.state is not StreamState.NEW:
            try:
                self.stream = self.registry.admit(self.handler(scope).names)
            except StreamRefusedError as refusal:
                raise unavailable(str(refusal), self.registry.config) from refusal
        return self.stream

    def accept(self, scope: Scope, content: object, encoder: BlockEncoder, config: SafeSSEConfig) -> Stream:
        """Has the request's stream take over a body, which is closed though the stream be refused.

        Args:
            scope: The ASGI scope of the request.
            content: The body.
            encoder: Makes the bytes of events.
            config: The settings in force for the stream.

        Raises:
            ServiceUnavailableException: If it is refused.
        """
        self._unused.append(content)
        stream = self.admit(scope)
        if stream.close_reason is CloseReason.SHUTDOWN:
            raise unavailable("the server is shutting down", self.registry.config)
        self._unused.pop()
        replaced = stream.accept(content, encoder, config)
        if replaced is not None:
            self._unused.append(replaced)
        return stream

    async def end(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Ends what the request has: its stream, if that still lives, and bodies that were never started.

        Args:
            reason: Why the stream ends, unless it has a reason already.
            failure: What the request failed with.
        """
        try:
            while self._unused:
                await self._close(self._unused.pop())
        finally:
            if self.stream is not None and self.stream.state is not StreamState.CLOSED:
                await self.stream.discard(reason, failure)

    async def _close(self, unused: object) -> None:
        try:
            with anyio.move_on_after(self.registry.config.cleanup_timeout, shield=True):
                await aclose(unused)
        except Exception as exc:
            logger = self.registry.logger or logging.getLogger("litestar_safe_sse")
            logger.warning(f"SSE stream that was never started: its body failed to close: {exc!r}")


def unavailable(detail: str, config: SafeSSEConfig) -> ServiceUnavailableException:
    """Returns the 503 that tells a client when to try again (RFC 9110, section 10.2.3)."""
    return ServiceUnavailableException(detail=detail, headers={"Retry-After": str(math.ceil(config.retry_after))})
