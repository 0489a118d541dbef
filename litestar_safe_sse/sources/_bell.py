"""To wait for the same thing with thousands of others, who may all leave at once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.current import current_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar_safe_sse._runtime.base import Wake

__all__ = ("Bell",)

_AT_ONCE = 16
"""Those who are woken in one turn of the loop: what they do is not to hold up all else that it has to do."""


class Bell:
    """Wakes all who wait for it, each time that it rings.

    To come and to leave costs each the same, however many wait. An event of asyncio's looks for who leaves among all of
    them, and so do the callbacks of a future, which are what ``asyncio.shield`` waits by.
    """

    __slots__ = ("_wakes",)

    def __init__(self) -> None:
        self._wakes: dict[Wake, None] = {}

    def ring(self) -> None:
        """Wakes those who wait now; whoever comes later waits for the next time."""
        wakes, self._wakes = self._wakes, {}
        _wake(iter(wakes))

    async def wait(self) -> None:
        """Waits until it rings."""
        wake = current_runtime().wake()
        self._wakes[wake] = None
        try:
            await wake.wait()
        finally:
            self._wakes.pop(wake, None)


def _wake(wakes: Iterator[Wake]) -> None:
    group = [*islice(wakes, _AT_ONCE)]
    for wake in group:
        wake.set()
    if len(group) == _AT_ONCE:
        current_runtime().call_soon(lambda: _wake(wakes))
