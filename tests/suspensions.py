"""An awaitable seen from outside: where it is suspended, it can be cancelled."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any


class Suspensions:
    """Runs an awaitable, and calls back at each of its suspensions, with its number."""

    def __init__(self, work: Any, suspended: Callable[[int], None]) -> None:
        self._work = work
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        count = 0
        pending = steps.send(None)
        while True:
            count += 1
            self._suspended(count)
            try:
                try:
                    got = yield pending
                except BaseException as exc:
                    pending = steps.throw(exc)
                else:
                    pending = steps.send(got)
            except StopIteration as stop:
                return stop.value
