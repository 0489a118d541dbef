"""What a body yields, as bytes on the wire.

Sections cited are those of https://html.spec.whatwg.org/multipage/server-sent-events.html: 9.2.5 says how a
stream is parsed, 9.2.6 how its fields are interpreted. What a body yields becomes a whole block (an event, or a
comment or a field on its own, with the empty line that ends it) or an error: there is never half of one.

What no body has yielded is no block of its own, since much-used clients dispatch an event for each: a heartbeat is a
comment line between two blocks, and the reconnection time of the configuration is in the block of the first event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeVar

from msgspec import UNSET
from msgspec.json import Encoder as JSONEncoder

from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_separator, check_text, lone_surrogate
from litestar_safe_sse.exceptions import InvalidFieldError

Converter = Callable[[Any], "SSEMessage | tuple[SSEMessage, str] | Frame"]

_JSON_TYPES = 64
"""Types of one stream's items that are remembered to be JSON."""

_KEPT = 65536
"""Bytes of the largest block that is kept for the streams to come."""

_LF, _CR = b"\n\r"

_DATA_LINE = re.compile(rb"(?:\A|[\r\n])data(?:[:\r\n])")

_T = TypeVar("_T")


class _Nothing:
    """No item of any stream."""


class Head(NamedTuple):
    """What surrounds the JSON of events that are alike."""

    first: bytes
    """What stands ahead of it."""
    between: bytes
    """What stands between two of them."""


class Preamble(NamedTuple):
    """What a stream begins with that no body has yielded."""

    comment: bytes = b""
    """Comment lines, to be sent at once."""
    fields: bytes = b""
    """Lines for the block of the first event."""


class Encoder:
    """Turns the items of one stream into blocks.

    Args:
        separator: What ends a line.
        event: The event type of events that have none.
        id: The ID of events that have none.
        retry: The reconnection time sent with events that have none.
        enc_hook: As in ``msgspec.json.Encoder``: turns an object that msgspec does not know into one it does.
        converters: What turns an item of a type, or of a subclass, into a message, alone or with the
            separator to use for it, or into a frame. The first class in the item's method resolution order that has
            one wins.
        find_converter: Looks for the converter of a type for which there is none among them.
        ping_comment: The text of a heartbeat.

    Raises:
        InvalidFieldError: A default cannot be sent.
    """

    __slots__ = (
        "_between",
        "_converters",
        "_defaults",
        "_find_converter",
        "_head",
        "_id_line",
        "_json",
        "_json_head",
        "_latest",
        "_plain",
        "_separator",
        "_tail",
        "_tail_bytes",
        "frame",
        "heartbeat",
        "json_types",
        "opening",
        "text_type",
    )

    def __init__(
        self,
        *,
        separator: str = "\r\n",
        event: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
        converters: Mapping[type, Converter] = MappingProxyType({}),
        find_converter: Callable[[type], Converter | None] | None = None,
        ping_comment: str = "ping",
    ) -> None:
        check_separator("separator", separator)
        defaults = SSEMessage("", event, id, retry)
        self._separator = separator
        self.heartbeat = encode_comment(ping_comment, separator)
        """The comment line of a heartbeat."""
        self.opening = f":{separator}".encode()
        """A comment line that says nothing, for a stream that has nothing to say yet."""
        self._defaults = defaults
        # What surrounds the text of an event that is nothing but data, as _block would write it.
        self._id_line = "" if defaults.id is None else f"id: {defaults.id}{separator}"
        retry_line = "" if defaults.retry is None else f"retry: {defaults.retry}{separator}"
        self._head = self._head_of(defaults.event)
        self._tail = f"{separator}{retry_line}{separator}"
        self._plain = event is None and id is None and retry is None
        self._tail_bytes = self._tail.encode()
        self._between = f"{self._tail}{self._head}"
        self._json_head = self.head(defaults.event)
        self.frame = len(self._json_head.between)
        """Bytes that surround the text of an event that is nothing but data."""
        self._latest: tuple[object, bytes] = (_Nothing, b"")
        """A late message, with its block: a handler's streams share the encoder, and often what they send."""
        self._json = JSONEncoder(enc_hook=enc_hook)
        self.text_type: type = _Nothing if str in converters else str
        """The type of texts that need no look at their type."""
        self.json_types: dict[type, Head] = {}
        """Types whose items are data and nothing else, to be encoded by :attr:`to_json`."""
        self._find_converter = find_converter
        self._converters: dict[type, Converter] = {
            SSEMessage: _itself,
            Frame: _itself,
            dict: _from_fields,
            type(None): _refuse_none,
            **converters,
        }

    def encode(self, item: object) -> bytes:
        """Returns the block for ``item``.

        A ``str`` or bytes-like item is the text of an event's data; a ``dict`` holds the fields of a message, and
        maybe ``sep``; an ``SSEMessage`` speaks for itself. Any other object is data, sent as JSON, in which nan
        and infinity are ``null``. The stream's defaults complete events only, and a block without data is none.

        Raises:
            InvalidFieldError: The item cannot be sent.
        """
        latest, block = self._latest
        if item is latest:
            return block
        kind = type(item)
        if kind is SSEMessage:
            return self._message(item)  # type: ignore[arg-type]
        if kind is Frame:
            return item.block  # type: ignore[attr-defined, no-any-return]
        if kind is str and str not in self._converters:
            return _encoded(self._event(item))  # type: ignore[arg-type]
        return self._other(item)

    def block(self, text: str, event: str | None) -> bytes:
        """Returns the block of an event of a type, with a text as its data.

        Raises:
            InvalidFieldError: The text cannot be sent.
        """
        if "\n" in text or "\r" in text:
            text = _continued("data", text, self._separator)
        return _encoded(f"{self._head if event is None else self._head_of(event)}{text}{self._tail}")

    def head(self, event: str | None) -> Head:
        """Returns what surrounds the JSON of events of a type."""
        first = self._head_of(event).encode()
        return Head(first, self._tail_bytes + first)

    def _head_of(self, event: str | None) -> str:
        event_line = "" if event is None else f"event: {event}{self._separator}"
        return f"{self._id_line}{event_line}data: "

    @property
    def to_json(self) -> Callable[[Any], bytes]:
        """Returns what makes JSON of an item."""
        return self._json.encode

    def refusal(self, item: object, error: Exception) -> InvalidFieldError:
        """Returns the error for an item of which :attr:`to_json` makes nothing that can be sent."""
        return _not_json(item, error)

    def join_texts(self, texts: list[str]) -> bytes:
        """Returns the blocks for texts that are ASCII, in one piece: the checks and the encoding are done but once."""
        joined = "".join(texts)
        if "\n" in joined or "\r" in joined:
            return "".join([self._event(text) for text in texts]).encode()
        return f"{self._head}{self._between.join(texts)}{self._tail}".encode()

    def join_jsons(self, jsons: list[bytes], head: Head) -> bytes:
        """Returns the blocks for what :attr:`to_json` has made of items with the same head, in one piece."""
        joined = b"".join(jsons)
        if _LF in joined or _CR in joined:  # of a msgspec.Raw
            jsons = [_continued("data", json.decode(), self._separator).encode() for json in jsons]
        return b"".join((head.first, head.between.join(jsons), self._tail_bytes))

    def _event(self, text: str) -> str:
        if "\n" in text or "\r" in text:
            text = _continued("data", text, self._separator)
        return f"{self._head}{text}{self._tail}"

    def _message(self, message: SSEMessage) -> bytes:
        text = message.data
        if type(text) is not str:
            return _encoded(self._block(message, self._separator))
        if message.comment is not None or not self._plain:
            block = self._block(message, self._separator)
        else:  # an event as most are, in one piece; _block would write the same
            separator, event, id, retry = self._separator, message.event, message.id, message.retry
            if "\n" in text or "\r" in text:
                text = _continued("data", text, separator)
            tail = separator if retry is None else f"retry: {retry}{separator}{separator}"
            if id is None:
                head = "" if event is None else f"event: {event}{separator}"
            else:
                head = f"id: {id}{separator}" if event is None else f"id: {id}{separator}event: {event}{separator}"
            block = f"{head}data: {text}{separator}{tail}"
        try:
            encoded = block.encode()
        except UnicodeEncodeError as error:
            raise lone_surrogate("data", error) from error
        if len(encoded) <= _KEPT:
            self._latest = message, encoded  # nothing of it can change
        return encoded

    def _other(self, item: object) -> bytes:
        kind = type(item)
        convert = self._converter_of(kind)
        if convert is not None:
            return self._converted(convert(item))
        if not is_text(kind) and len(self.json_types) < _JSON_TYPES:
            self.json_types[kind] = self._json_head  # what was looked up once is not looked up again
        return _encoded(self._event(as_text(item, self._json)))

    def _converter_of(self, kind: type) -> Converter | None:
        for base in kind.__mro__:
            if base in self._converters:
                return self._converters[base]
        convert = None if self._find_converter is None else self._find_converter(kind)
        if convert is not None:
            self._converters[kind] = convert
        return convert

    def _converted(self, converted: SSEMessage | tuple[SSEMessage, str] | Frame) -> bytes:
        if isinstance(converted, Frame):
            return converted.block  # type: ignore[return-value]  # as it is once it was checked
        if isinstance(converted, SSEMessage):
            return _encoded(self._block(converted, self._separator))
        message, separator = converted
        check_separator("sep", separator)
        return _encoded(self._block(message, separator))

    def _block(self, message: SSEMessage, separator: str) -> str:
        data, event, id, retry = message.data, message.event, message.id, message.retry
        comment = message.comment
        if event is None and id is None and retry is None and comment is None and separator == self._separator:
            return self._event(as_text(data, self._json))
        text = None if data is UNSET else as_text(data, self._json)
        if text is None and event is not None:
            text = ""  # 9.2.6: what has no data line is not dispatched
        if text is not None:
            defaults = self._defaults
            event = defaults.event if event is None else event
            id = defaults.id if id is None else id
            retry = defaults.retry if retry is None else retry
        block = ""
        if comment is not None:
            block = _lines("", comment, separator)
        if id is not None:
            block += f"id: {id}{separator}"
        if event is not None:
            block += f"event: {event}{separator}"
        if text is not None:
            block += _lines("data", text, separator)
        if retry is not None:
            block += f"retry: {retry}{separator}"
        return block + separator


def is_text(kind: type) -> bool:
    """Returns whether items of a type are sent as text, or need a look each before they are JSON."""
    return issubclass(kind, (str, bytes, bytearray, memoryview)) or (
        issubclass(kind, int) and kind not in (int, bool)  # msgspec knows no subclass of int
    )


def as_text(data: object, json: JSONEncoder) -> str:
    """Returns what an event carries for ``data``: text as it is, and anything else as JSON.

    Raises:
        InvalidFieldError: Bytes that are not UTF-8, or what JSON cannot hold.
    """
    if isinstance(data, str):
        return str.__str__(data)  # a member of a str Enum prints as its name
    if isinstance(data, (bytes, bytearray, memoryview)):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError as error:
            raise InvalidFieldError("data", f"must be UTF-8 ({error})") from error
    if isinstance(data, int) and not isinstance(data, bool):
        data = int(data)  # msgspec knows no subclass of int
    try:
        return json.encode(data).decode()
    except Exception as error:
        raise _not_json(data, error) from error


def _encoded(block: str) -> bytes:
    try:
        return block.encode()
    except UnicodeEncodeError as error:  # in the data: the other fields were checked when they were given
        raise lone_surrogate("data", error) from error


def has_data(block: bytes) -> bool:
    """Returns whether clients take a block for an event (9.2.6)."""
    return _DATA_LINE.search(block) is not None


def make_preamble(separator: str, comment: str | None, retry: int | None) -> Preamble:
    """Returns what a stream begins with.

    Args:
        separator: What ends a line.
        comment: The comment that it begins with.
        retry: The reconnection time that its first event carries.
    """
    return Preamble(
        b"" if comment is None else encode_comment(comment, separator),
        b"" if retry is None else f"retry: {retry}{separator}".encode(),
    )


def encode_comment(text: str, separator: str) -> bytes:
    """Returns ``text`` as comment lines, which may stand between any two blocks.

    Raises:
        InvalidFieldError: The text or the separator cannot be sent.
    """
    check_separator("separator", separator)
    return _lines("", check_text("comment", text), separator).encode()


def decode_last_event_id(raw: bytes, max_length: int, field: str = "Last-Event-ID") -> str:
    """Returns the ID that the bytes of a ``Last-Event-ID`` header hold.

    Args:
        raw: The value of the header.
        max_length: Bytes that it may have.
        field: The name to give in the error.

    Raises:
        InvalidFieldError: No client that obeys the standard sends it, or it has more than ``max_length`` bytes.
    """
    if len(raw) > max_length:
        raise InvalidFieldError(field, f"must be at most {max_length} bytes long, not {len(raw)}")
    if any(byte in raw for byte in b"\0\r\n"):
        raise InvalidFieldError(field, "must be without NUL and line breaks, as the IDs of events are")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidFieldError(field, f"must be UTF-8 ({error})") from error


def _lines(name: str, text: str, separator: str) -> str:
    if "\n" in text or "\r" in text:
        text = _continued(name, text, separator)
    return f"{name}: {text}{separator}"


def _continued(name: str, text: str, separator: str) -> str:
    # 9.2.5: CRLF, LF and CR end a line, and nothing else does, so str.splitlines() would break too often.
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"{separator}{name}: ")


def _not_json(data: object, error: Exception) -> InvalidFieldError:
    return InvalidFieldError(
        "data",
        f"must be what msgspec encodes as JSON, or be of a type that has an encoder,"
        f" unlike this {type(data).__qualname__} ({error})",
    )


def _itself(message: _T) -> _T:
    return message


def _from_fields(item: dict[Any, Any]) -> SSEMessage | tuple[SSEMessage, str]:
    fields = item.copy()
    separator = fields.pop("sep", None)
    for name in fields:
        if name not in SSEMessage.__struct_fields__:
            raise InvalidFieldError(
                f"{name}",
                f"the keys of a dict must be among {', '.join(SSEMessage.__struct_fields__)} and sep;"
                " to send the dict itself as JSON, yield SSEMessage(data=...)",
            )
    message = SSEMessage(**fields)
    return message if separator is None else (message, separator)


def _refuse_none(item: None) -> NoReturn:
    raise InvalidFieldError(
        "data",
        "must not be None; yield SSEMessage(data=None) for null, SSEMessage(comment=...) for a comment,"
        " or nothing at all",
    )
