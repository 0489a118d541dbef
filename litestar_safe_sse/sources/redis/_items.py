"""What a queue holds, and under which key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("dead_key_of", "encode_item", "key_of")


def encode_item(field: str, item: object) -> bytes | str:
    """Returns an item as Redis is sent it: text and bytes as they are, anything else as JSON.

    Args:
        field: The name to give in the error.
        item: The item.

    Raises:
        InvalidFieldError: It can't be sent.
    """
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return check_text(field, item)
    if isinstance(item, Frame):
        raise InvalidFieldError(
            field, "must not be a Frame, which would be JSON; give its block, to be framed by who yields"
        )
    try:
        return msgspec.json.encode(item)
    except Exception as error:
        raise InvalidFieldError(field, f"must be text, bytes or what msgspec encodes as JSON ({error})") from error


_PARTS = {"queue": (":dead", ":failures"), "group": (":dead",)}
"""What follows the name of a queue, of each kind, in its other keys."""


def key_of(redis: RedisPlugin, kind: str, name: str | None, key: str | None) -> str:
    """Returns the key of a queue.

    Args:
        redis: Says what keys begin with.
        kind: The kind of the queue.
        name: Its name, or
        key: its key.

    Raises:
        InvalidFieldError: It can't be one, or collides with the other keys of a queue.
    """
    if (name is None) == (key is None):
        raise InvalidFieldError("name", "must be given if key is not, and left out if it is")
    text = check_text("name", name) if key is None else check_text("key", key)
    if not text:
        raise InvalidFieldError("name", "must be a name, not empty")
    if key is None and text.endswith(_PARTS[kind]):
        raise InvalidFieldError("name", f"must be another than {text!r:.40}, which is part of another queue's keys")
    return redis.key(kind, text) if key is None else text


def dead_key_of(key: str, dead_key: str | None) -> str:
    """Returns the key of a queue's dead letters: the one that is given, or what follows from its own."""
    if dead_key == key:
        raise InvalidFieldError("dead_key", "must be another key than the queue's")
    return f"{key}:dead" if dead_key is None else dead_key
