"""What is Litestar's own: its messages, its serializer, and all that differs between its releases."""

from __future__ import annotations

from litestar.response.sse import ServerSentEventMessage
from litestar.serialization import default_serializer
from msgspec import UNSET

from litestar_safe_sse._core.messages import SSEMessage

__all__ = ("ServerSentEventMessage", "default_serializer", "from_litestar")


def from_litestar(message: ServerSentEventMessage) -> tuple[SSEMessage, str]:
    """Makes our message of Litestar's, where ``None`` as data means that there is none."""
    only_others = message.event is None and (message.comment, message.id, message.retry) != (None, None, None)
    # Its default is "", which after a lone comment, id or retry would have an empty event dispatched.
    data = UNSET if message.data is None or (message.data == "" and only_others) else message.data
    return SSEMessage(data, message.event, message.id, message.retry, message.comment), message.sep
