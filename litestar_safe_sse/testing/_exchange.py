"""One request to an application, and what a server and its client know of it, whatever the protocol."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.lowlevel import checkpoint_if_cancelled

from litestar_safe_sse._core.timers import TimerWheel
from litestar_safe_sse._litestar import cause_of
from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._slot import SLOT
from litestar_safe_sse.config import check_duration
from litestar_safe_sse.exceptions import MissingPluginError, SSEError
from litestar_safe_sse.plugin import SafeSSEPlugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litestar import Litestar

    from litestar_safe_sse._core.registry import StreamRegistry
    from litestar_safe_sse._core.stream import Stream

    Message = dict[str, Any]

__all__ = ("Exchange", "StreamEndedError", "headers_of", "plugin_of", "running", "scope_of", "url_of")


class StreamEndedError(SSEError):
    """An event was waited for, and the stream has ended instead."""


class Exchange:
    """What both protocols have in common.

    Args:
        app: The application.
        scope: The ASGI scope.
        name: What the request is called.
        timeout: Seconds that each wait may take.
    """

    def __init__(self, app: Litestar, scope: Message, name: str, timeout: float) -> None:
        self.app = app
        self.timeout = timeout
        self.returned = False
        self.exception: Exception | None = None
        self.hears = True
        self.resumed: anyio.Event | None = None
        self._scope = scope
        self._name = name
        self._changed = anyio.Event()

    @property
    def has_answered(self) -> bool:
        """Whether the application has said if there is a stream."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether the application has told of the end."""
        raise NotImplementedError

    @property
    def has_ended(self) -> bool:
        return self.is_over or self.returned

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
        raise NotImplementedError

    async def _send(self, message: Message) -> None:
        if self.resumed is not None:
            await self.resumed.wait()
        if self.hears:
            self._take(message)
            self._notify()

    def _take(self, message: Message) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """Has the server tell that the client has left."""
        raise NotImplementedError

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
        # Of an application that blocks the loop, what it does is still to be seen.
        with TimerWheel(current_runtime()).move_on_after(seconds) as waiting:
            while not condition():
                await checkpoint_if_cancelled()  # no scope cancels a task that is about to go on, as this may always be
                await self._changed.wait()
        if waiting.cancelled_caught:
            raise TimeoutError(f"{what} has not come within {seconds} s; {self.describe()}")

    def describe(self) -> str:
        statistics = "no stream" if self.stream is None else self.stream.statistics()
        return f"{self._name}: {statistics}, raised: {self.exception!r}"

    def stall(self) -> None:
        if self.resumed is None:
            self.resumed = anyio.Event()

    def resume(self) -> None:
        if self.resumed is not None:
            self.resumed.set()
            self.resumed = None

    async def disconnect(self) -> None:
        self.hears = False
        self.resume()
        self.leave()
        await self.wait_closed(None)

    async def wait_closed(self, timeout: float | None) -> None:
        await self.until(lambda: self.returned, "the end of the stream", timeout)

    async def shutdown(self) -> None:
        await registry_of(self.app).drain()
        await self.wait_closed(None)


@asynccontextmanager
async def running(exchange: Exchange, what: str, *, raise_app_exceptions: bool) -> AsyncIterator[None]:
    """Runs a request within the application's lifespan, from its answer on, and leaves it at the end.

    Args:
        exchange: The request.
        what: What the application answers by.
        raise_app_exceptions: Whether to raise what the application has raised to the server.
    """
    failures: list[Exception] = []  # raised outside of all groups, which would wrap them
    async with AsyncExitStack() as stack:
        if not registry_of(exchange.app).is_watching:
            await stack.enter_async_context(exchange.app.lifespan())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(exchange.run)
        try:
            await exchange.until(lambda: exchange.has_answered or exchange.returned, what, None)
            yield
        except Exception as error:
            failures.append(error)
        finally:
            failures += await _leave(exchange)
    if raise_app_exceptions and exchange.exception is not None:
        failures.append(exchange.exception)
    if failures:
        raise failures[0]


async def _leave(exchange: Exchange) -> list[Exception]:
    """Leaves for good, whatever the test has been cancelled by."""
    with anyio.CancelScope(shield=True):
        try:
            await exchange.disconnect()
        except TimeoutError as error:
            return [error]
    return []


def plugin_of(app: Litestar) -> SafeSSEPlugin:
    """Returns the plugin of an application.

    Raises:
        MissingPluginError: It has none.
    """
    for plugin in app.plugins:
        if isinstance(plugin, SafeSSEPlugin):
            return plugin
    raise MissingPluginError("the application must have the plugin: Litestar(..., plugins=[SafeSSEPlugin()])")


def registry_of(app: Litestar) -> StreamRegistry:
    return plugin_of(app).streams


def url_of(path: str) -> httpx.URL:
    """Returns the URL of a path."""
    return httpx.URL("http://testserver.local").join(path)


def headers_of(headers: Any, last_event_id: str | int | None) -> httpx.Headers:
    """Returns headers with the ID that a client resumes by, encoded as browsers encode it.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#reestablish-the-connection
    """
    fields = httpx.Headers(headers)
    if last_event_id is None:
        return fields
    others = [(name, value) for name, value in fields.raw if name.lower() != b"last-event-id"]
    return httpx.Headers([*others, (b"Last-Event-ID", str(last_event_id).encode())])


def scope_of(request: httpx.Request) -> Message:
    """Returns what the ASGI scope of a request has under each protocol."""
    path, _, query = request.url.raw_path.partition(b"?")
    return {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
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
