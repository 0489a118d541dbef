"""What an error of PostgreSQL, or of asyncpg, says about the next attempt: that it may succeed, or that it won't.

By the code: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError, TopicFinishedError
from litestar_safe_sse.sources.postgres._tables import FINISHED_STATE

__all__ = ("CLOSED", "NO_ANSWER", "moved_on", "translate")

CLOSED = "the connection to PostgreSQL has been closed"

NO_ANSWER = "PostgreSQL does not answer; is it overloaded, or the network gone, or an append waiting for a transaction?"

_PASSING = ("08", "25006", "25P03", "25P04", "40", "53", "55P03", "57", "58")
"""How codes begin of a server that is expected to answer differently later."""

_MOVED_ON = ("25006", "57P")
"""How those begin of a server that is not, or no longer, the one to ask."""

_MISSING = ("3F000", "42P01", "42883")
"""No such schema, table or function."""


def translate(error: Exception) -> SourceUnavailableError | SourceRefusedError:
    """Returns the error of ours for one of asyncpg's."""
    text = f"{type(error).__name__}: {error}"
    code = str(getattr(error, "sqlstate", None) or "")
    if code == FINISHED_STATE:
        return TopicFinishedError("the topic is finished; delete it first to begin it anew")
    if code.startswith(_PASSING):
        return SourceUnavailableError(f"PostgreSQL can't carry out a command at the moment ({text})")
    if code.startswith(_MISSING):
        return SourceRefusedError(
            f"the tables of the event log are missing ({text}); call create_tables() once, or run its create_tables_sql"
        )
    if code:
        return SourceRefusedError(f"PostgreSQL refuses ({text}); check the user, the database and the permissions")
    if isinstance(error, ValueError):  # asyncpg's ClientConfigurationError and DataError are
        return SourceRefusedError(f"asyncpg refuses ({text}); check the address and its options")
    return SourceUnavailableError(f"PostgreSQL can't be reached ({text}); check its address, and whether it is up")


def moved_on(error: Exception) -> bool:
    """Returns whether the server at the other end can't do the work, and another one may."""
    return str(getattr(error, "sqlstate", None) or "").startswith(_MOVED_ON)
