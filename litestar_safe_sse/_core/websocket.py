"""How a stream reaches its client over a WebSocket: what is ASGI's ``websocket`` protocol about it.

https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._servers.connections import Connection
from litestar_safe_sse._servers.endings import Hold, close_websocket
from litestar_safe_sse._servers.flow_control import find_flow_control
from litestar_safe_sse.exceptions import SSEError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from litestar_safe_sse._runtime.base import Runtime

    Message = Mapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

__all__ = (
    "CLOSE_CODES",
    "INVALID_MESSAGE",
    "POLICY_VIOLATION",
    "TOO_LARGE",
    "TRY_AGAIN_LATER",
    "MessageTooLargeError",
    "WebSocketChannel",
    "WebSocketTransport",
)

CLOSE_CODES: Mapping[CloseReason, int] = {
    CloseReason.COMPLETED: 1000,
    CloseReason.CLOSED: 1000,
    CloseReason.MAX_LIFETIME: 1001,
    CloseReason.SHUTDOWN: 1001,
    CloseReason.REVOKED: 1008,
    CloseReason.ERROR: 1011,
}
"""What a client is told by the close frame (https://www.iana.org/assignments/websocket): whether to come back. For the
other reasons nothing reaches it."""

INVALID_MESSAGE = 1007
POLICY_VIOLATION = 1008
TOO_LARGE = 1009
TRY_AGAIN_LATER = 1013

TURN_EVERY = 64
"""Messages of one chunk between which the loop has a turn: servers take each without waiting."""

_MAX_REASON = 123

_LEFT = {"type": "websocket.disconnect", "code": 1006}


class MessageTooLargeError(SSEError):
    """A client has sent more than it may."""


class WebSocketChannel:
    """The ``receive()`` and ``send()`` of one WebSocket, for the application and its stream.

    Of what the client says, the first message is kept if it is waited for, and all else is let go: to read on is how
    one learns that it has left. Nothing is sent after the end, as Litestar would for an exception of which the stream
    has told already.

    Args:
        receive: The server's ``receive``.
        send: The server's ``send``.
    """

    __slots__ = (
        "_first",
        "_first_limit",
        "_has_stopped",
        "_is_connected",
        "_is_read",
        "_news",
        "_reading",
        "_receive",
        "has_accepted",
        "has_ended",
        "has_left",
        "server_send",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self.server_send = send
        self._news: anyio.Event | None = None
        self._is_connected = False
        self._is_read = False
        self._reading: anyio.CancelScope | None = None
        self._has_stopped = anyio.Event()
        self._first_limit: int | None = None
        """Bytes that the first message may have, while it is waited for."""
        self._first: Message | None = None
        self.has_accepted = False
        self.has_ended = False
        self.has_left = False

    async def receive(self) -> Any:
        """The ASGI ``receive`` of the application, before the stream begins.

        Raises:
            SSEError: If the stream has begun, which reads by itself.
        """
        if self._is_read:
            raise SSEError(
                "a stream must be left to read its WebSocket alone, by which it learns that the client has left; to "
                "hear what clients say, use a WebSocket handler of Litestar's beside it"
            )
        if not self.has_left:
            message = await self._receive()
            self._take(message)
            return message
        return _LEFT

    async def send(self, message: Message) -> None:
        """The ASGI ``send`` of the application, and of the stream."""
        kind = message["type"]
        if self.has_ended or self.has_left or (kind == "websocket.accept" and self.has_accepted):
            return
        if kind == "websocket.close":
            await self._accept_to_tell(message)
            self.has_ended = True
            message = {**message, "reason": _shortened(message.get("reason") or "")}
            if self.has_accepted and close_websocket(self.server_send, message.get("code", 1000), message["reason"]):
                return
        self.has_accepted |= kind == "websocket.accept"
        await self.server_send(message)

    async def _accept_to_tell(self, message: Message) -> None:
        """Accepts what is refused for a time: before that, servers can't tell a client why (it is a 403)."""
        if message.get("code") in (TRY_AGAIN_LATER, INVALID_MESSAGE):
            await self.send({"type": "websocket.accept"})

    async def wait_left(self) -> None:
        """Reads until the client has left; for ever if it is told to stop before that."""
        self._is_read = True
        with anyio.CancelScope() as self._reading:
            await self._read()
        if not self.has_left:
            self._has_stopped.set()
            await anyio.sleep_forever()

    async def stop_reading(self) -> None:
        """Ends the reading, which is to be done ahead of the close frame: Granian sends none while somebody reads."""
        if self._reading is not None and not self.has_left:
            self._reading.cancel()
            await self._has_stopped.wait()

    async def _read(self) -> None:
        while not self.has_left:
            message = await self._receive()
            self._take(message)
            if message["type"] == "websocket.receive":
                await checkpoint()  # there may be any number of messages without a wait in between

    async def wait_connected(self) -> None:
        """Waits until the server has said that there is a client, which comes before its acceptance."""
        while not (self._is_connected or self.has_left):
            await self._wait_for_news()

    def expect_first(self, limit: int) -> None:
        """Has the first message kept.

        Args:
            limit: Bytes that it may have.
        """
        self._first_limit = limit

    async def first_message(self) -> bytes:
        """Waits for the first message, which has been expected.

        Raises:
            MessageTooLargeError: If it is too large.
        """
        while self._first is None:
            await self._wait_for_news()
        content = _content_of(self._first)
        if self._first_limit is not None and len(content) > self._first_limit:
            raise MessageTooLargeError(
                f"the first message must have at most {self._first_limit} bytes, not {len(content)}"
            )
        return content

    async def _wait_for_news(self) -> None:
        self._news = self._news or anyio.Event()
        await self._news.wait()

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.connect":
            self._is_connected = True
        elif kind == "websocket.disconnect":
            self.has_left = True
        elif self._first is None and self._first_limit is not None:
            self._first = message
        else:
            return
        if self._news is not None:
            self._news.set()
            self._news = None


def _shortened(reason: str) -> str:
    """Returns as much of a text as a close frame has room for (RFC 6455, section 5.5)."""
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")


def _content_of(message: Message) -> bytes:
    text, data = message.get("text"), message.get("bytes")
    return text.encode() if isinstance(text, str) else data or b""


class WebSocketTransport:
    """The messages over a WebSocket, one for each line of what the writer sends.

    Args:
        scope: The ASGI scope.
        channel: The WebSocket.
        runtime: The running event loop.
        limit: Bytes that the server may hold back.
        binary: Whether messages are binary.
    """

    __slots__ = ("_binary", "_channel", "_flow_control", "_hold", "_runtime", "_scope", "refusal")

    is_websocket = True

    def __init__(
        self, scope: Message, channel: WebSocketChannel, *, runtime: Runtime, limit: int, binary: bool = False
    ) -> None:
        self._scope = scope
        self._channel = channel
        self._runtime = runtime
        self._binary = binary
        self._flow_control = find_flow_control(channel.server_send, runtime, limit)
        self._hold = Hold(channel.server_send)
        self.refusal: tuple[int, str] | None = None
        """The code and the text that the client is told instead of what the reason says."""

    @property
    def connection(self) -> Connection:
        """The connection of the WebSocket."""
        return Connection.of(self._channel.server_send, self._scope)

    async def start(self) -> None:
        """Accepts the client."""
        await self._channel.wait_connected()
        await self._channel.send({"type": "websocket.accept"})

    async def send(self, chunk: bytes) -> None:
        """Sends the lines of a chunk."""
        for number, message in enumerate(self._messages(chunk), 1):
            await self._channel.send(message)
            if self._flow_control is not None:
                await self._flow_control.drain()
            if number % TURN_EVERY == 0:
                await self._runtime.turn()

    def _messages(self, chunk: bytes) -> list[Message]:
        if self._binary:
            return [{"type": "websocket.send", "bytes": line} for line in chunk.split(b"\n") if line]
        return [{"type": "websocket.send", "text": line} for line in chunk.decode().split("\n") if line]

    async def end(self, *, failed: bool, reason: CloseReason | None) -> None:
        """Closes the WebSocket by the code that says why."""
        self._release_flow_control()
        why = CloseReason.ERROR if failed or reason is None else reason
        await self._channel.stop_reading()
        code, text = self.refusal or (CLOSE_CODES.get(why, 1000), str(why))
        await self._channel.send({"type": "websocket.close", "code": code, "reason": text})

    async def wait_left(self) -> None:
        """Reads until ``websocket.disconnect``."""
        await self._channel.wait_left()

    def release(self) -> None:
        """Gives back what was borrowed from the server."""
        self._release_flow_control()
        self._hold.release()

    def _release_flow_control(self) -> None:
        if self._flow_control is not None:
            self._flow_control.close()
            self._flow_control = None
