"""Endless streams in tests: no server, no subprocess, and no wait without a bound.

``open_stream`` calls the application as a server would, reads its events by the standard, and can do what clients and
servers do to a stream: leave, stop reading, shut down. What the stream did about it can then be asserted on.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from litestar_safe_sse._core.decoding import Decoder, Event
from litestar_safe_sse._litestar import cause_of
from litestar_safe_sse._slot import SLOT
from litestar_safe_sse.config import check_duration
from litestar_safe_sse.exceptions import MissingPluginError, SSEError
from litestar_safe_sse.plugin import SafeSSEPlugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from anyio.from_thread import BlockingPortal
    from litestar import Litestar

    from litestar_safe_sse._core.registry import StreamRegistry
    from litestar_safe_sse._core.state import CloseReason
    from litestar_safe_sse._core.statistics import StreamStatistics
    from litestar_safe_sse._core.stream import Stream

    Message = dict[str, Any]

__all__ = ("Event", "OpenStream", "StreamEndedError", "SyncOpenStream", "open_stream", "open_stream_sync")


class StreamEndedError(SSEError):
    """An event was waited for, and the response has ended instead."""


class _Exchange:
    """One request to the application, and what a server and its client know of it."""

    def __init__(self, app: Litestar, request: httpx.Request, timeout: float) -> None:
        self.app = app
        self.request = request
        self.timeout = timeout
        self.decoder = Decoder()
        self.head: tuple[int, httpx.Headers] | None = None
        self.body = bytearray()
        self.complete = False
        self.returned = False
        self.exception: Exception | None = None
        self.left = anyio.Event()
        self.hears = True
        self.resumed: anyio.Event | None = None
        self._scope = _scope_of(request)
        self._asked = False
        self._changed = anyio.Event()

    @property
    def has_ended(self) -> bool:
        return self.complete or self.returned

    @property
    def stream(self) -> Stream | None:
        slot = self._scope["state"].get(SLOT)
        return None if slot is None else slot.stream

    async def run(self) -> None:
        try:
            await self.app(self._scope, self._receive, self._send)  # type: ignore[arg-type]
        except Exception as error:
            self.exception = cause_of(error)
        finally:
            self.returned = True
            self._notify()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.request.read(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.resumed is not None:
            await self.resumed.wait()
        if not self.hears:
            return
        if message["type"] == "http.response.start":
            self.head = message["status"], httpx.Headers(list(message.get("headers", ())))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.decoder.feed(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object], what: str, timeout: float | None) -> None:
        """Waits until a condition holds.

        Raises:
            TimeoutError: It does not; the message says what was waited for, and how the stream fares.
        """
        check_duration("timeout", timeout, optional=True)
        seconds = self.timeout if timeout is None else timeout
        with anyio.move_on_after(seconds) as waiting:
            while not condition():
                await self._changed.wait()
        if waiting.cancelled_caught:
            raise TimeoutError(f"{what} has not come within {seconds} s; {self.describe()}")

    def describe(self) -> str:
        statistics = "no stream" if self.stream is None else self.stream.statistics()
        request = f"{self.request.method} {self.request.url.raw_path.decode()}"
        return f"{request}: {statistics}, raised: {self.exception!r}"


class _View:
    """What can be seen of a stream without waiting."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

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

    @property
    def exception(self) -> Exception | None:
        """What the application has raised to the server."""
        return self._exchange.exception

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the stream ended or is ending; ``None`` while it is open, or if there is none."""
        stream = self._exchange.stream
        return None if stream is None else stream.close_reason

    @property
    def cleanups(self) -> list[tuple[str, BaseException]]:
        """The cleanups that have failed or timed out, by name."""
        stream = self._exchange.stream
        return [] if stream is None else list(stream.cleanups.failures)

    def statistics(self) -> StreamStatistics | None:
        """Returns the stream's figures at this moment; ``None`` if the request has no stream."""
        stream = self._exchange.stream
        return None if stream is None else stream.statistics()

    def stall(self) -> None:
        """Stops reading: the application's ``send()`` is blocked until :meth:`resume`."""
        if self._exchange.resumed is None:
            self._exchange.resumed = anyio.Event()

    def resume(self) -> None:
        """Reads on."""
        if self._exchange.resumed is not None:
            self._exchange.resumed.set()
            self._exchange.resumed = None


class OpenStream(_View):
    """A stream and its client; made by :func:`open_stream`."""

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
        raise StreamEndedError(f"the response was {'ended' if self.complete else 'cut'}; {exchange.describe()}")

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterates over the events until the response has ended."""
        while True:
            try:
                event = await self.next()
            except StreamEndedError:
                return
            yield event

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
            raise StreamEndedError(f"the response has ended; {self._exchange.describe()}")
        return decoder.comments[-1]

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the stream has ended and cleaned up, and the application is done with the request.

        Args:
            timeout: Seconds to wait; those given to :func:`open_stream` unless given.

        Raises:
            TimeoutError: It has not.
        """
        await self._exchange.until(lambda: self._exchange.returned, "the end of the stream", timeout)

    async def disconnect(self) -> None:
        """Leaves, and waits until the stream has ended and cleaned up.

        Raises:
            TimeoutError: It has not.
        """
        self._exchange.hears = False
        self.resume()
        await self.half_close()

    async def half_close(self) -> None:
        """Leaves as a client that still reads, and waits likewise.

        Raises:
            TimeoutError: The stream has not ended.
        """
        self._exchange.left.set()
        await self.wait_closed()

    async def shutdown(self) -> None:
        """Has the server told to stop, and waits until the application's streams have ended and cleaned up.

        Raises:
            TimeoutError: This one has not.
        """
        await _registry_of(self._exchange.app).drain()
        await self.wait_closed()


class SyncOpenStream(_View):
    """The same for tests that are plain functions; made by :func:`open_stream_sync`."""

    def __init__(self, stream: OpenStream, portal: BlockingPortal) -> None:
        super().__init__(stream._exchange)
        self._stream = stream
        self._portal = portal

    def next(self, timeout: float | None = None) -> Event:
        """Waits for the next event; see :meth:`OpenStream.next`."""
        return self._portal.call(self._stream.next, timeout)

    def __iter__(self) -> Iterator[Event]:
        """Iterates over the events until the response has ended."""
        while True:
            try:
                event = self.next()
            except StreamEndedError:
                return
            yield event

    def read(self, timeout: float | None = None) -> bytes:
        """Waits for the end of the response; see :meth:`OpenStream.read`."""
        return self._portal.call(self._stream.read, timeout)

    def wait_comment(self, timeout: float | None = None) -> str:
        """Waits for a comment; see :meth:`OpenStream.wait_comment`."""
        return self._portal.call(self._stream.wait_comment, timeout)

    def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the stream has ended; see :meth:`OpenStream.wait_closed`."""
        self._portal.call(self._stream.wait_closed, timeout)

    def disconnect(self) -> None:
        """Leaves; see :meth:`OpenStream.disconnect`."""
        self._portal.call(self._stream.disconnect)

    def half_close(self) -> None:
        """Leaves as a client that still reads; see :meth:`OpenStream.half_close`."""
        self._portal.call(self._stream.half_close)

    def stall(self) -> None:
        """Stops reading; see :meth:`OpenStream.stall`."""
        self._portal.call(self._stream.stall)

    def resume(self) -> None:
        """Reads on."""
        self._portal.call(self._stream.resume)

    def shutdown(self) -> None:
        """Has the server told to stop; see :meth:`OpenStream.shutdown`."""
        self._portal.call(self._stream.shutdown)


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
    last_event_id: str | None = None,
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
    jar = cookies if isinstance(cookies, httpx.Cookies) else httpx.Cookies(cookies)
    fields = httpx.Headers(headers)
    fields.setdefault("Accept", "text/event-stream")
    if last_event_id is not None:
        fields["Last-Event-ID"] = last_event_id
    url = httpx.URL("http://testserver.local").join(path)
    request = httpx.Request(
        method, url, params=params, headers=fields, cookies=jar, json=json, data=data, content=content, files=files
    )
    exchange = _Exchange(app, request, timeout)
    failures: list[Exception] = []  # raised outside of all groups, which would wrap them
    async with AsyncExitStack() as stack:
        if not _registry_of(app).is_watching:
            await stack.enter_async_context(app.lifespan())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(exchange.run)
        stream = OpenStream(exchange)
        try:
            await exchange.until(lambda: exchange.head is not None or exchange.returned, "the response", None)
            if exchange.head is not None:
                jar.extract_cookies(httpx.Response(exchange.head[0], headers=exchange.head[1], request=request))
            yield stream
        except Exception as error:
            failures.append(error)
        finally:
            failures += await _leave(stream)
    if raise_app_exceptions and exchange.exception is not None:
        failures.append(exchange.exception)
    if failures:
        raise failures[0]


async def _leave(stream: OpenStream) -> list[Exception]:
    """Leaves for good, whatever the test has been cancelled by."""
    with anyio.CancelScope(shield=True):
        try:
            await stream.disconnect()
        except TimeoutError as error:
            return [error]
    return []


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


def _registry_of(app: Litestar) -> StreamRegistry:
    for plugin in app.plugins:
        if isinstance(plugin, SafeSSEPlugin):
            return plugin.streams
    raise MissingPluginError("the application must have the plugin: Litestar(..., plugins=[SafeSSEPlugin()])")


def _scope_of(request: httpx.Request) -> dict[str, Any]:
    path, _, query = request.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 50000),
        "server": (request.url.host, 80),
        "state": {},
        "extensions": {},
    }
