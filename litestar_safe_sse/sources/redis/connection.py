"""A connection to Redis outside of the client's pool, of which each source has its own.

The sources do not borrow from the client's pool, so that no connection is ever left in the middle of a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from litestar_safe_sse.sources.redis import _redis_py
from litestar_safe_sse.sources.redis._errors import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis.asyncio import Redis, RedisCluster

    Command = tuple[str | bytes | float, ...]
    RedisClient = Redis | RedisCluster
    RedisAddress = str | RedisClient | Callable[[], RedisClient]

__all__ = ("RedisConnection", "connect")

_OF_RESP3 = ("maint", "orig_", "oss_cluster")
"""How the arguments begin of maintenance notifications, which want RESP3."""


async def connect(client: RedisClient, key: str, within: float) -> RedisConnection:
    """Opens a connection, without retries or a limit to how long a reply may take.

    Args:
        client: The client whose address and credentials it has.
        key: A key, on whose node it is to be.
        within: Seconds that Redis has to accept it.

    Raises:
        SourceUnavailableError: Redis can't be reached.
        SourceRefusedError: It doesn't let us in.
    """
    connection: Any = None
    try:
        with anyio.fail_after(within):
            connection = await _new_connection(client, key)
            await connection.connect()
    except BaseException as error:
        if connection is not None:
            await connection.disconnect(nowait=True)
        if isinstance(error, (_redis_py.errors.RedisError, OSError)):
            raise translate(error) from error
        raise
    return RedisConnection(connection)


class RedisConnection:
    """A connection outside of the pool, which speaks RESP2 and does not decode.

    One task may send while another one receives.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def is_gone(self) -> bool:
        """Whether the other side is known to have closed it."""
        reader = getattr(self._connection, "_reader", None)  # redis-py 5 can't be asked by anything public
        return reader is None or bool(reader.at_eof())

    async def send(self, commands: Iterable[Command]) -> None:
        """Sends commands; their replies have to be received in the same order."""
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(packed, check_health=False)
        except (_redis_py.errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def receive(self) -> Any:
        """Waits for one reply.

        Raises:
            SourceUnavailableError: The connection is lost, or Redis asks to come back later.
            SourceRefusedError: The reply is any other error; the connection can be used on.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except (_redis_py.errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        await self._connection.disconnect(nowait=True)


async def _new_connection(client: Any, key: str) -> Any:
    """A connection made as the client makes its own, but of RESP2 and without retries; to the node that has the key."""
    if isinstance(client, _redis_py.RedisCluster):
        await client.initialize()
        await client.nodes_manager.initialize()  # after a failure the slots may have moved
        home: Any = client.get_node_from_key(key)
    else:
        home = client.connection_pool
    ours = {name: value for name, value in home.connection_kwargs.items() if not name.startswith(_OF_RESP3)}
    connection: Any = home.connection_class(**{**ours, "protocol": 2})
    connection.retry = _redis_py.Retry(_redis_py.NoBackoff(), 0)
    connection.socket_timeout = None
    return connection
