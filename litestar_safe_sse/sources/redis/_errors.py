"""What an error of Redis, or of redis-py, says about the next attempt: that it may succeed, or that it won't.

Redis begins an error with a code: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors. What
arrives here may have lost it: redis-py strips the codes that it has a class for, which are others in each release, and
Redis before 7.0 puts the errors of a script into a text of its own.
"""

from __future__ import annotations

import re

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis import _redis_py

__all__ = ("Failure", "code_of", "needs_new_connection", "translate")

Failure = SourceUnavailableError | SourceRefusedError
"""What is made of an error: the next attempt may succeed, or it won't."""

_MOVED_ON = frozenset({"ASK", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "UNBLOCKED"})
"""Codes of a server that is not, or no longer, the one to ask: a new connection may lead to another."""

_PASSING = _MOVED_ON | {"BUSY", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "TRYAGAIN"}
"""Codes of a Redis that is expected to answer differently later."""

_CODES = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""The codes that redis-py strips, by the name of the class: releases differ in which classes there are."""

_CODE = re.compile(r"(?:^(?:EXECABORT )?Transaction discarded because of: |^|[ :]-)([A-Z]{2,})\b")
"""A code at the beginning, or that for which ``EXEC`` has discarded a transaction; or one behind a ``-``, as in
``@user_script: 12: -OOM command not allowed``.
"""

_FULL = re.compile(r"(?:ERR )?max number of clients\b")
"""How a server begins that has no room for one more client; a node of a cluster counts its own connections, too."""

_NO_KEY = "key no longer exists"
"""What ``UNBLOCKED`` says if it is about the key, and not about the server."""


def code_of(error: BaseException | None) -> str:
    """Returns the code that Redis began an error with, such as ``NOGROUP``; empty if it had none."""
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    found = _CODE.search(str(error or ""))
    return found[1] if found else ""


def needs_new_connection(error: Exception) -> bool:
    """Returns whether the server at the other end can't do the work, and another one may."""
    return code_of(error) in _MOVED_ON and _NO_KEY not in str(error)


def translate(error: Exception) -> Failure:
    """Returns the error of ours for one of redis-py's."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (_redis_py.errors.AuthenticationError, _redis_py.errors.AuthorizationError)):
        return SourceRefusedError(f"Redis refuses the connection ({text}); check its user name and password")
    if isinstance(error, _redis_py.errors.ResponseError):
        if (code_of(error) in _PASSING and _NO_KEY not in text) or _FULL.match(str(error)):
            return SourceUnavailableError(f"Redis can't carry out a command at the moment ({text})")
        return SourceRefusedError(f"Redis refuses a command ({text}); check the key's type and the permissions")
    return SourceUnavailableError(f"Redis can't be reached ({text}); check its address, and whether it is up")
