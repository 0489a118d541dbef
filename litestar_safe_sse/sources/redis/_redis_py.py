"""redis-py, if it is installed: what is missing is said when a source is made, not when this is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import redis.exceptions as errors
    from redis.asyncio import Connection, Redis, RedisCluster
    from redis.asyncio.connection import DefaultParser
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError:
    if TYPE_CHECKING:
        raise
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
    to_error: Callable[[str], Exception] = DefaultParser.parse_error
    """Makes an exception of what Redis says."""

__all__ = ("IS_INSTALLED", "Connection", "NoBackoff", "Redis", "RedisCluster", "Retry", "errors", "to_error")
