"""Where the items of a queue go that could not be delivered: a stream, to look at and to delete."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("DeadLetters", "in_vain")

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

    async def add(self, send: Callable[..., Awaitable[Any]], why: str, *fields: str | bytes | int) -> bool:
        """Adds an item, and then says so in the log.

        Args:
            send: Sends a command.
            why: What there is to be said of the item.
            *fields: Names and values of what is kept.

        Returns:
            Whether it is kept. If Redis refuses it, which the log says too, it must stay in its queue.

        Raises:
            SourceUnavailableError: Redis can't be reached; it may be kept all the same.
        """
        try:
            await send("XADD", self.key, "MAXLEN", "~", self.limit, "*", *fields)
        except SourceRefusedError as error:
            _logger.warning("%s, and comes again, since it can't be kept in %r: %s", why, self.key, error)
            return False
        _logger.warning("%s, and is kept in %r", why, self.key)
        return True


def in_vain(deliveries: int) -> str:
    """Returns what there is to be said of an item that was delivered so often."""
    return f"an item was delivered {deliveries} times in vain"
