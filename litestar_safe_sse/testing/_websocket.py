"""Streams over WebSockets."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import anyio
import httpx
import msgspec
from anyio.from_thread import start_blocking_portal

from litestar_safe_sse._core.decoding import Event
from litestar_safe_sse.config import check_choice, check_duration
from litestar_safe_sse.testing._client import AsyncClient, SyncClient, View
from litestar_safe_sse.testing._exchange import (
    Exchange,
    StreamEndedError,
    headers_of,
    plugin_of,
    running,
    scope_of,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from litestar import Litestar

    from litestar_safe_sse.testing._exchange import Message

__all__ = ("OpenWebSocket", "SyncOpenWebSocket", "open_websocket", "open_websocket_sync")

_ABNORMAL = 1006
"""What a server tells of a client that has left without a word (RFC 6455, section 7.1.5)."""

_KEPT = 1000
"""Messages that are kept, the latest."""


class Fields(msgspec.Struct):
    """What a message may have."""

    event: str = "message"
    id: str | None = None
    retry: int | None = None
    data: msgspec.Raw = msgspec.Raw()


class WebSocketExchange(Exchange):
    """A WebSocket, and what has come by it."""

    def __init__(self, app: Litestar, request: httpx.Request, subprotocols: Sequence[str], timeout: float) -> None:
        scope = {"type": "websocket", "scheme": "ws", "subprotocols": list(subprotocols), **scope_of(request)}
        super().__init__(app, scope, f"WebSocket {request.url.raw_path.decode()}", timeout)
        self.accepted: Message | None = None
        self.closed: Message | None = None
        self.events: deque[Event] = deque()
        self.messages: deque[str | bytes] = deque(maxlen=_KEPT)
        self.heartbeats = 0
        self.last_event_id = ""
        self.retry: int | None = None
        self.leaves_by = _ABNORMAL
        self._said: deque[Message] = deque([{"type": "websocket.connect"}])
        self._has_said = anyio.Event()

    @property
    def has_answered(self) -> bool:
        return self.accepted is not None or self.closed is not None

    @property
    def is_over(self) -> bool:
        return self.closed is not None

    async def _receive(self) -> Message:
        while not self._said:
            self._has_said = anyio.Event()
            await self._has_said.wait()
        return self._said.popleft()

    def say(self, message: Message) -> None:
        """Has the server tell something of the client."""
        self._said.append(message)
        self._has_said.set()

    def leave(self) -> None:
        self.say({"type": "websocket.disconnect", "code": self.leaves_by})

    def _take(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self.accepted = message
        elif message["type"] == "websocket.close":
            self.closed = message
        elif message["type"] == "websocket.send":
            text = message.get("text")
            self._take_content(message["bytes"] if text is None else text)

    def _take_content(self, content: str | bytes) -> None:
        self.messages.append(content)
        if self.stream is None:
            return  # a handler of another kind says what it likes
        fields = msgspec.json.decode(content, type=Fields)
        self.last_event_id = self.last_event_id if fields.id is None else fields.id
        self.retry = self.retry if fields.retry is None else fields.retry
        if data := bytes(fields.data):
            self.events.append(Event(fields.event, _text_of(data), self.last_event_id))
        elif msgspec.json.decode(content) == {}:
            self.heartbeats += 1


def _text_of(data: bytes) -> str:
    """Returns text as it is, and all else as JSON: the data that the event has over HTTP."""
    return msgspec.json.decode(data, type=str) if data.startswith(b'"') else data.decode()


class WebSocketView(View):
    """What can be seen of a WebSocket without waiting."""

    _exchange: WebSocketExchange

    @property
    def accepted(self) -> bool:
        """Whether the application has accepted the client, be it to tell why it is refused."""
        return self._exchange.accepted is not None

    @property
    def status(self) -> int:
        """The answer to the handshake, which is 403 where the application has not accepted the client, and else 101."""
        return 101 if self.accepted else 403

    @property
    def headers(self) -> httpx.Headers:
        """The headers of the acceptance."""
        return httpx.Headers(list((self._exchange.accepted or {}).get("headers", ())))

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the application has chosen, or ``None``."""
        chosen: str | None = (self._exchange.accepted or {}).get("subprotocol")
        return chosen

    @property
    def close_code(self) -> int | None:
        """What the application has closed the WebSocket by, or has refused it by; ``None`` while it is open."""
        closed = self._exchange.closed
        return None if closed is None else closed.get("code", 1000)

    @property
    def close_text(self) -> str:
        """The text of the close frame."""
        return (self._exchange.closed or {}).get("reason") or ""

    @property
    def messages(self) -> list[str | bytes]:
        """The latest thousand messages as they came, ``bytes`` where the mode is binary."""
        return list(self._exchange.messages)

    @property
    def heartbeats(self) -> int:
        """How many heartbeats, ``{}``, have come."""
        return self._exchange.heartbeats

    @property
    def last_event_id(self) -> str:
        """The ID that the client would resume by."""
        return self._exchange.last_event_id

    @property
    def retry(self) -> int | None:
        """The reconnection time in milliseconds that the server has set, or ``None``."""
        return self._exchange.retry


class OpenWebSocket(WebSocketView, AsyncClient):
    """A stream over a WebSocket and its client; made by :func:`open_websocket`."""

    _exchange: WebSocketExchange

    async def next(self, timeout: float | None = None) -> Event:
        """Waits for the next event: the same as over HTTP, with the type ``message`` if it has none.

        Args:
            timeout: Seconds to wait; those given to :func:`open_websocket` unless given.

        Raises:
            StreamEndedError: The WebSocket has been closed.
            TimeoutError: None has come; the message tells how the stream fares.
        """
        exchange = self._exchange
        await exchange.until(lambda: exchange.events or exchange.has_ended, "the next event", timeout)
        if exchange.events:
            return exchange.events.popleft()
        how = "not closed" if self.close_code is None else f"closed by {self.close_code} {self.close_text!r}"
        raise StreamEndedError(f"the WebSocket has ended, and was {how}; {exchange.describe()}")

    async def wait_heartbeat(self, timeout: float | None = None) -> None:
        """Waits for a heartbeat to come.

        Args:
            timeout: Seconds to wait; those given to :func:`open_websocket` unless given.

        Raises:
            StreamEndedError: The WebSocket has been closed.
            TimeoutError: None has come.
        """
        exchange, before = self._exchange, self._exchange.heartbeats
        await exchange.until(lambda: exchange.heartbeats > before or exchange.has_ended, "a heartbeat", timeout)
        if exchange.heartbeats == before:
            raise StreamEndedError(f"the WebSocket has been closed; {exchange.describe()}")

    def send(self, message: Any) -> None:
        """Says something as the client.

        Args:
            message: ``str`` is sent as text and ``bytes`` as binary, as they are; all else as JSON.
        """
        if isinstance(message, bytes):
            self._exchange.say({"type": "websocket.receive", "bytes": message})
        else:
            text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
            self._exchange.say({"type": "websocket.receive", "text": text})

    async def disconnect(self, code: int = _ABNORMAL) -> None:
        """Leaves, and waits until the stream has ended and cleaned up.

        Args:
            code: What the client closes by; 1006 is a connection that is lost without a word.

        Raises:
            TimeoutError: It has not.
        """
        self._exchange.leaves_by = code
        await self._exchange.disconnect()


class SyncOpenWebSocket(WebSocketView, SyncClient):
    """The same for tests that are plain functions; made by :func:`open_websocket_sync`."""

    def wait_heartbeat(self, timeout: float | None = None) -> None:
        """Waits for a heartbeat; see :meth:`OpenWebSocket.wait_heartbeat`."""
        self._portal.call(self._stream.wait_heartbeat, timeout)

    def send(self, message: Any) -> None:
        """Says something as the client; see :meth:`OpenWebSocket.send`."""
        self._portal.call(self._stream.send, message)

    def disconnect(self, code: int = _ABNORMAL) -> None:
        """Leaves; see :meth:`OpenWebSocket.disconnect`."""
        self._portal.call(self._stream.disconnect, code)


@asynccontextmanager
async def open_websocket(
    app: Litestar,
    path: str,
    *,
    params: dict[str, Any] | None = None,
    headers: Any = None,
    cookies: httpx.Cookies | dict[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    last_event_id: str | int | None = None,
    resume_by: Literal["query", "header", "message"] = "query",
    timeout: float = 5.0,
    raise_app_exceptions: bool = True,
) -> AsyncIterator[OpenWebSocket]:
    """Opens a stream over a WebSocket, on asyncio or trio, as :func:`open_stream` opens one over HTTP.

    Args:
        app: The application.
        path: The path, with or without a query.
        params: The query parameters.
        headers: The headers of the handshake, such as ``Origin``.
        cookies: Its cookies. To a ``httpx.Cookies`` those are added that the acceptance sets, for the next request.
        subprotocols: Those that the client offers.
        last_event_id: The ID that the client resumes by.
        resume_by: How it says so: by the query parameter that the plugin reads, the header ``Last-Event-ID``, or its
            first message, which is ``{}`` if there is no ID.
        timeout: Seconds that each wait may take.
        raise_app_exceptions: Whether what the application raises to the server is raised when the block is left.

    Raises:
        InvalidFieldError: ``timeout`` is no positive number of seconds, or ``resume_by`` something else.
        MissingPluginError: The application has no plugin.
        TimeoutError: The client was neither accepted nor refused, or the stream did not end.
    """
    check_duration("timeout", timeout)
    check_choice("resume_by", resume_by, ("query", "header", "message"))
    config = plugin_of(app).config
    jar = cookies if isinstance(cookies, httpx.Cookies) else httpx.Cookies(cookies)
    url = url_of(path).copy_merge_params(params or {})
    if last_event_id is not None and resume_by == "query":
        url = url.copy_merge_params({config.last_event_id_query or "last_event_id": last_event_id})
    fields = headers_of(headers, last_event_id if resume_by == "header" else None)
    request = httpx.Request("GET", url, headers=fields, cookies=jar)
    exchange = WebSocketExchange(app, request, subprotocols, timeout)
    stream = OpenWebSocket(exchange)
    if resume_by == "message":
        stream.send({} if last_event_id is None else {"last_event_id": str(last_event_id)})
    async with running(exchange, "an answer to the handshake", raise_app_exceptions=raise_app_exceptions):
        jar.extract_cookies(httpx.Response(stream.status, headers=stream.headers, request=request))
        yield stream


@contextmanager
def open_websocket_sync(app: Litestar, path: str, **options: Any) -> Iterator[SyncOpenWebSocket]:
    """Opens a stream over a WebSocket for a test that is a plain function.

    Args:
        app: The application.
        path: The path, with or without a query.
        **options: As in :func:`open_websocket`.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_websocket(app, path, **options)) as stream,
    ):
        yield SyncOpenWebSocket(stream, portal)
