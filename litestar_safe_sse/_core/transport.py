"""How a stream reaches its client: what is ASGI's ``http`` protocol about it.

https://asgi.readthedocs.io/en/latest/specs/www.html#http
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse._core.receiving import Receiver
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.timing import FINAL_SEND_TIMEOUT
from litestar_safe_sse._servers.connections import Connection
from litestar_safe_sse._servers.endings import close_after_response, cut_response
from litestar_safe_sse._servers.flow_control import find_flow_control

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from litestar_safe_sse._core.receiving import Receive
    from litestar_safe_sse._runtime.base import Runtime

    Message = Mapping[str, Any]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ("HTTPTransport", "Transport")


class Transport(Protocol):
    """The way to one client, and what can be learnt of it.

    ``start``, ``send`` and ``end`` return when the server may be given more. They raise what the server raises.
    """

    @property
    def is_websocket(self) -> bool:
        """Whether it is a WebSocket."""
        ...

    @property
    def connection(self) -> Connection:
        """The connection, to be dropped if the client takes nothing."""
        ...

    async def start(self) -> None:
        """Opens the response; called once."""

    async def send(self, chunk: bytes) -> None:
        """Sends whole events; called after :meth:`start`."""

    async def end(self, *, failed: bool, reason: CloseReason | None) -> None:
        """Ends the response so that the client can tell whether it has all of it.

        Args:
            failed: Whether there should have been more.
            reason: Why the stream ends.
        """

    def wait_left(self) -> Coroutine[Any, Any, None]:
        """Waits until the client has left."""
        ...

    def release(self) -> None:
        """Gives back what was borrowed from the server; may be called again."""


class HTTPTransport:
    """A response over HTTP.

    Args:
        scope: The ASGI scope of the request.
        receive: The ASGI ``receive``, that of a ``Receiver`` if others read the request as well.
        send: The ASGI ``send``.
        start: The ``http.response.start`` message.
        runtime: The running event loop.
        limit: Bytes that the server may hold back, and that are kept of a request that is not read.
    """

    __slots__ = ("_flow_control", "_receiver", "_scope", "_send", "_start")

    is_websocket = False

    def __init__(
        self, scope: Message, receive: Receive, send: Send, start: Message, *, runtime: Runtime, limit: int
    ) -> None:
        self._scope = scope
        self._receiver = Receiver.of(receive, limit)
        self._send = send
        self._start: Message | None = start
        self._flow_control = find_flow_control(send, runtime, limit)

    @property
    def connection(self) -> Connection:
        """The connection of the request."""
        return Connection.of(self._send, self._scope)

    async def start(self) -> None:
        """Sends the headers."""
        start, self._start = self._start, None  # not held for as long as the stream lasts
        if start is not None:
            await self._send(start)

    async def send(self, chunk: bytes) -> None:
        """Sends a part of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self._flow_control is not None:
            await self._flow_control.drain()

    async def end(self, *, failed: bool, reason: CloseReason | None) -> None:
        """Ends the body; one that has failed is cut instead, which tells the client that events are missing."""
        ends_after_error = self._flow_control is not None and self._flow_control.ends_after_error
        self.release()
        if reason is CloseReason.SHUTDOWN:  # the client is to come back elsewhere
            close_after_response(self._send)
        if not failed or ends_after_error:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            # Shielded: Hypercorn says first that the client has left, upon which the writer is cancelled.
            with anyio.move_on_after(FINAL_SEND_TIMEOUT, shield=True):
                await cut_response(self._send)

    def wait_left(self) -> Coroutine[Any, Any, None]:
        """Reads until ``http.disconnect``."""
        return self._receiver.wait_left()

    def release(self) -> None:
        """Gives the server's flow control back."""
        if self._flow_control is not None:
            self._flow_control.close()
            self._flow_control = None
