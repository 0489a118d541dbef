"""What ASGI does not offer for a client that reads too slowly: to wait for it.

Daphne, and Hypercorn over HTTP/2, take all they are given and buffer it without bound. Both know how much is waiting,
so there the writer asks them. Where the server is not found behind ``send``, ``send()`` is all the flow control there
is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._servers.behind_send import behind, daphne_request, daphne_websocket, module_of_owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("FlowControl", "find_flow_control")


class FlowControl:
    """Waits, after a ``send()``, until the client has taken enough."""

    ends_after_error = False
    """Whether the server leaves a response open for ever whose application has raised."""

    async def drain(self) -> None:
        """Waits until the server may be given more."""

    def close(self) -> None:
        """Gives the server back as it was, ahead of the end of the response."""


class DaphneFlowControl(FlowControl):
    """Twisted tells a request's producer when to pause: ``twisted.web.http.Request.registerProducer``."""

    ends_after_error = True

    def __init__(self, request: Any, runtime: Runtime) -> None:
        self._request = request
        self._is_paused = False
        self._resumed = runtime.wake()
        request.registerProducer(self, True)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's IPushProducer
        self._is_paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self._is_paused = False
        self._resumed.set()

    def stopProducing(self) -> None:  # noqa: N802
        self.resumeProducing()

    async def drain(self) -> None:
        while self._is_paused:
            await self._resumed.wait()

    def close(self) -> None:
        request, self._request = self._request, None
        if request is not None and getattr(request, "channel", None) is not None:
            request.unregisterProducer()


class DaphneWebSocketFlowControl(DaphneFlowControl):
    """Of a WebSocket, Twisted still takes the HTTP channel that it came by for the producer.

    Told to pause, that pauses the reading, so that nobody learns any more that the client has left.
    """

    def __init__(self, protocol: Any, runtime: Runtime) -> None:
        protocol.unregisterProducer()
        super().__init__(protocol, runtime)

    def close(self) -> None:
        protocol, self._request = self._request, None
        if protocol is not None and getattr(protocol, "transport", None) is not None:
            protocol.unregisterProducer()


class HypercornFlowControl(FlowControl):
    """The buffer of an HTTP/2 stream pauses its writer by an event that its reader sets again at once."""

    def __init__(self, buffers: dict[int, Any], stream_id: int, limit: int) -> None:
        self._buffers = buffers
        self._stream_id = stream_id
        self._limit = limit

    async def drain(self) -> None:
        buffer = self._buffers.get(self._stream_id)
        if buffer is not None and len(buffer.buffer) > self._limit:
            await buffer.drain()


def find_flow_control(send: Callable[..., Awaitable[None]], runtime: Runtime, limit: int) -> FlowControl | None:
    """Finds the flow control of a server that needs it.

    Args:
        send: The ASGI ``send`` of the request, wrapped or not.
        runtime: The running event loop.
        limit: Bytes that the server may hold back, on those that only tell how much it is.

    Returns:
        The flow control, or ``None`` where ``send()`` itself waits.
    """
    if "daphne.server" not in sys.modules and "hypercorn.protocol.h2" not in sys.modules:
        return None
    for candidate in behind(send):
        if (request := daphne_request(candidate)) is not None:
            return DaphneFlowControl(request, runtime)
        if (protocol := daphne_websocket(candidate)) is not None:
            return DaphneWebSocketFlowControl(protocol, runtime)
        if module_of_owner(candidate) in ("hypercorn.protocol.http_stream", "hypercorn.protocol.ws_stream"):
            stream = candidate.__self__
            buffers = getattr(getattr(stream.send, "__self__", None), "stream_buffers", None)
            if isinstance(buffers, dict):
                return HypercornFlowControl(buffers, stream.stream_id, limit)
    return None
