"""Whether anybody can still reach an object, told without a collection of all garbage.

It is the cyclic collector's own method, on as much of the heap as the object leads to: a reference that comes from
none of these objects comes from outside, and what can be reached from there is no garbage.
https://docs.python.org/3/c-api/gcsupport.html
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import types
import weakref
from collections import Counter
from typing import Any

__all__ = ("is_garbage",)

_LIMIT = 2000
"""Objects that are looked at. What leads to more is taken to be reachable."""

_SHARED = (
    *(type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType),
    *(asyncio.AbstractEventLoop, contextvars.Context),
)
"""What everybody reaches, beside all that is ours: it is not followed, and who holds an object by it is outside."""

_OURS = __name__.partition(".")[0]


def is_garbage(reference: weakref.ref[Any]) -> bool:
    """Returns whether only a cycle of references keeps an object; the caller must not hold one itself.

    Args:
        reference: A weak reference to the object.
    """
    found: dict[int, object] = {}
    edges: dict[int, list[int]] = {}
    if not _follow(reference, found, edges):
        return False
    inside = Counter(referent for referents in edges.values() for referent in referents)
    # Beside those that were counted there are two: that of `found`, and the argument of getrefcount().
    roots = [number for number in found if sys.getrefcount(found[number]) > inside[number] + 2]
    return next(iter(found)) not in _reachable(roots, edges)


def _follow(reference: weakref.ref[Any], found: dict[int, object], edges: dict[int, list[int]]) -> bool:
    """Finds what an object leads to, itself first; returns whether that is little enough."""
    pending = [reference()]
    found[id(pending[0])] = pending[0]
    while pending:
        holder = pending.pop()
        edges[id(holder)] = referents = []
        for referent in gc.get_referents(holder):
            if gc.is_tracked(referent) and not _is_shared(referent):
                referents.append(id(referent))
                if id(referent) not in found:
                    found[id(referent)] = referent
                    pending.append(referent)
        if len(found) > _LIMIT:
            return False
    return True


def _is_shared(candidate: object) -> bool:
    if type(candidate) is dict:  # a module's, or the scope of a request, which leads to its application
        return "__spec__" in candidate or "asgi" in candidate
    kind = type(candidate)  # not its __class__, which a proxy may have to make first
    return issubclass(kind, _SHARED) or str(kind.__module__).partition(".")[0] == _OURS


def _reachable(roots: list[int], edges: dict[int, list[int]]) -> set[int]:
    seen = set(roots)
    while roots:
        for referent in edges[roots.pop()]:
            if referent not in seen:
                seen.add(referent)
                roots.append(referent)
    return seen
