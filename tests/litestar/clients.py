"""An ASGI client in memory: one request, driven step by step. Every wait in it is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from tests.bounds import WAIT

Message = dict[str, Any]


def http_scope(
    path: str, method: str = "GET", headers: Iterable[tuple[str, str | bytes]] = (), **extra: Any
) -> dict[str, Any]:
    """The scope of a request, as a server would make it."""
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"testserver"),
            *((name.lower().encode(), value.encode() if isinstance(value, str) else value) for name, value in headers),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        "extensions": {},
        **extra,
    }


class Connection:
    """The client's side of one request.

    Args:
        chunks: The request's body, one message a chunk.
        on_send: Called with each message that the application sends, before it is taken; may raise.
    """

    def __init__(self, chunks: Iterable[bytes], on_send: Callable[[Message], object] | None = None) -> None:
        bodies = list(chunks) or [b""]
        self._request: list[Message] = [
            {"type": "http.request", "body": body, "more_body": index < len(bodies)}
            for index, body in enumerate(bodies, 1)
        ]
        self._on_send = on_send
        self._left = anyio.Event()
        self._done = anyio.Event()
        self._news = anyio.Event()
        self._failure: BaseException | None = None
        self._scope: anyio.CancelScope | None = None
        self.sent: list[Message] = []

    # The application's side

    async def _receive(self) -> Message:
        if self._request:
            return self._request.pop(0)
        await self._left.wait()  # as servers do, once the client has left or the response is complete
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._on_send is not None:
            self._on_send(message)
        await anyio.lowlevel.checkpoint()
        self.sent.append(dict(message))
        if self.complete:
            self._left.set()
        self._tell()

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                await app(scope, self._receive, self._send)
        except Exception as exc:
            self._failure = exc
        finally:
            self._done.set()
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    # The client's side

    def leave(self) -> None:
        """Closes the connection, as ``receive()`` tells it."""
        self._left.set()

    def cancel(self) -> None:
        """Cancels the request's task, as some servers do."""
        assert self._scope is not None
        self._scope.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until the condition holds; it is looked at after each message, and at the end."""
        with anyio.fail_after(WAIT):
            while not condition():
                assert not self.done, f"the response ended first: {self.sent}, {self._failure!r}"
                await self._news.wait()

    async def until_body(self, part: bytes) -> None:
        """Waits until the response's body holds these bytes."""
        await self.until(lambda: part in self.body)

    async def finished(self) -> BaseException | None:
        """Waits until the application has returned.

        Returns:
            What it raised.
        """
        with anyio.fail_after(WAIT):
            await self._done.wait()
        failure, self._failure = self._failure, None
        return failure

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def header_list(self) -> list[tuple[str, str]]:
        return [(name.decode().lower(), value.decode()) for name, value in self.sent[0]["headers"]]

    @property
    def headers(self) -> Mapping[str, str]:
        return dict(self.header_list)

    def header_values(self, name: str) -> list[str]:
        """All values of one header."""
        return [value for key, value in self.header_list if key == name]

    @property
    def bodies(self) -> list[bytes]:
        return [message.get("body", b"") for message in self.sent[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def complete(self) -> bool:
        """Whether the response was ended properly."""
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)


@asynccontextmanager
async def connect(
    app: Any,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[str, str | bytes]] = (),
    chunks: Iterable[bytes] = (),
    on_send: Callable[[Message], object] | None = None,
    **extra: Any,
) -> AsyncIterator[Connection]:
    """Makes a request. On leaving, the client leaves, and the application has to return in time, without an error."""
    connection = Connection(chunks, on_send)
    async with _unwrapped(), anyio.create_task_group() as group:
        group.start_soon(connection._run, app, http_scope(path, method, headers, **extra))
        try:
            yield connection
            connection.leave()
            failure = await connection.finished()
            if failure is not None:
                raise failure
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Raises an exception that a task group has wrapped, if it is the only one, as it is."""
    try:
        yield
    except BaseException as group:
        exc: BaseException = group
        while len(getattr(exc, "exceptions", ())) == 1:
            exc = exc.exceptions[0]  # type: ignore[attr-defined]
        if exc is group:
            raise
        raise exc from None


class Lifespan:
    """An application between its start and its shutdown, as a server runs it: by messages."""

    def __init__(self) -> None:
        self._begun = False
        self._failed = False
        self._stop = anyio.Event()
        self._started = anyio.Event()
        self._stopped = anyio.Event()

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self._failed = message["type"].endswith(".failed")
        (self._stopped if self._started.is_set() else self._started).set()

    async def _run(self, app: Any) -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self._receive, self._send)

    async def shutdown(self) -> None:
        """Shuts the application down, and waits until it is."""
        self._stop.set()
        with anyio.fail_after(WAIT):
            await self._stopped.wait()
        assert not self._failed


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[Lifespan]:
    """Starts an application; on leaving, it is shut down."""
    life = Lifespan()
    async with _unwrapped(), anyio.create_task_group() as group:
        group.start_soon(life._run, app)
        try:
            with anyio.fail_after(WAIT):
                await life._started.wait()
            assert not life._failed
            yield life
            await life.shutdown()
        finally:
            group.cancel_scope.cancel()


async def get(app: Any, path: str = "/", **options: Any) -> Connection:
    """Makes a request whose response comes to its end by itself, or fails with what the application raised."""
    async with connect(app, path, **options) as connection:
        failure = await connection.finished()
        if failure is not None:
            raise failure
    return connection
