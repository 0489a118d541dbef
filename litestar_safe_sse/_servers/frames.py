"""What servers hold in the local variables of their functions: the only way to an object that nothing else names."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("callers", "locals_of_callers", "locals_of_waiting", "module_of")


def callers() -> Iterator[FrameType]:
    """Yields the frames of the callers, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def module_of(frame: FrameType) -> str:
    """Returns the name of the module whose code a frame runs."""
    return str(frame.f_globals.get("__name__"))


def locals_of_callers(module: str, variable: str) -> list[Any]:
    """Returns what a local variable holds in the callers that a module defines, the nearest first."""
    values = (frame.f_locals.get(variable) for frame in callers() if module_of(frame) == module)
    return [value for value in values if value is not None]


def locals_of_waiting(runtime: Runtime, module: str, variable: str) -> list[Any]:
    """Returns what a local variable holds in the waiting coroutines of an event loop, each object once.

    Args:
        runtime: The running event loop.
        module: The module that defines the coroutines.
        variable: The name of the local variable.
    """
    if module not in sys.modules:
        return []
    frames = (frame for coroutine in _coroutines(runtime) for frame in _waiting_frames(coroutine))
    values = (frame.f_locals.get(variable) for frame in frames if module_of(frame) == module)
    return list({id(value): value for value in values if value is not None}.values())


def _coroutines(runtime: Runtime) -> Iterator[Any]:
    """Yields the outermost coroutine of each task."""
    if runtime.name == "asyncio":
        yield from (task.get_coro() for task in asyncio.all_tasks())
        return
    tasks = [sys.modules["trio"].lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        yield task.coro
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _waiting_frames(coroutine: Any) -> Iterator[FrameType]:
    """Yields the frame of a coroutine, of the one that it awaits, and so on."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None)
