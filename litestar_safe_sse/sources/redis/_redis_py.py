"""redis-py, if it is installed: what is missing is said when a source is made, not when this is imported."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

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

try:
    from redis.driver_info import DriverInfo  # redis-py 7.1
except ImportError:
    DriverInfo = None  # type: ignore[assignment, misc]

__all__ = (
    "IS_INSTALLED",
    "Connection",
    "NoBackoff",
    "Redis",
    "RedisCluster",
    "Retry",
    "errors",
    "introduction",
    "to_error",
)


@lru_cache(maxsize=1)
def introduction() -> dict[str, Any]:
    """Returns by what argument a connection says what it is, where it would look that up in a file each time."""
    return {} if DriverInfo is None else {"driver_info": DriverInfo()}
