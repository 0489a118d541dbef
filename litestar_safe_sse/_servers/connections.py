"""What ASGI does not offer for a client that reads nothing any more: to drop it.

Servers keep a connection whose client takes nothing, with all the bytes that wait there, and wait for it when they
shut down. So a client that is given up has its connection dropped: that of the transport behind ``send``, or the
socket between the addresses that the scope names, among the descriptors of this process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._servers.behind_send import behind, module_of_owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    Ends = tuple[tuple[str, int], int]
    """The client's address and the server's port."""

__all__ = ("cut_response", "drop_connections", "is_shared")

_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_HYPERCORN_STREAM = "hypercorn.protocol.http_stream"

_UVICORN_PROTOCOLS = ("uvicorn.protocols.http.h11_impl", "uvicorn.protocols.http.httptools_impl")


def drop_connections(requests: Iterable[tuple[Callable[..., Awaitable[None]], Mapping[str, Any]]]) -> None:
    """Drops the connections of clients that take no bytes, with those that wait for them, in one pass.

    Args:
        requests: The ASGI ``send`` and the ASGI scope of each request.
    """
    ends = {_ends_of(scope) for send, scope in requests if not _abort_transport(send)}
    ends.discard(None)
    if ends:
        _shut_sockets(ends)


async def cut_response(send: Callable[..., Awaitable[None]]) -> None:
    """Ends a response that has failed, after what was sent, so that its client sees at once that it is cut.

    Without it the client learns of it only when the exception reaches the server, which is after the cleanups. Uvicorn
    closes the connection, and Hypercorn the stream, as they do then. Where neither is found, nothing is done.

    Args:
        send: The ASGI ``send`` of the request.
    """
    for candidate in behind(send):
        module = module_of_owner(candidate)
        if module in _UVICORN_PROTOCOLS and hasattr(candidate.__self__, "transport"):
            candidate.__self__.transport.close()
            return
        if module == _HYPERCORN_STREAM:
            await candidate(None)
            return


def is_shared(scope: Mapping[str, Any]) -> bool:
    """Returns whether a request's connection may carry others, which would be lost with it."""
    return bool(scope.get("http_version", "1.1").startswith("2"))


def _abort_transport(send: Callable[..., Awaitable[None]]) -> bool:
    for candidate in behind(send):
        if module_of_owner(candidate) in _UVICORN_PROTOCOLS:
            abort = getattr(getattr(candidate.__self__, "transport", None), "abort", None)
            if abort is not None:
                abort()
                return True
    return False


def _ends_of(scope: Mapping[str, Any]) -> Ends | None:
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not server[1]:
        return None
    return (client[0], int(client[1])), int(server[1])  # Granian gives ports as text


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
