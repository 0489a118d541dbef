"""Where the items of a queue go that could not be delivered: a stream, to look at and to delete."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse.sources.redis.connection import Command

__all__ = ("DeadLetters",)

_logger = logging.getLogger("litestar_safe_sse")


class DeadLetters(msgspec.Struct, frozen=True):
    """When items become dead letters, and where those are kept.

    Args:
        key: The key of the stream.
        limit: How many are kept, approximately.
        max_deliveries: Deliveries after which an item becomes one; ``None`` for no limit.
    """

    key: str
    limit: int
    max_deliveries: int | None

    def __post_init__(self) -> None:
        if not check_text("dead_key", self.key):
            raise InvalidFieldError("dead_key", "must be a key, not empty")
        check_integer("max_deliveries", self.max_deliveries, minimum=1, optional=True)
        check_integer("max_dead", self.limit, minimum=1)

    def takes(self, deliveries: int) -> bool:
        """Returns whether an item that was delivered so often, in vain, is not delivered again."""
        return self.max_deliveries is not None and deliveries >= self.max_deliveries

    def add(self, data: bytes, deliveries: int, entry: str | None = None) -> Command:
        """Returns the command that adds an item, and says so in the log.

        Args:
            data: The item.
            deliveries: How often it was delivered.
            entry: The ID of its entry.
        """
        _logger.warning("an item was delivered %d times in vain, and is kept in %r", deliveries, self.key)
        fields = () if entry is None else ("entry", entry)
        return ("XADD", self.key, "MAXLEN", "~", self.limit, "*", *fields, "deliveries", deliveries, "data", data)
