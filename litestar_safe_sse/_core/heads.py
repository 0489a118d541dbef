"""Events that are alike but for what each carries: what is the same for all of them is done once a chunk.

A head knows what stands ahead of a piece, which is the text or the JSON of an event, and what ends it. Pieces of events
with the same head are kept as they are until they are sent; then they are checked for line breaks, joined, and encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar_safe_sse._core.messages import SSEMessage

__all__ = ("BlockHead", "BytesHead", "Head", "Heads", "Layout", "MessageHead", "NumberedHead", "TextHead", "continued")

H = TypeVar("H")

_EVENT_TYPES = 64
"""Event types whose heads are remembered; there may be no end of them."""

_LF, _CR = b"\n\r"


class Head(Protocol):
    """What events have in common."""

    @property
    def frame(self) -> int:
        """Bytes of an event beside its piece."""
        ...

    def join(self, pieces: list[Any], parts: list[bytes]) -> None:
        """Adds the blocks of the events to the parts of a chunk; the list of their pieces is used up."""


class MessageHead(Head, Protocol):
    """What messages have in common."""

    def piece(self, message: SSEMessage) -> Any:
        """Returns the piece of a message."""


class TextHead:
    """Of events whose pieces are texts, all ASCII.

    Args:
        first: What stands ahead of a text.
        tail: What ends an event.
        separator: What ends a line.
    """

    __slots__ = ("_between", "_first", "_separator", "_tail", "frame")

    def __init__(self, first: str, tail: str, separator: str) -> None:
        self._first = first
        self._tail = tail
        self._separator = separator
        self._between = f"{tail}{first}"
        self.frame = len(self._between.encode())

    def join(self, pieces: list[str], parts: list[bytes]) -> None:
        joined = "".join(pieces)
        if "\n" in joined or "\r" in joined:
            pieces = [continued("data", piece, self._separator) for piece in pieces]
        parts.append(f"{self._first}{self._between.join(pieces)}{self._tail}".encode())

    def block(self, text: str) -> str:
        """Returns the block of one event, whose text need not be ASCII."""
        if "\n" in text or "\r" in text:
            text = continued("data", text, self._separator)
        return f"{self._first}{text}{self._tail}"


class NumberedHead:
    """Of messages that have an ID each; their pieces are the ID and the text, both ASCII.

    Args:
        middle: What stands between the two.
        tail: What ends an event.
        separator: What ends a line.
    """

    __slots__ = ("_between", "_middle", "_separator", "_tail", "frame")

    def __init__(self, middle: str, tail: str, separator: str) -> None:
        self._middle = middle
        self._tail = tail
        self._separator = separator
        self._between = f"{tail}id: "
        self.frame = len(self._between.encode())

    def piece(self, message: SSEMessage) -> str:
        text = message.data
        if "\n" in text or "\r" in text:
            text = continued("data", text, self._separator)
        return f"{message.id}{self._middle}{text}"

    def join(self, pieces: list[str], parts: list[bytes]) -> None:
        parts.append(f"id: {self._between.join(pieces)}{self._tail}".encode())

    def block(self, message: SSEMessage) -> str:
        """Returns the block of one message, whose ID and text need not be ASCII."""
        return f"id: {self.piece(message)}{self._tail}"


class BytesHead:
    """Of events whose pieces are bytes: JSON, or texts that are not ASCII.

    Args:
        first: What stands ahead of the JSON.
        tail: What ends an event.
        separator: What ends a line.
        encode: Makes a piece of what a message carries.
    """

    __slots__ = ("_between", "_first", "_separator", "_tail", "encode", "frame")

    def __init__(self, first: str, tail: str, separator: str, encode: Callable[[Any], bytes]) -> None:
        self.encode = encode
        self._first = first.encode()
        self._tail = tail.encode()
        self._separator = separator
        self._between = self._tail + self._first
        self.frame = len(self._between)

    def piece(self, message: SSEMessage) -> bytes:
        return self.encode(message.data)

    def join(self, pieces: list[bytes], parts: list[bytes]) -> None:
        joined = b"".join(pieces)
        if _LF in joined or _CR in joined:  # JSON has them in a msgspec.Raw
            pieces = [continued("data", piece.decode(), self._separator).encode() for piece in pieces]
        parts += self._first, self._between.join(pieces), self._tail


class BlockHead:
    """Of events that have nothing in common: their pieces are their blocks."""

    __slots__ = ()

    frame = 0

    def join(self, pieces: list[bytes], parts: list[bytes]) -> None:
        parts += pieces


class Layout(NamedTuple):
    """How the events of a stream are laid out, from which their heads are made."""

    separator: str
    """What ends a line."""
    event: str | None
    """The event type of events that have none."""
    id: str | int | None
    """The ID of events that have none."""
    retry: int | None
    """The reconnection time that each of them has."""

    @property
    def tail(self) -> str:
        """What ends an event behind its data."""
        retry_line = "" if self.retry is None else f"retry: {self.retry}{self.separator}"
        return f"{self.separator}{retry_line}{self.separator}"

    def first(self, event: str | None) -> str:
        """Returns what stands ahead of the data of events of a type."""
        id_line = "" if self.id is None else f"id: {self.id}{self.separator}"
        return f"{id_line}{self._event_line(event)}data: "

    def _event_line(self, event: str | None) -> str:
        event = self.event if event is None else event
        return "" if event is None else f"event: {event}{self.separator}"

    def make_text_head(self, event: str | None) -> TextHead:
        return TextHead(self.first(event), self.tail, self.separator)

    def make_numbered_head(self, event: str | None) -> NumberedHead:
        return NumberedHead(f"{self.separator}{self._event_line(event)}data: ", self.tail, self.separator)

    def make_bytes_head(self, encode: Callable[[Any], bytes], event: str | None) -> BytesHead:
        return BytesHead(self.first(event), self.tail, self.separator, encode)


class Heads(dict["str | None", H]):
    """The heads of the events of each type.

    Args:
        make: Makes that of a type.
    """

    def __init__(self, make: Callable[[str | None], H]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, event: str | None) -> H:
        if len(self) >= _EVENT_TYPES:
            self._forget_types()
        head = self[event] = self._make(event)
        return head

    def _forget_types(self) -> None:
        plain = self.pop(None, None)  # of events without a type, which others refer to as well
        self.clear()
        if plain is not None:
            self[None] = plain


def continued(name: str, text: str, separator: str) -> str:
    """Returns a text on as many lines of a field as it has, without what stands ahead of the first."""
    # 9.2.5: CRLF, LF and CR end a line, and nothing else does, so str.splitlines() would break too often.
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"{separator}{name}: ")
