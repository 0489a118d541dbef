"""Tasks that belong to no stream, and the pauses between their attempts."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from litestar_safe_sse.sources.statistics import Tally

__all__ = ("Backoff", "Outage", "spawn")

_logger = logging.getLogger("litestar_safe_sse")


def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Starts a task in an empty context: it may outlive the stream that needed it first."""
    loop = asyncio.get_running_loop()
    return contextvars.Context().run(lambda: loop.create_task(work, name=name))


class Outage:
    """Says once that something is waited for, however many wait, and once that it is back.

    Args:
        who: Who waits, for the log.
        tally: Where it is counted that it is back.
        server: What is waited for.
    """

    def __init__(self, who: str, tally: Tally, server: str = "Redis") -> None:
        self._who = who
        self._server = server
        self._tally = tally
        self._lasts = False

    def begin(self, error: Exception) -> None:
        """Notes that it can't be reached."""
        if not self._lasts:
            self._lasts = True
            _logger.warning("%s is waiting for %s: %s", self._who, self._server, error)

    def end(self) -> None:
        """Notes that it has been reached."""
        if self._lasts:
            self._lasts = False
            self._tally.reconnects += 1
            _logger.warning("%s reads from %s again", self._who, self._server)


class Backoff:
    """Ever longer pauses between attempts, random so that processes don't come back all at once.

    Args:
        first: Seconds of the first pause, at most.
        longest: Seconds of any pause, at most.
    """

    def __init__(self, first: float = 0.05, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def reset(self) -> None:
        """Makes the next pause the first one again, since an attempt has succeeded."""
        self._failures = 0

    async def wait(self, until: asyncio.Event | None = None) -> None:
        """Pauses, but no longer than until an event is set."""
        self._failures += 1
        pause = min(self._longest, self._first * 2 ** min(self._failures - 1, 16)) * random.uniform(0.5, 1.0)
        with anyio.move_on_after(pause):
            await (until or asyncio.Event()).wait()
