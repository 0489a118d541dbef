"""Who may subscribe to the topics of a log, which is asked in the one place where a stream does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from litestar_safe_sse._litestar import TopicsDeniedError
from litestar_safe_sse.config import check_coroutine_function
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse.context import StreamContext

__all__ = ("Authorize", "Door", "Visitor")

Authorize = Callable[[Any, tuple[str, ...]], Awaitable[object]]
"""An async function of a connection and topics, which returns ``False`` or raises where it may not have them."""


class Door:
    """Where streams come in.

    Args:
        authorize: Says which topics a connection may have.

    Raises:
        InvalidFieldError: It can't.
    """

    def __init__(self, authorize: Authorize | None) -> None:
        check_coroutine_function("authorize", authorize)
        self._authorize = authorize

    def visitor(self, stream: StreamContext | UnsetType | None) -> Visitor | None:
        """Returns who is to be asked about; ``None`` if nobody is.

        Args:
            stream: The stream that subscribes; ``None`` if none does, but the application itself.

        Raises:
            InvalidFieldError: It is missing, or no stream.
        """
        if stream is not None and stream is not UNSET and not hasattr(stream, "request"):
            raise InvalidFieldError("stream", f"must be a StreamContext, or None, not {type(stream).__name__}")
        if self._authorize is None or stream is None:
            return None
        if stream is UNSET:
            raise InvalidFieldError(
                "stream",
                "must be the stream that subscribes, since the log has authorize; None where the application itself "
                "does, and may have any topic",
            )
        return Visitor(self._authorize, stream.request)


class Visitor:
    """The connection of a stream that subscribes.

    Args:
        authorize: Says what it may have.
        connection: The connection.
    """

    __slots__ = ("_authorize", "_connection")

    def __init__(self, authorize: Authorize, connection: Any) -> None:
        self._authorize = authorize
        self._connection = connection

    async def ask(self, topics: tuple[str, ...]) -> None:
        """Returns if it may have these topics.

        Raises:
            TopicsDeniedError: It may not.
        """
        if await self._authorize(self._connection, topics) is False:
            raise TopicsDeniedError(topics)
