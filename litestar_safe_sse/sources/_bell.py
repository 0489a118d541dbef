"""To wait for the same thing with thousands of others, who may all leave at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.current import current_runtime

if TYPE_CHECKING:
    from litestar_safe_sse._runtime.base import Wake

__all__ = ("Bell",)


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
        for wake in wakes:
            wake.set()

    async def wait(self) -> None:
        """Waits until it rings."""
        wake = current_runtime().wake()
        self._wakes[wake] = None
        try:
            await wake.wait()
        finally:
            self._wakes.pop(wake, None)
