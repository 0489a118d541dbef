"""What a log stores: messages that are text only and have no ID, each with its place in the history of its topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Literal, NamedTuple

from msgspec import UNSET
from msgspec.json import Encoder as JSONEncoder
from msgspec.json import encode

from litestar_safe_sse._core.encoding import as_text
from litestar_safe_sse._core.messages import SOURCE_EVENTS, SSEMessage, tag_of
from litestar_safe_sse._litestar import ServerSentEventMessage, default_serializer, from_litestar
from litestar_safe_sse.config import check_function, check_text
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._cursor import Position

__all__ = (
    "APPEND_MANY",
    "CAUGHT_UP",
    "FINISHED",
    "REMEMBERED",
    "RESET",
    "SUBSCRIBED",
    "Extent",
    "Renderer",
    "StoredEvent",
    "Why",
    "check_after",
    "check_key",
    "check_topic",
    "end_of",
    "why_lost",
)

RESET = "reset"
"""The type of the event that says that a client can't go on from where it was."""

SUBSCRIBED = "subscribed"
"""The type of the event that gives a client an ID where there is no other event to carry it."""

FINISHED = "finished"
"""The type of the last event of a topic."""

CAUGHT_UP = "caught-up"
"""The type of the event that stands between what was missed and what comes."""

APPEND_MANY = 1000
"""Messages that may be appended together."""

REMEMBERED = 604_800.0
"""Seconds for which it is known of a topic that it was finished, after its events have gone."""

_RESERVED = SOURCE_EVENTS - {"gap"}  # which no log has

_MAX_TOPIC = 256

_MAX_KEY = 256


Why = Literal["trimmed", "unknown"]
"""Why a topic can't be resumed; see ``Reset``."""


class StoredEvent(NamedTuple):
    """An event of a topic.

    Attributes:
        position: Its place.
        before: The nonce of the event before it.
        message: What was appended, without an ID.
        at: When, in milliseconds since 1970; never less than of the event before. 0 if that is not known.
    """

    position: Position
    before: int
    message: SSEMessage
    at: float = 0

    @property
    def place_before(self) -> Position:
        """The place that it comes right after; before the very first event, without a seal."""
        return Position(self.position.epoch, self.position.seq - 1, self.before)

    def follows(self, position: Position) -> bool:
        """Returns whether it is the one that comes right after a place."""
        own = self.position
        if own.seq != position.seq + 1:
            return False
        if not position.seq:
            return own.epoch >= position.epoch
        return own.epoch == position.epoch and self.before == position.nonce


class Extent(NamedTuple):
    """What is stored of a topic.

    Attributes:
        oldest: The place before the first event that is stored.
        newest: The place after the last.
        lost: Why not all that came after the place asked about is stored; ``None`` if it is.
        finished: Whether the topic ends there.
    """

    oldest: Position
    newest: Position
    lost: Why | None
    finished: bool = False

    def lacks(self, place: Position) -> bool:
        """Returns whether an event that was stored before is none of what is stored now, nor of what came before that.

        Args:
            place: Its place; before the first one there is nothing to be lacking.
        """
        newest = self.newest
        return place.seq > 0 and (
            place.epoch != newest.epoch or place.seq > newest.seq or (place.seq == newest.seq and place != newest)
        )

    def at(self, start: Literal["oldest", "latest"]) -> Position:
        """Returns the place where a subscription begins."""
        return self.oldest if start == "oldest" else self.newest


def why_lost(place: Position | None, oldest: Position, *, stored: bool, accepted: bool) -> Why | None:
    """Returns why not all that came after a place is stored; ``None`` if it is.

    Args:
        place: The place that a client was at.
        oldest: The place before the first event that is stored.
        stored: Whether the place is this one, or that of an event which is stored.
        accepted: Whether it is a place before the first event, of this history and no other.
    """
    if place is None:
        return "unknown"
    if stored or (accepted and not oldest.seq):
        return None
    known = place.epoch == oldest.epoch if place.seq else accepted
    return "trimmed" if known and place.seq < oldest.seq else "unknown"


class Renderer:
    """Makes messages of what is appended.

    Args:
        max_bytes: Bytes that a message may have, as UTF-8.
        enc_hook: As in ``msgspec.json.Encoder``; Litestar's own unless given.
    """

    def __init__(self, max_bytes: int, enc_hook: Callable[[Any], Any] | None) -> None:
        check_function("enc_hook", enc_hook)
        self._max_bytes = max_bytes
        self._json = JSONEncoder(enc_hook=enc_hook or default_serializer)

    def render(self, item: object) -> SSEMessage:
        """Returns the message for an item: whatever the body of a stream may yield.

        Raises:
            InvalidFieldError: The item can't be sent, is too big, or has what the log itself gives.
        """
        if type(item) is str and item.isascii() and len(item) <= self._max_bytes:
            return SSEMessage(item)  # as most are, and there is nothing to be wrong with
        message = _message(item)
        if message.id is not None:
            raise InvalidFieldError("id", "must be left out: the log gives its events their IDs")
        event = tag_of(type(message.data)) if message.event is None else message.event
        if event in _RESERVED:
            raise InvalidFieldError("event", f"must be another type than {event!r}, which the log itself sends")
        data = "" if message.data is UNSET and event is not None else message.data
        if data is not UNSET:
            data = check_text("data", as_text(data, self._json))
        rendered = SSEMessage(data, event, None, message.retry, message.comment)
        size = sum(len(text.encode()) for text in (data, event, message.comment) if isinstance(text, str))
        if size > self._max_bytes:
            raise InvalidFieldError(
                "data", f"must be at most {self._max_bytes} bytes, or a reference to them, not {size} bytes"
            )
        return rendered

    def render_all(self, items: Iterable[object]) -> list[SSEMessage]:
        """Returns the messages for items that are to be stored together.

        Raises:
            InvalidFieldError: One of them can't be sent, or there are too many.
        """
        if isinstance(items, (str, bytes, dict, SSEMessage)) or not isinstance(items, Iterable):
            raise InvalidFieldError("messages", f"must be several, in a list or so, not one {type(items).__name__}")
        messages = [self.render(item) for item in islice(items, APPEND_MANY + 1)]
        if len(messages) > APPEND_MANY:
            raise InvalidFieldError("messages", f"must be at most {APPEND_MANY}; append the others by another call")
        return messages


def end_of(topic: str) -> SSEMessage:
    """Returns the last message of a topic."""
    return SSEMessage(encode({"topic": topic}).decode(), FINISHED)


def check_topic(topic: object) -> str:
    """Returns a topic's name; raises ``InvalidFieldError`` for what can be none."""
    name = check_text("topic", topic)
    if not 0 < len(name.encode()) <= _MAX_TOPIC:
        raise InvalidFieldError("topic", f"must be from 1 to {_MAX_TOPIC} bytes, not {len(name.encode())}")
    return name


def check_after(after: object) -> str | None:
    """Returns an ID to go on after, or ``None`` for none; whatever a client may send, which is text, is one."""
    if after is not None and not isinstance(after, str):
        raise InvalidFieldError("after", f"must be a str, or None, not {type(after).__name__}")
    return after or None


def check_key(key: object) -> str | None:
    """Returns an idempotency key, or ``None`` for none; raises ``InvalidFieldError`` for what can be neither."""
    if key is None:
        return None
    name = check_text("idempotency_key", key)
    if not 0 < len(name.encode()) <= _MAX_KEY:
        raise InvalidFieldError(
            "idempotency_key", f"must be from 1 to {_MAX_KEY} bytes, or None for no key, not {len(name.encode())} bytes"
        )
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
                f"must be among {', '.join(SSEMessage.__struct_fields__)}; to send the dict itself as JSON, append "
                "SSEMessage(data=...)",
            )
        return SSEMessage(**item)
    if item is None:
        raise InvalidFieldError("data", "must be something to send, not None; append SSEMessage(data=None) for null")
    return SSEMessage(item)
