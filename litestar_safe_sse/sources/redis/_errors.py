"""What an error of Redis, or of redis-py, says about the next attempt: that it may succeed, or that it won't."""

from __future__ import annotations

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis import _redis_py

__all__ = ("code_of", "translate")

_PASSING = {"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "MOVED", "ASK", "NOREPLICAS", "OOM", "TRYAGAIN"}
"""Error codes of a Redis that is expected to answer differently later: https://redis.io/docs/latest/commands/"""


def translate(error: Exception) -> SourceUnavailableError | SourceRefusedError:
    """Returns the error of ours for one of redis-py's."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (_redis_py.errors.AuthenticationError, _redis_py.errors.AuthorizationError)):
        return SourceRefusedError(f"Redis refuses the connection ({text}); check its user name and password")
    if isinstance(error, _redis_py.errors.ResponseError):
        passing = isinstance(
            error, (_redis_py.errors.ReadOnlyError, _redis_py.errors.MovedError, _redis_py.errors.AskError)
        )
        if not passing and str(error).partition(" ")[0] not in _PASSING:
            return SourceRefusedError(f"Redis refuses a command ({text}); check the key's type and the permissions")
    elif isinstance(error, _redis_py.errors.DataError):
        return SourceRefusedError(f"redis-py can't send a command ({text})")
    return SourceUnavailableError(f"Redis can't be reached ({text}); check its address, and whether it is up")


def code_of(error: SourceRefusedError) -> str:
    """Returns the code that Redis's error begins with, such as ``NOGROUP``; empty if it has none."""
    return str(error.__cause__ or "").partition(" ")[0]
