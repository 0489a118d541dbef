"""The chain of what a coroutine awaits, from the outermost to the one that waits for the loop."""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("chain_of_awaits", "handled_by")

_KINDS = (CoroutineType, AsyncGeneratorType, GeneratorType)


def chain_of_awaits(outermost: object) -> Iterator[object]:
    """Returns a coroutine or generator, what it awaits, what that awaits, and so on."""
    link = outermost
    yield link
    while type(link := _awaited_by(link)) in _KINDS:
        yield link


def handled_by(outermost: object) -> Iterator[BaseException]:
    """Returns the exceptions that are being handled along the chain."""
    for link in chain_of_awaits(outermost):
        # A suspended frame shows nobody what it handles, except the garbage collector. No proxy is asked for its class.
        yield from (each for each in gc.get_referents(link) if issubclass(type(each), BaseException))


def _awaited_by(link: object) -> object:
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if hasattr(link, name):
            awaited = getattr(link, name)
            if awaited is None or type(awaited) in _KINDS:
                return awaited
            # What asend() and the like return does not tell which generator it is of.
            return next((each for each in gc.get_referents(awaited) if type(each) in _KINDS), None)
    return None
