"""redis-py, if it is installed: what is missing is said when a source is made, not when this is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import redis.exceptions as errors
    from redis.asyncio import Connection, Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError:
    if TYPE_CHECKING:
        raise
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

__all__ = ("IS_INSTALLED", "Connection", "NoBackoff", "Redis", "RedisCluster", "Retry", "errors")
