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
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.json import Encoder as JSONEncoder

from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.heads import BytesHead, Heads, Layout, continued
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_separator, check_text, lone_surrogate
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar_safe_sse._core.heads import MessageHead

Converter = Callable[[Any], "SSEMessage | tuple[SSEMessage, str] | Frame"]

_JSON_TYPES = 64
"""Types of one stream's items that are remembered to be JSON."""

SHARED, _JOINED = 512, 4096
"""Characters from which on the text of a message is encoded by itself: where it has been sent before, so that streams
share what is made of it, and in any case."""

_KEPT = 65536
"""Bytes of the largest block that is kept for the streams to come."""

_DATA_LINE = re.compile(rb"(?:\A|[\r\n])data(?:[:\r\n])")

_T = TypeVar("_T")


class Nothing:
    """No item of any stream."""


class Preamble(NamedTuple):
    """What a stream begins with that no body has yielded."""

    comment: bytes = b""
    """Comment lines, to be sent at once."""
    fields: bytes = b""
    """Lines for the block of the first event."""


_NO_PREAMBLE = Preamble()


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
        "_converters",
        "_defaults",
        "_find_converter",
        "_json",
        "_json_data",
        "_json_heads",
        "_latest",
        "_numbered_heads",
        "_seen",
        "_separator",
        "bytes_heads",
        "heartbeat",
        "json_types",
        "message_type",
        "opening",
        "text_heads",
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
        # Nothing here refers to the encoder, which is let go of with the response that has settings of its own.
        layout = self._make_layout(separator, defaults)
        self._json = JSONEncoder(enc_hook=enc_hook)
        self.text_heads = Heads(layout.make_text_head)
        """The heads of texts that are ASCII, by the type of their events."""
        self.bytes_heads = Heads(partial(layout.make_bytes_head, self._encode_text))
        """The heads of other texts."""
        self._numbered_heads = Heads(layout.make_numbered_head)
        self._json_heads = Heads(partial(layout.make_bytes_head, partial(_to_json, self._json)))
        self._latest: tuple[object, bytes] = (Nothing, b"")
        """A late message, with its block: a handler's streams share the encoder, and often what they send."""
        self._seen: object = Nothing
        """A late message that is rather long."""
        self._json_data: set[type] = set()
        """Types of what messages carry as JSON."""
        self.message_type: type = SSEMessage if type(self).encode is Encoder.encode else Nothing
        """The type of messages that need no look at what they carry; none where a subclass encodes by itself."""
        self.text_type: type = Nothing if str in converters else str
        """The type of texts that need no look at their type."""
        self.json_types: dict[type, BytesHead] = {}
        """Types whose items are data and nothing else, to be encoded by :attr:`to_json`."""
        self._find_converter = find_converter
        self._converters: dict[type, Converter] = {
            SSEMessage: _itself,
            Frame: _itself,
            dict: _from_fields,
            type(None): _refuse_none,
            **converters,
        }

    def _make_layout(self, separator: str, defaults: SSEMessage) -> Layout:
        return Layout(separator, defaults.event, defaults.id, defaults.retry)

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
            return _encoded(self.text_heads[None].block(item))  # type: ignore[arg-type]
        return self._other(item)

    @staticmethod
    def _encode_text(text: str) -> bytes:
        return _encoded(text)

    def encode_message(self, message: SSEMessage) -> bytes:
        """Returns the block for a message that was resolved.

        Raises:
            InvalidFieldError: The message cannot be sent.
        """
        latest, block = self._latest
        return block if message is latest else self._message(message)

    def resolve(self, item: object) -> SSEMessage | bytes:
        """Returns the message that an item stands for, or else its block.

        Raises:
            InvalidFieldError: The item cannot be sent.
        """
        convert = self._converters.get(type(item))
        if convert is None or self.message_type is Nothing:
            return self.encode(item)
        converted = convert(item)
        if type(converted) is tuple:
            message, separator = converted
            return message if separator == self._separator else self._converted(converted)
        return converted.block if type(converted) is Frame else converted  # type: ignore[return-value]

    def block(self, text: str, event: str | None) -> bytes:
        """Returns the block of an event of a type, with a text as its data.

        Raises:
            InvalidFieldError: The text cannot be sent.
        """
        return _encoded(self.text_heads[event].block(text))

    def head(self, event: str | None) -> BytesHead:
        """Returns the head of JSON items whose events are of a type; of the stream's if that is ``None``."""
        return self._json_heads[event]

    def message_head(self, message: SSEMessage) -> MessageHead | None:
        """Returns the head of a message; ``None`` if it has nothing in common with others."""
        data, id = message.data, message.id
        kind = type(data)
        if message.retry is not None or message.comment is not None:
            return None
        if id is None:
            return self._json_heads[message.event] if self._carries_json(kind) else None
        if kind is str and len(data) <= SHARED and data.isascii() and (type(id) is int or id.isascii()):  # type: ignore[union-attr]
            return self._numbered_heads[message.event]
        return None

    def is_shared(self, message: SSEMessage) -> bool:
        """Returns whether a message of a rather long text is encoded by itself, so that streams share its block."""
        if len(message.data) > _JOINED or message is self._seen:
            return True
        self._seen = message
        return False

    def _carries_json(self, kind: type) -> bool:
        if kind in self._json_data:
            return True
        if kind in (UnsetType, Frame) or is_text(kind):
            return False
        if len(self._json_data) < _JSON_TYPES:
            self._json_data.add(kind)
        return True

    @property
    def to_json(self) -> Callable[[Any], bytes]:
        """Returns what makes JSON of an item."""
        return self._json.encode

    def refusal(self, item: object, error: Exception) -> InvalidFieldError:
        """Returns the error for an item of which :attr:`to_json` makes nothing that can be sent."""
        return _not_json(item, error)

    def _message(self, message: SSEMessage) -> bytes:
        text = message.data
        if type(text) is not str:
            return _encoded(self._block(message, self._separator))
        if message.comment is not None or message.retry is not None:
            block = self._block(message, self._separator)
        elif message.id is None:
            block = self.text_heads[message.event].block(text)
        else:
            block = self._numbered_heads[message.event].block(message)
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
            self.json_types[kind] = self._json_heads[None]  # what was looked up once is not looked up again
        return self.block(as_text(item, self._json), None)

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
            return self.text_heads[None].block(as_text(data, self._json))
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
    if isinstance(data, Frame):
        raise InvalidFieldError("data", "must not be a Frame, which holds whole events: yield it by itself")
    try:
        return json.encode(data).decode()
    except Exception as error:
        raise _not_json(data, error) from error


def _to_json(json: JSONEncoder, data: object) -> bytes:
    try:
        encoded = json.encode(data)
        if not encoded.isascii():
            encoded.decode()  # a msgspec.Raw may hold anything
    except Exception as error:
        raise _not_json(data, error) from error
    return encoded


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
    if comment is None and retry is None:
        return _NO_PREAMBLE
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
        text = continued(name, text, separator)
    return f"{name}: {text}{separator}"


def _not_json(data: object, error: Exception) -> InvalidFieldError:
    return InvalidFieldError(
        "data",
        f"must be what msgspec encodes as JSON, or be of a type that has an encoder,"
        f" unlike this {type(data).__qualname__} ({error})",
    )


def _itself(message: _T) -> _T:
    return message


def _from_fields(item: dict[Any, Any]) -> SSEMessage | tuple[SSEMessage, str]:
    try:
        return SSEMessage(**item)
    except TypeError:  # it has a separator, or keys that are no fields
        pass
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
