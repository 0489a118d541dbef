"""Bytes on the wire as the events that a client dispatches."""

from __future__ import annotations

import builtins
import codecs
from collections import deque
from typing import Any, TypeVar, overload

import msgspec

__all__ = ("Decoder", "Event")

T = TypeVar("T")

_KEPT_COMMENTS = 1000
"""Comments of a stream that are kept, the latest."""


class Event(msgspec.Struct, frozen=True):
    """An event as an ``EventSource`` would dispatch it (WHATWG HTML, section 9.2.6).

    Attributes:
        type: The event type; ``message`` unless the server gave one.
        data: The data.
        id: The last event ID by then.
    """

    type: str
    data: str
    id: str

    @overload
    def json(self) -> Any: ...

    @overload
    def json(self, type: builtins.type[T]) -> T: ...

    def json(self, type: Any = Any) -> Any:
        """Returns what the data holds as JSON.

        Args:
            type: What it is decoded as.

        Raises:
            ValueError: The data is no JSON, or of another type.
        """
        return msgspec.json.decode(self.data, type=type)


class Decoder:
    """Parses an event stream, in chunks of any size (WHATWG HTML, sections 9.2.5 and 9.2.6).

    Attributes:
        events: What has been dispatched; whoever takes an event removes it.
        comments: The latest thousand comments, heartbeats among them.
        comments_seen: How many there have been.
        last_event_id: The ID that a client would resume by.
        retry: The reconnection time in milliseconds, if the server has set one.
    """

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.comments: deque[str] = deque(maxlen=_KEPT_COMMENTS)
        self.comments_seen = 0
        self.last_event_id = ""
        self.retry: int | None = None
        self._text = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body."""
        text = self._rest + self._text.decode(chunk)
        held = text.endswith("\r")  # a LF may follow, which belongs to it
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + ("\r" if held else "")
        for line in lines:
            self._take(line)

    def _take(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self._note_comment(value)
        elif field == "data":
            self._data.append(value)
        elif field == "event":
            self._type = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _note_comment(self, comment: str) -> None:
        if comment:  # a stream with nothing to say yet begins with one that says nothing
            self.comments.append(comment)
            self.comments_seen += 1

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        data, self._data = self._data, []
        type, self._type = self._type, ""
        if data:
            self.events.append(Event(type or "message", "\n".join(data), self._id))
