"""The token of a cancellation, by which it is known whether anybody remembers it.

It is the message that a task is cancelled with: the ``CancelledError`` has it, so it lives as long as that is handled,
or an exception that came of it. It is referred to weakly.
"""

from __future__ import annotations

from typing import Any

__all__ = ("NEXT_PAUSE", "PAUSE", "Token", "let_go_of_tokens")

PAUSE = 0.05
"""Seconds from when a cancellation was forgotten until the next. A function that has caught it may end in them."""

NEXT_PAUSE = 0.01
"""The same from when that was forgotten too: a client that connects slowly may lose several in a row."""


class Token(str):
    """A text for people, and an object that can be referred to weakly."""

    __slots__ = ("__weakref__",)

    def __new__(cls) -> Token:
        return super().__new__(cls, "cancelled by its owner")


def let_go_of_tokens(waiter: Any) -> None:
    """Lets the token go that a task keeps, and those that it waits for, if it was about to run when cancelled."""
    waiters = [waiter]
    while waiters:
        waiter = waiters.pop()
        if isinstance(getattr(waiter, "_cancel_message", None), Token):
            waiter._cancel_message = None
        waiters += getattr(waiter, "_children", ())  # of a gather()
        if (inner := getattr(waiter, "_fut_waiter", None)) is not None:
            waiters.append(inner)
