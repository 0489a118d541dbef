"""What a queue holds, and under which key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("encode_item", "key_of")


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
    try:
        return msgspec.json.encode(item)
    except Exception as error:
        raise InvalidFieldError(field, f"must be text, bytes or what msgspec encodes as JSON ({error})") from error


def key_of(redis: RedisPlugin, kind: str, name: str | None, key: str | None) -> str:
    if (name is None) == (key is None):
        raise InvalidFieldError("name", "must be given if key is not, and left out if it is")
    text = check_text("name", name) if key is None else check_text("key", key)
    if not text:
        raise InvalidFieldError("name", "must be a name, not empty")
    return redis.key(kind, text) if key is None else text
