"""What stands behind the ``send`` of a request, through the wrappers that middleware puts around it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("behind", "daphne_request", "daphne_websocket", "module_of_owner")

_DEPTH = 32
"""Wrappers around ``send`` that are looked behind."""


def behind(send: object) -> Iterator[Any]:
    """Yields a ``send`` and what it calls in the end, through closures, partials and objects that hold a ``send``."""
    layer = [send]
    seen = {_identity(send): send}  # wrappers may know each other, and must not be visited again and again
    for _ in range(_DEPTH):
        if not layer:
            return
        yield from layer
        found = [(_identity(inner), inner) for outer in layer for inner in _inner(outer)]
        fresh = {identity: inner for identity, inner in found if identity not in seen}
        seen.update(fresh)
        layer = list(fresh.values())


def _identity(candidate: object) -> tuple[int, int]:
    """Tells callables apart; a method is made anew whenever it is looked up."""
    return id(getattr(candidate, "__self__", candidate)), id(getattr(candidate, "__func__", candidate))


def _inner(outer: object) -> Iterator[object]:
    if isinstance(outer, functools.partial):
        yield outer.func
        return
    owner = getattr(outer, "__self__", None)
    if owner is not None:
        inner = getattr(owner, "send", None)
        if callable(inner) and inner is not outer:
            yield inner
    for cell in getattr(outer, "__closure__", None) or ():
        try:
            if callable(cell.cell_contents):
                yield cell.cell_contents
        except ValueError:  # an empty cell
            continue


def module_of_owner(method: object) -> str:
    """Returns the name of the module that defines the class of a method's instance."""
    return type(getattr(method, "__self__", None)).__module__


def daphne_request(candidate: Any) -> Any:
    """Returns the request that a ``send`` of Daphne's is for, as long as it has a channel; else ``None``."""
    request = _served_by_daphne(candidate)
    if getattr(request, "channel", None) is not None and hasattr(request, "registerProducer"):
        return request
    return None


def daphne_websocket(candidate: Any) -> Any:
    """Returns the WebSocket that a ``send`` of Daphne's is for, as long as it has a transport; else ``None``."""
    protocol = _served_by_daphne(candidate)
    if getattr(protocol, "transport", None) is not None and hasattr(protocol, "sendMessage"):
        return protocol
    return None


def _served_by_daphne(candidate: Any) -> Any:
    if isinstance(candidate, functools.partial) and module_of_owner(candidate.func) == "daphne.server":
        return candidate.args[0]
    return None
