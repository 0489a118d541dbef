"""Which event loop is running: asyncio's, or trio's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.asyncio import AsyncioRuntime

if TYPE_CHECKING:
    from collections.abc import Hashable

    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("current_key", "current_runtime")


def current_key() -> Hashable:
    """Returns what tells the event loop that is running from others: the ``key`` of its runtime."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_runtime().key


def current_runtime() -> Runtime:
    """Returns the runtime of the event loop that is running."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from litestar_safe_sse._runtime.trio import TrioRuntime

        return TrioRuntime()
    return AsyncioRuntime(loop)
