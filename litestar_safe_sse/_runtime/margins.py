"""A timer that goes by the clock, and leaves a last margin to a loop which has not answered until its time was over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("TimerWithMargin",)


class TimerWithMargin:
    """Calls back after some seconds, of which the last begin only when the loop answers.

    Args:
        runtime: The running event loop.
        seconds: Those by the clock.
        margin: Seconds beyond these, within which everyone has a turn.
        callback: What is called.
    """

    __slots__ = ("_callback", "_margin", "_runtime", "_timer")

    def __init__(self, runtime: Runtime, seconds: float, margin: float, callback: Callable[[], object]) -> None:
        self._runtime = runtime
        self._margin = margin
        self._callback = callback
        self._timer = runtime.call_later(seconds, self._begin_margin)

    def _begin_margin(self) -> None:
        self._timer = self._runtime.call_later(self._margin, self._callback)

    def cancel(self) -> None:
        """Takes it back."""
        self._timer.cancel()
