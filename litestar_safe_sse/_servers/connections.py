"""What ASGI does not offer for a client that reads nothing any more: to drop it.

Servers keep a connection whose client takes nothing, with all the bytes that wait there, and wait for it when they
shut down. So a client that is given up has its connection dropped. It is found by whichever comes first:

1. the server's own transport, behind the ``send`` of the request;
2. the addresses of both ends, by which the socket is known among the descriptors of this process: those that the
   server gave (``remember_addresses`` in ``hooks.py`` keeps them from being rewritten), or else those of the scope;
3. where the client's address is unknown, as on a Unix socket of Granian's, by the client's taking nothing.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._servers.behind_send import behind, daphne_request, daphne_websocket, module_of_owner
from litestar_safe_sse._servers.sockets import Addresses, connected, shut
from litestar_safe_sse._servers.stalls import StallSearch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from litestar_safe_sse._runtime.base import Runtime

    Send = Callable[..., Awaitable[None]]
    Scope = Mapping[str, Any]

__all__ = ("ADDRESSES", "Connection", "Connections")

ADDRESSES = "litestar_safe_sse.addresses"
"""The key of a scope at which the client and the server are kept that the server itself has put there."""

_FEW = 64
"""Connections that are kept in mind before those are forgotten that have ended."""

_ROUNDS = 10
"""Searches at a shutdown, each of which takes ``stall_time`` seconds. They end with the process, if not before."""


@dataclass(frozen=True)
class Transport:
    """A server's own way to a client.

    Attributes:
        owner: The object by which two of them are told apart.
        abort: Drops the connection, with the bytes that wait there.
        is_open: Tells whether the connection is still there.
    """

    owner: object
    abort: Callable[[], object] = field(compare=False)
    is_open: Callable[[], bool] = field(compare=False)


@dataclass(frozen=True)
class Connection:
    """The connection of one request.

    Attributes:
        transport: The server's transport, if it has been found.
        addresses: The addresses of both ends.
        is_certain: Whether they are those that the server has seen.
        is_shared: Whether it may carry other requests, which would be lost with it.
    """

    transport: Transport | None
    addresses: Addresses
    is_certain: bool
    is_shared: bool

    @property
    def is_open(self) -> bool:
        """Whether it is still there, as far as can be told."""
        return self.transport is None or self.transport.is_open()

    @classmethod
    def of(cls, send: Send, scope: Scope) -> Connection:
        """Finds the connection of a request by its ASGI ``send`` and scope."""
        client, server = scope.get(ADDRESSES) or (scope.get("client"), scope.get("server"))
        peer = _peer(client)
        return cls(
            transport=next(filter(None, map(_transport_of, behind(send))), None),
            addresses=Addresses(peer, _local(server)),
            is_certain=peer is not None and ADDRESSES in scope,
            is_shared=scope.get("http_version", "1.1").startswith("2"),
        )


class Connections:
    """The connections of one event loop whose clients take nothing.

    Args:
        runtime: The event loop.
        drop_delay: Seconds from when a cancelled ``send()`` has ended until its connection is dropped.
        stall_time: Seconds in which a client takes nothing before its connection is dropped at a shutdown, where it is
            not known to be that of a stream.
    """

    def __init__(self, runtime: Runtime, *, drop_delay: float, stall_time: float) -> None:
        self._runtime = runtime
        self._drop_delay = drop_delay
        self._stall_time = stall_time
        self._given_up: list[tuple[float, Connection]] = []
        """Those that are to be dropped, in one go if there are many, and since when."""
        self._kept: set[Connection] = set()
        """Those that are to be dropped at the shutdown."""
        self._limit = _FEW
        self._search: StallSearch | None = None
        self._unfound = 0
        """Clients that have been given up, and whose connections could not be told from others."""

    def __len__(self) -> int:
        """Counts the connections that have been kept for the shutdown."""
        return len(self._kept)

    def give_up(self, connection: Connection, patience: float) -> None:
        """Drops a connection in a moment, with all that waits there.

        One that is shared is dropped at the shutdown, and one that cannot be told from others is searched for.

        Args:
            connection: The connection of a client that takes nothing.
            patience: Seconds in which it has taken nothing.
        """
        if connection.is_shared:
            self._keep(connection)
            return
        # What is cancelled now has ended by then, however long this turn of the loop takes.
        self._runtime.call_soon(lambda: self._await_drop(connection, patience))

    def drop_all(self, connections: Iterable[Connection]) -> None:
        """Drops connections at a shutdown in a moment, shared or not, and all that have been kept until then.

        Args:
            connections: The connections of the streams that the shutdown has ended.
        """
        drop = partial(self._drop_all, [*connections])
        self._runtime.call_soon(lambda: self._runtime.call_later(self._drop_delay, drop))

    def _drop_all(self, connections: list[Connection]) -> None:
        left = _drop([*self._kept, *connections])
        self._kept.clear()
        if self._search is not None:
            self._search.cancel()
        if local := _uncertain(left):
            self._search = StallSearch(self._runtime, local, self._stall_time, rounds=_ROUNDS)

    def _await_drop(self, connection: Connection, patience: float) -> None:
        # Those that are dropped in one go are searched for with the patience of the first, if they have to be.
        self._given_up.append((monotonic(), connection))
        if len(self._given_up) == 1:
            self._runtime.call_later(self._drop_delay, lambda: self._drop_given_up(patience))

    def _drop_given_up(self, patience: float) -> None:
        latest = monotonic() - self._drop_delay
        due = [connection for since, connection in self._given_up if since <= latest]
        self._given_up = [(since, connection) for since, connection in self._given_up if since > latest]
        if self._given_up:
            self._runtime.call_later(self._drop_delay, lambda: self._drop_given_up(patience))
        left = [connection for connection in _drop(due) if _uncertain([connection])]
        if left:
            self._search_for(left, patience)

    def _search_for(self, connections: list[Connection], patience: float) -> None:
        for connection in connections:
            self._keep(connection)
        self._unfound += len(connections)
        if self._search is None or self._search.is_over:
            local = _uncertain(connections)
            self._search = StallSearch(self._runtime, local, patience, may_shut=self._are_all_given_up)

    def _are_all_given_up(self, found: int) -> bool:
        """Returns whether those that take nothing are those that were given up, and nobody else's."""
        if found > self._unfound:
            return False
        self._unfound = 0
        return found > 0

    def _keep(self, connection: Connection) -> None:
        self._kept.add(connection)
        if len(self._kept) > self._limit:
            existing = {each.addresses for each in connected()}
            self._kept = {each for each in self._kept if _exists(each, existing)}
            self._limit = 2 * len(self._kept) + _FEW


def _uncertain(connections: Iterable[Connection]) -> set[int | str | None]:
    """Returns the server's ends of those connections that may exist though they have not been found."""
    return {each.addresses.local for each in connections if not each.is_certain} - {None}


def _exists(connection: Connection, existing: set[Addresses]) -> bool:
    if connection.transport is not None:
        return connection.transport.is_open()
    return not connection.is_certain or connection.addresses in existing


def _drop(connections: Iterable[Connection]) -> list[Connection]:
    """Drops connections in one pass over the descriptors; returns those that have not been found."""
    unfound = []
    for connection in connections:
        if connection.transport is None:
            unfound.append(connection)
        else:
            connection.transport.abort()
    known = {each.addresses for each in unfound if each.addresses.peer is not None}
    found = shut(lambda each: each.addresses in known) if known else set()
    return [each for each in unfound if each.addresses not in found]


# The transports of the servers


def _transport_of(candidate: Any) -> Transport | None:
    """Returns the transport that something behind ``send`` writes to, if it is a server's."""
    module = module_of_owner(candidate)
    if module.startswith(("uvicorn.protocols.http.", "uvicorn.protocols.websockets.")):
        return _of_asyncio(getattr(candidate.__self__, "transport", None))
    if module == "hypercorn.asyncio.tcp_server":
        return _of_asyncio(getattr(getattr(candidate.__self__, "writer", None), "transport", None))
    if module == "hypercorn.trio.tcp_server":
        return _of_trio(getattr(candidate.__self__, "stream", None))
    if (request := daphne_request(candidate)) is not None:
        return _of_twisted(getattr(request.channel, "transport", None))
    if (protocol := daphne_websocket(candidate)) is not None:
        return _of_twisted(protocol.transport)
    return None


def _of_asyncio(transport: Any) -> Transport | None:
    """https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.abort"""
    if not hasattr(transport, "abort"):
        return None

    def abort() -> None:
        with contextlib.suppress(AttributeError):  # asyncio lets go of the loop of a transport that has closed
            transport.abort()

    return Transport(transport, abort, lambda: not transport.is_closing())


def _of_trio(stream: Any) -> Transport | None:
    """https://trio.readthedocs.io/en/stable/reference-io.html#trio.SocketStream.socket"""
    connection = getattr(getattr(stream, "transport_stream", stream), "socket", None)
    if connection is None:
        return None

    def abort() -> None:
        with contextlib.suppress(OSError):  # it has been closed already
            connection.shutdown(socket.SHUT_RDWR)

    return Transport(connection, abort, lambda: connection.fileno() >= 0)


def _of_twisted(transport: Any) -> Transport | None:
    """https://docs.twisted.org/en/stable/api/twisted.internet.interfaces.ITCPTransport.html#abortConnection"""
    if not hasattr(transport, "abortConnection"):
        return None
    return Transport(transport, transport.abortConnection, lambda: bool(getattr(transport, "connected", False)))


# The addresses in a scope


def _peer(client: Any) -> tuple[str, int] | None:
    host, port = _host_and_port(client)
    return (host, port) if host and port else None


def _local(server: Any) -> int | str | None:
    host, port = _host_and_port(server)
    return port or host or None


def _host_and_port(address: Any) -> tuple[str, int]:
    try:
        host, port = address
        return str(host or ""), int(port or 0)  # Granian gives ports as text
    except (TypeError, ValueError):  # there is none, or a middleware has put there what is no address
        return "", 0
