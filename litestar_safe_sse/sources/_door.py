"""Who subscribes to the topics of a log, and who may: that is asked in the one place where a stream does."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from litestar_safe_sse._litestar import TopicsDeniedError
from litestar_safe_sse.config import check_coroutine_function
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._presence import Guest, check_member

if TYPE_CHECKING:
    from litestar_safe_sse.context import StreamContext
    from litestar_safe_sse.sources._presence import Attendance, Who

__all__ = ("Authorize", "Door", "Visitor")

Authorize = Callable[[Any, tuple[str, ...]], Awaitable[object]]
"""An async function of a connection and topics, which returns ``False`` or raises where it may not have them."""


class Door:
    """Where streams come in.

    Args:
        authorize: Says which topics a connection may have.
        presence: Says who a connection is.

    Raises:
        InvalidFieldError: One of them can't.
    """

    def __init__(self, authorize: Authorize | None, presence: Who | None) -> None:
        check_coroutine_function("authorize", authorize)
        if presence is not None and (not callable(presence) or inspect.iscoroutinefunction(presence)):
            raise InvalidFieldError("presence", f"must be a function that is not async, or None, not {presence!r:.60}")
        self._authorize = authorize
        self._presence = presence

    @property
    def counts(self) -> bool:
        """Whether it notes who comes in."""
        return self._presence is not None

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

    def guest(
        self, stream: StreamContext | UnsetType | None, member: str | None, find: Callable[[], Attendance]
    ) -> Guest | None:
        """Returns who is to be present; ``None`` if nobody is.

        Args:
            stream: As in :meth:`visitor`.
            member: Who it is, if that is known better than by its connection.
            find: Returns the attendance of the running event loop.

        Raises:
            InvalidFieldError: The stream is missing, or there is no such name.
        """
        if self._presence is None:
            if member is not None:
                raise InvalidFieldError("member", "must be left out, unless the log has presence")
            return None
        if member is not None:
            return Guest(find, check_member("member", member))
        if stream is None:
            return None
        if stream is UNSET:
            raise InvalidFieldError(
                "stream",
                "must be the stream that subscribes, since the log has presence; None where the application itself "
                "does, and is not to be counted",
            )
        name = self._presence(stream.request)
        return Guest(find, "" if name is None else check_member("what presence returned", name))


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
