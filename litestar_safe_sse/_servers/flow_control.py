"""What ASGI does not offer for a client that reads too slowly: to wait for it, and to drop it.

Daphne, and Hypercorn over HTTP/2, take all they are given and buffer it without bound. Both know how much is waiting,
so there the writer asks them. And servers keep a connection whose client takes nothing, with all the bytes that wait
there, and wait for it when they shut down; so a client that is given up has its connection dropped.

The server is found behind the ``send`` of the request, through the wrappers that middleware puts around it. Where it
is not, ``send()`` is all the flow control there is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping

    from litestar_safe_sse._runtime.base import Runtime

    Ends = tuple[tuple[str, int], int]
    """The client's address and the server's port."""

__all__ = ("FlowControl", "drop_connections", "find_flow_control", "is_shared")

_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_DEPTH = 32
"""Wrappers around ``send`` that are looked behind."""


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
        self._paused = False
        self._resumed = runtime.wake()
        request.registerProducer(self, True)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's IPushProducer
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self._paused = False
        self._resumed.set()

    def stopProducing(self) -> None:  # noqa: N802
        self.resumeProducing()

    async def drain(self) -> None:
        while self._paused:
            await self._resumed.wait()

    def close(self) -> None:
        request, self._request = self._request, None
        if request is not None and getattr(request, "channel", None) is not None:
            request.unregisterProducer()


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
    for origin in _behind(send):
        stream = getattr(origin, "__self__", None)
        if (request := _daphne_request(origin)) is not None:
            return DaphneFlowControl(request, runtime)
        if stream is not None and _module_of(origin) == "hypercorn.protocol.http_stream":
            buffers = getattr(getattr(stream.send, "__self__", None), "stream_buffers", None)
            if isinstance(buffers, dict):
                return HypercornFlowControl(buffers, stream.stream_id, limit)
    return None


def drop_connections(requests: Iterable[tuple[Callable[..., Awaitable[None]], Mapping[str, Any]]]) -> None:
    """Drops the connections of clients that take no bytes, with those that wait for them, in one pass.

    Args:
        requests: The ASGI ``send`` and the ASGI scope of each request.
    """
    ends = {_ends_of(scope) for send, scope in requests if not _abort_transport(send)}
    ends.discard(None)
    if ends:
        _shut_sockets(ends)


def is_shared(scope: Mapping[str, Any]) -> bool:
    """Whether a request's connection may carry others, which would be lost with it."""
    return bool(scope.get("http_version", "1.1").startswith("2"))


def _abort_transport(send: Callable[..., Awaitable[None]]) -> bool:
    for origin in _behind(send):
        if _module_of(origin) in ("uvicorn.protocols.http.h11_impl", "uvicorn.protocols.http.httptools_impl"):
            abort = getattr(getattr(origin.__self__, "transport", None), "abort", None)
            if abort is not None:
                abort()
                return True
    return False


def _ends_of(scope: Mapping[str, Any]) -> Ends | None:
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not server[1]:
        return None
    return (client[0], int(client[1])), int(server[1])  # Granian tells ports as text


def _shut_sockets(ends: Collection[Ends | None]) -> None:
    """Shuts those sockets, which belong to the server, among this process's descriptors."""
    if not os.path.isdir(_DESCRIPTORS):
        return
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if (connection.getpeername()[:2], connection.getsockname()[1]) in ends:
                    connection.shutdown(socket.SHUT_RDWR)


def _daphne_request(origin: Any) -> Any:
    """The request that a ``send`` of Daphne's is for, as long as it has a channel."""
    if isinstance(origin, functools.partial) and _module_of(origin.func) == "daphne.server":
        request = origin.args[0]
        if getattr(request, "channel", None) is not None and hasattr(request, "registerProducer"):
            return request
    return None


def _module_of(method: object) -> str:
    return type(getattr(method, "__self__", None)).__module__


def _behind(send: object) -> Iterator[Any]:
    """What a ``send`` calls in the end, by way of closures, partials and methods of objects that hold a ``send``."""
    layer = [send]
    for _ in range(_DEPTH):
        if not layer:
            return
        yield from layer
        layer = [inner for outer in layer for inner in _inner(outer)]


def _inner(outer: object) -> Iterator[object]:
    if isinstance(outer, functools.partial):
        yield outer.func
        return
    owner = getattr(outer, "__self__", None)
    if owner is not None:
        inner = getattr(owner, "send", None)
        if callable(inner) and inner is not outer:
            yield inner
    for cell in getattr(outer, "__closure__", None) or ():
        try:
            if callable(cell.cell_contents):
                yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
