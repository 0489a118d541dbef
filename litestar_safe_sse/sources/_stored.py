"""What is appended to a log, as the message that it stores: text only, and without an ID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET
from msgspec.json import Encoder as JSONEncoder

from litestar_safe_sse._core.encoding import as_text
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._litestar import ServerSentEventMessage, default_serializer, from_litestar
from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._subscription import DROPPED

__all__ = ("RESET", "Renderer", "check_topic")

RESET = "reset"
"""The type of the event that tells a client that it can't go on from where it was."""

_MAX_TOPIC = 256


class Renderer:
    """Makes messages of what is appended.

    Args:
        max_bytes: Bytes that a message may have, as UTF-8.
        enc_hook: As in ``msgspec.json.Encoder``; Litestar's own unless given.
    """

    def __init__(self, max_bytes: int, enc_hook: Callable[[Any], Any] | None) -> None:
        self._max_bytes = max_bytes
        self._json = JSONEncoder(enc_hook=enc_hook or default_serializer)

    def render(self, item: object) -> SSEMessage:
        """Returns the message for an item: whatever the body of a stream may yield.

        Raises:
            InvalidFieldError: It can't be sent, is too big, or takes what the log itself has to give.
        """
        message = _message(item)
        if message.id is not None:
            raise InvalidFieldError("id", "the log gives its events their IDs; leave it out")
        if message.event in (RESET, DROPPED):
            raise InvalidFieldError("event", f"{message.event!r} is what the log itself sends; take another type")
        data = "" if message.data is UNSET and message.event is not None else message.data
        if data is not UNSET:
            data = check_text("data", as_text(data, self._json))
        rendered = SSEMessage(data, message.event, None, message.retry, message.comment)
        size = sum(len(text.encode()) for text in (data, message.event, message.comment) if isinstance(text, str))
        if size > self._max_bytes:
            raise InvalidFieldError("data", f"{size} bytes; give at most {self._max_bytes}, or a reference to them")
        return rendered


def check_topic(topic: object) -> str:
    """Returns a topic's name; raises ``InvalidFieldError`` for what can be none."""
    name = check_text("topic", topic)
    if not 0 < len(name.encode()) <= _MAX_TOPIC:
        raise InvalidFieldError("topic", f"{len(name.encode())} bytes; give from 1 to {_MAX_TOPIC}")
    return name


def _message(item: object) -> SSEMessage:
    if isinstance(item, SSEMessage):
        return item
    if isinstance(item, ServerSentEventMessage):
        return from_litestar(item)[0]  # the line separator is the stream's
    if isinstance(item, dict):
        unknown = [name for name in item if name not in SSEMessage.__struct_fields__]
        if unknown:
            raise InvalidFieldError(
                f"{unknown[0]}",
                f"no field of an event; give any of {', '.join(SSEMessage.__struct_fields__)},"
                " or the dict itself as JSON with SSEMessage(data=...)",
            )
        return SSEMessage(**item)
    if item is None:
        raise InvalidFieldError("data", "None is no event; append SSEMessage(data=None) for null")
    return SSEMessage(item)
