"""How a stream reaches its client: what is ASGI's ``http`` protocol about it.

https://asgi.readthedocs.io/en/latest/specs/www.html#http
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse._core.timing import FINAL_SEND_TIMEOUT
from litestar_safe_sse._servers.connections import cut_response, drop_connections, is_shared
from litestar_safe_sse._servers.flow_control import find_flow_control
from litestar_safe_sse.exceptions import SSEError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from litestar_safe_sse._runtime.base import Runtime

    Message = Mapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ("HTTPTransport", "Transport")

_REPEATED_ENDS = 16
"""How often a server may say that the request body has ended before it is no longer believed."""


class Transport(Protocol):
    """The way to one client, and what can be learnt of it.

    ``start``, ``send`` and ``end`` return when the server may be given more. They raise what the server raises.
    """

    @property
    def request(self) -> tuple[Send, Message]:
        """The ASGI ``send`` and scope."""
        ...

    async def start(self) -> None:
        """Opens the response; called once."""

    async def send(self, chunk: bytes) -> None:
        """Sends whole events; called after :meth:`start`."""

    async def end(self, *, failed: bool) -> None:
        """Ends the response so that the client can tell whether it has all of it."""

    async def wait_left(self) -> None:
        """Waits until the client has left."""

    def drop(self) -> None:
        """Drops the connection of a client that takes nothing, if it is this stream's alone."""

    def release(self) -> None:
        """Gives back what was borrowed from the server; may be called again."""


class HTTPTransport:
    """A response over HTTP.

    Args:
        scope: The ASGI scope of the request.
        receive: The ASGI ``receive``.
        send: The ASGI ``send``.
        start: The ``http.response.start`` message.
        runtime: The running event loop.
        limit: Bytes that the server may hold back.
    """

    __slots__ = ("_flow_control", "_receive", "_runtime", "_send", "_start", "request")

    def __init__(
        self, scope: Message, receive: Receive, send: Send, start: Message, *, runtime: Runtime, limit: int
    ) -> None:
        self.request = send, scope
        self._receive = receive
        self._send = send
        self._start: Message | None = start
        self._runtime = runtime
        self._flow_control = find_flow_control(send, runtime, limit)

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

    async def end(self, *, failed: bool) -> None:
        """Ends the body; one that has failed is cut instead, which tells the client that events are missing."""
        ends_after_error = self._flow_control is not None and self._flow_control.ends_after_error
        self.release()
        if not failed or ends_after_error:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            # Shielded: Hypercorn says first that the client has left, upon which the writer is cancelled.
            with anyio.move_on_after(FINAL_SEND_TIMEOUT, shield=True):
                await cut_response(self._send)

    async def wait_left(self) -> None:
        """Reads until ``http.disconnect``."""
        messages = ends = 0
        while (message := await self._receive())["type"] != "http.disconnect":
            messages += 1
            ends += not message.get("more_body", False)
            if ends > _REPEATED_ENDS:
                raise SSEError("receive() keeps repeating that the request's body has ended")
            if messages > 1:  # there may be any number of them, without a wait in between
                await self._runtime.turn()

    def drop(self) -> None:
        """Drops the connection, unless it carries other requests."""
        if not is_shared(self.request[1]):
            drop_connections([self.request])

    def release(self) -> None:
        """Gives the server's flow control back."""
        if self._flow_control is not None:
            self._flow_control.close()
            self._flow_control = None
