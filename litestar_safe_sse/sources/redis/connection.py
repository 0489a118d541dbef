"""A connection to Redis outside of the client's pool, of which each source has its own.

The sources do not borrow from the client's pool, so that no connection is ever left in the middle of a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis import _redis_py
from litestar_safe_sse.sources.redis._errors import translate
from litestar_safe_sse.sources.redis._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis.asyncio import Redis, RedisCluster

    from litestar_safe_sse.sources.redis._errors import Failure

    RedisClient = Redis | RedisCluster
    RedisAddress = str | RedisClient | Callable[[], RedisClient]

__all__ = ("RedisConnection", "connect", "make_connection", "take_idle_limit")

_OF_RESP3 = ("maint", "orig_", "oss_cluster")
"""How the arguments begin of maintenance notifications, which want RESP3."""

IDLE_LIMIT = 5.0
"""Seconds without a command after which a connection is checked before the next; ``health_check_interval`` if given."""

_KEEPALIVE = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)  # not everywhere
}
"""How often an idle connection is used by the system itself: more often than any NAT forgets it."""


_MISTAKES = TypeError, ValueError, AttributeError
"""What no waiting mends."""


async def connect(client: RedisClient, key: str, within: float) -> RedisConnection:
    """Opens a connection, without retries or a limit to how long a reply may take.

    Args:
        client: The client whose address and credentials it has.
        key: A key, on whose node it is to be.
        within: Seconds that Redis has to accept it.

    Raises:
        SourceUnavailableError: Redis can't be reached.
        SourceRefusedError: It doesn't let us in, or the client can't be used.
    """
    connection: RedisConnection | None = None
    try:
        with anyio.fail_after(within):
            connection = await _new_connection(client, key)
            await connection.open()
    except BaseException as error:
        if connection is not None:
            with contextlib.suppress(*_MISTAKES):  # it may stumble over the same
                await connection.aclose()
        if isinstance(error, TimeoutError):
            raise SourceUnavailableError("Redis does not answer; is it overloaded, or the network gone?") from error
        if isinstance(error, (_redis_py.errors.RedisError, OSError)):
            raise translate(error) from error
        if isinstance(error, _MISTAKES):
            raise SourceRefusedError(
                f"redis-py can't use what it was given ({type(error).__name__}: {error}); check the client's options"
            ) from error
        if isinstance(error, Exception):  # such as of what hands out the credentials
            raise translate(error) from error
        raise
    return connection


class RedisConnection:
    """A connection outside of the pool, which speaks RESP2 and does not decode.

    One task may send while another one receives.

    Args:
        connection: A connection of redis-py.
        idle_limit: Seconds without a command after which what it is handed over to checks it.
    """

    def __init__(self, connection: Any, idle_limit: float) -> None:
        self._connection = connection
        self._idle_limit = idle_limit

    async def open(self) -> None:
        """Connects, and does what the client's settings ask for."""
        await self._connection.connect()

    async def send(self, packed: Iterable[bytes]) -> None:
        """Sends commands; their replies have to be received in the same order.

        Args:
            packed: What :func:`pack` returned for them.

        Raises:
            SourceUnavailableError: The connection is lost.
        """
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except (_redis_py.errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def receive(self) -> Any:
        """Waits for one reply.

        Returns:
            The reply, or the ``ResponseError`` that it is: the connection can be used on.

        Raises:
            SourceUnavailableError: The connection is lost, or Redis does not serve it at the moment.
            SourceRefusedError: Redis does not serve it any more.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except _redis_py.errors.ResponseError as error:
            return error
        except (_redis_py.errors.RedisError, OSError) as error:
            raise translate(error) from error

    def hand_over(self, on_reply: Callable[[Any], None], on_lost: Callable[[Failure], None]) -> Wire:
        """Gives the connection away, while no reply is to come; this is of no use afterwards.

        Args:
            on_reply: As in :class:`Wire`.
            on_lost: As in :class:`Wire`.

        Raises:
            SourceUnavailableError: It has been lost.
            SourceRefusedError: redis-py has no stream as we know it.
        """
        writer = getattr(self._connection, "_writer", None)
        if not isinstance(writer, asyncio.StreamWriter):
            raise SourceRefusedError(
                f"{type(self._connection).__name__} has no stream of asyncio's to be used; give a client whose "
                "connections have one"
            )
        if writer.is_closing():
            raise SourceUnavailableError("Redis has closed the connection as soon as it was open")
        self._connection._writer = self._connection._reader = None
        return Wire(writer, self._idle_limit, on_reply, on_lost)

    async def aclose(self) -> None:
        """Closes it without waiting for what is still to come."""
        await self._connection.disconnect(nowait=True)


async def _new_connection(client: Any, key: str) -> RedisConnection:
    """Makes a connection as the client does, but of RESP2 and without retries; to the node that has the key."""
    if isinstance(client, _redis_py.RedisCluster):
        await client.initialize()
        await client.nodes_manager.initialize()  # after a failure the slots may have moved
        home: Any = client.get_node_from_key(key)
    else:
        home = client.connection_pool
    return make_connection(home)


def make_connection(home: Any) -> RedisConnection:
    """Makes a connection that is not open yet.

    Args:
        home: A pool, or a node of a cluster, whose connections it is like.
    """
    ours = {name: value for name, value in home.connection_kwargs.items() if not name.startswith(_OF_RESP3)}
    if not ours.keys() & {"driver_info", "lib_name", "lib_version"}:
        ours.update(_redis_py.introduction())
    if issubclass(home.connection_class, _redis_py.Connection):  # TCP, with or without TLS
        given = ours.get("socket_keepalive_options")
        ours["socket_keepalive"] = True
        ours["socket_keepalive_options"] = given if given and isinstance(given, Mapping) else _KEEPALIVE
    idle_limit = take_idle_limit(ours)
    connection: Any = home.connection_class(**{**ours, "protocol": 2})
    connection.retry = _redis_py.Retry(_redis_py.NoBackoff(), 0)
    connection.socket_timeout = None
    return RedisConnection(connection, idle_limit)


def take_idle_limit(options: dict[str, Any]) -> float:
    """Takes out of a connection's options the seconds without use after which it is checked; ours unless given."""
    interval: float = options.pop("health_check_interval", 0)
    return interval if interval > 0 else IDLE_LIMIT
