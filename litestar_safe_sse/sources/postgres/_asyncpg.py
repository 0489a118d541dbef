"""asyncpg, if it is installed: what is missing is said when a log is made, not when this is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from asyncpg import InterfaceError, InternalClientError, PostgresError, connect
except ImportError:
    if TYPE_CHECKING:
        raise
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
    ERRORS = (PostgresError, InterfaceError, InternalClientError, OSError)

__all__ = ("ERRORS", "IS_INSTALLED", "PostgresError", "connect")
