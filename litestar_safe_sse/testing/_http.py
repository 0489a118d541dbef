"""Streams over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from litestar_safe_sse._core.decoding import Decoder, Event
from litestar_safe_sse.config import check_duration
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
    from collections.abc import AsyncIterator, Iterator

    from litestar import Litestar

    from litestar_safe_sse.testing._exchange import Message

__all__ = ("OpenStream", "SyncOpenStream", "open_stream", "open_stream_sync")


_SHOWN = 200
"""Bytes of a response without a stream that an error shows."""

_WHY = (
    "what has failed is told by the log, with Litestar(debug=True), or with "
    'logging_config=LoggingConfig(log_exceptions="always")'
)


class HTTPExchange(Exchange):
    """A request over HTTP, and its response."""

    def __init__(self, app: Litestar, request: httpx.Request, timeout: float) -> None:
        scope = {"type": "http", "method": request.method, "scheme": request.url.scheme, **scope_of(request)}
        super().__init__(app, scope, f"{request.method} {request.url.raw_path.decode()}", timeout)
        self.request = request
        self.decoder = Decoder()
        self.head: tuple[int, httpx.Headers] | None = None
        self.body = bytearray()
        self.complete = False
        self._left = anyio.Event()
        self._asked = False

    @property
    def has_answered(self) -> bool:
        return self.head is not None

    @property
    def is_over(self) -> bool:
        return self.complete

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.request.read(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head = message["status"], httpx.Headers(list(message.get("headers", ())))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.decoder.feed(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    def leave(self) -> None:
        self._left.set()


class Response(View):
    """What can be seen of a response without waiting."""

    _exchange: HTTPExchange

    @property
    def status(self) -> int:
        """The status code."""
        return self._head[0]

    @property
    def headers(self) -> httpx.Headers:
        """The response's headers."""
        return self._head[1]

    @property
    def _head(self) -> tuple[int, httpx.Headers]:
        if self._exchange.head is None:
            raise StreamEndedError(f"there has been no response; {self._exchange.describe()}")
        return self._exchange.head

    def _how_it_ended(self) -> str:
        """Returns what to say where there is nothing more to wait for: the status of a response that is no stream."""
        ended = "ended" if self.complete else "cut"
        if self._exchange.head is None:
            return "there has been no response"
        kind = self.headers.get("content-type", "no content type")
        if self.status == 200 and kind.startswith("text/event-stream"):
            return f"the response was {ended}"
        start = bytes(self._exchange.body[:_SHOWN]).decode(errors="replace")
        told = f"the response has the status {self.status} and {kind}, and was {ended}: {start!r}"
        return f"{told}; {_WHY}" if self.status == 500 and not self._exchange.app.debug else told

    @property
    def comments(self) -> list[str]:
        """The latest thousand comments, heartbeats among them."""
        return list(self._exchange.decoder.comments)

    @property
    def last_event_id(self) -> str:
        """The ID that the client would resume by."""
        return self._exchange.decoder.last_event_id

    @property
    def retry(self) -> int | None:
        """The reconnection time in milliseconds that the server has set, or ``None``."""
        return self._exchange.decoder.retry

    @property
    def complete(self) -> bool:
        """Whether the response has come to its proper end; one that was cut has not."""
        return self._exchange.complete


class OpenStream(Response, AsyncClient):
    """A stream and its client; made by :func:`open_stream`."""

    _exchange: HTTPExchange

    async def next(self, timeout: float | None = None) -> Event:
        """Waits for the next event.

        Args:
            timeout: Seconds to wait; those given to :func:`open_stream` unless given.

        Raises:
            StreamEndedError: The response has ended, properly or not.
            TimeoutError: None has come; the message tells how the stream fares.
        """
        exchange = self._exchange
        await exchange.until(lambda: exchange.decoder.events or exchange.has_ended, "the next event", timeout)
        if exchange.decoder.events:
            return exchange.decoder.events.popleft()
        raise StreamEndedError(f"{self._how_it_ended()}; {exchange.describe()}")

    async def read(self, timeout: float | None = None) -> bytes:
        """Waits for the end of the response, and returns all of its body: that of an error, say.

        Args:
            timeout: Seconds to wait; those given to :func:`open_stream` unless given.

        Raises:
            TimeoutError: It has not ended.
        """
        await self._exchange.until(lambda: self._exchange.has_ended, "the end of the response", timeout)
        return bytes(self._exchange.body)

    async def wait_comment(self, timeout: float | None = None) -> str:
        """Waits for a comment to come, such as a heartbeat, and returns it.

        Args:
            timeout: Seconds to wait; those given to :func:`open_stream` unless given.

        Raises:
            StreamEndedError: The response has ended.
            TimeoutError: None has come.
        """
        decoder = self._exchange.decoder
        before = decoder.comments_seen
        await self._exchange.until(
            lambda: decoder.comments_seen > before or self._exchange.has_ended, "a comment", timeout
        )
        if decoder.comments_seen == before:
            raise StreamEndedError(f"{self._how_it_ended()}; {self._exchange.describe()}")
        return decoder.comments[-1]

    async def half_close(self) -> None:
        """Leaves as a client that still reads, and waits likewise.

        Raises:
            TimeoutError: The stream has not ended.
        """
        self._exchange.leave()
        await self.wait_closed()


class SyncOpenStream(Response, SyncClient):
    """The same for tests that are plain functions; made by :func:`open_stream_sync`."""

    def read(self, timeout: float | None = None) -> bytes:
        """Waits for the end of the response; see :meth:`OpenStream.read`."""
        return self._portal.call(self._stream.read, timeout)  # type: ignore[no-any-return]

    def wait_comment(self, timeout: float | None = None) -> str:
        """Waits for a comment; see :meth:`OpenStream.wait_comment`."""
        return self._portal.call(self._stream.wait_comment, timeout)  # type: ignore[no-any-return]

    def half_close(self) -> None:
        """Leaves as a client that still reads; see :meth:`OpenStream.half_close`."""
        self._portal.call(self._stream.half_close)


@asynccontextmanager
async def open_stream(
    app: Litestar,
    method: str,
    path: str,
    *,
    params: Any = None,
    headers: Any = None,
    cookies: httpx.Cookies | dict[str, str] | None = None,
    json: Any = None,
    data: Any = None,
    content: Any = None,
    files: Any = None,
    last_event_id: str | int | None = None,
    timeout: float = 5.0,
    raise_app_exceptions: bool = True,
) -> AsyncIterator[OpenStream]:
    """Opens a stream of an application that has the plugin, on asyncio or trio.

    The application's lifespan is entered, unless this event loop is in it already. When the block is left, a stream
    that is still open loses its client, and has ended and cleaned up.

    Args:
        app: The application.
        method: The request's method.
        path: Its path, with or without a query.
        params: Its query parameters, as httpx takes them.
        headers: Its headers, beside ``Accept: text/event-stream``.
        cookies: Its cookies. To a ``httpx.Cookies`` those are added that the response sets, for the next request.
        json: Its body, sent as JSON.
        data: Its body, sent as a form.
        content: Its body, as bytes or text.
        files: Its files, sent as a form.
        last_event_id: The ID that a client resumes by.
        timeout: Seconds that each wait may take.
        raise_app_exceptions: Whether what the application raises to the server is raised when the block is left.

    Raises:
        InvalidFieldError: ``timeout`` is no positive number of seconds.
        MissingPluginError: The application has no plugin.
        TimeoutError: The response did not begin, or the stream did not end.
    """
    check_duration("timeout", timeout)
    plugin_of(app)
    jar = cookies if isinstance(cookies, httpx.Cookies) else httpx.Cookies(cookies)
    fields = headers_of(headers, last_event_id)
    fields.setdefault("Accept", "text/event-stream")
    request = httpx.Request(
        method,
        url_of(path),
        params=params,
        headers=fields,
        cookies=jar,
        json=json,
        data=data,
        content=content,
        files=files,
    )
    exchange = HTTPExchange(app, request, timeout)
    async with running(exchange, "the response", raise_app_exceptions=raise_app_exceptions):
        if exchange.head is not None:
            jar.extract_cookies(httpx.Response(exchange.head[0], headers=exchange.head[1], request=request))
        yield OpenStream(exchange)


@contextmanager
def open_stream_sync(app: Litestar, method: str, path: str, **options: Any) -> Iterator[SyncOpenStream]:
    """Opens a stream for a test that is a plain function: the application runs in an event loop of another thread.

    Args:
        app: The application.
        method: The request's method.
        path: Its path, with or without a query.
        **options: As in :func:`open_stream`.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_stream(app, method, path, **options)) as stream,
    ):
        yield SyncOpenStream(stream, portal)
