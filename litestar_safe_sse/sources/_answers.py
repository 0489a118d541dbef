"""What those are told who wait for the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ("copy_of", "fail")

E = TypeVar("E", bound=Exception)


def copy_of(error: E) -> E:
    """Returns an error for another one who waits: a traceback has one home."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def fail(answer: asyncio.Future[Any], error: Exception) -> None:
    """Has who waits for an answer raise an error, unless it is there or no longer waited for."""
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # looked at: nobody may be waiting any more by the time that asyncio would complain
