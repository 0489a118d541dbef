"""What a body yields, as the JSON messages of a WebSocket: one a line, which the transport takes apart again.

A message is an object with the fields that the event has, of ``event``, ``id``, ``retry`` and ``data``. The data is
JSON in it, and not text that holds JSON; text is a string. One without ``data`` is no event: ``{}`` is a heartbeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.json import encode

from litestar_safe_sse._core.decoding import Decoder
from litestar_safe_sse._core.encoding import Encoder, Preamble, as_text
from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.heads import BytesHead, Layout, NumberedHead, TextHead
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litestar_safe_sse._core.encoding import Converter

__all__ = ("JSONLines", "make_json_preamble")

_END = "}\n"

_TEXTS: Mapping[type, Converter] = dict.fromkeys((str, bytes, bytearray, memoryview), SSEMessage)
"""Items that are a string in JSON, where an ``Encoder`` takes them for what they are."""


class TextLineHead(TextHead):
    """Of messages whose pieces are texts, all ASCII."""

    __slots__ = ()

    def join(self, pieces: list[str], parts: list[bytes]) -> None:
        super().join([_quoted(piece) for piece in pieces], parts)


class LineHead(BytesHead):
    """Of messages whose pieces are JSON."""

    __slots__ = ()

    def join(self, pieces: list[bytes], parts: list[bytes]) -> None:
        super().join([_on_one_line(piece) for piece in pieces], parts)


class NumberedLineHead(NumberedHead):
    """Of messages that have an ID each; their pieces are the fields from the ID on.

    Args:
        first: What stands ahead of the ID.
        middle: What stands between the ID and the data.
    """

    __slots__ = ("_first",)

    def __init__(self, first: str, middle: str) -> None:
        super().__init__(middle, _END, "")
        self._first = first
        self._between = f"{_END}{first}"
        self.frame = len(self._between.encode())

    def piece(self, message: SSEMessage) -> str:
        return f'"id":{_quoted(str(message.id))},{self._middle}"data":{_quoted(message.data)}'

    def join(self, pieces: list[str], parts: list[bytes]) -> None:
        parts.append(f"{self._first}{self._between.join(pieces)}{_END}".encode())

    def block(self, message: SSEMessage) -> str:
        return f"{self._first}{self.piece(message)}{_END}"


class LineLayout(Layout):
    """How the messages of a stream are laid out."""

    __slots__ = ()

    @property
    def tail(self) -> str:
        return _END

    def first(self, event: str | None) -> str:
        opened = _opened(self.event if event is None else event, self.id, self.retry)
        return f'{opened}"data":'

    def make_text_head(self, event: str | None) -> TextHead:
        return TextLineHead(self.first(event), self.tail, self.separator)

    def make_numbered_head(self, event: str | None) -> NumberedLineHead:
        middle = "" if self.retry is None else f'"retry":{self.retry},'
        return NumberedLineHead(_opened(self.event if event is None else event, None, None), middle)

    def make_bytes_head(self, encode: Callable[[Any], bytes], event: str | None) -> BytesHead:
        return LineHead(self.first(event), self.tail, self.separator, encode)


class JSONLines(Encoder):
    """Turns the items of one stream into lines of JSON.

    Args:
        **options: Those of :class:`Encoder`.
    """

    __slots__ = ()

    def __init__(self, **options: Any) -> None:
        options["converters"] = {**_TEXTS, **options.get("converters", {})}
        super().__init__(**options)
        self.heartbeat = b"{}\n"
        self.opening = b""

    def _make_layout(self, separator: str, defaults: SSEMessage) -> Layout:
        return LineLayout(separator, defaults.event, defaults.id, defaults.retry)

    @staticmethod
    def _encode_text(text: str) -> bytes:
        return _quoted(check_text("data", text)).encode()

    def encode(self, item: object) -> bytes:
        """Returns the line for ``item``.

        Raises:
            InvalidFieldError: The item cannot be sent.
        """
        if type(item) is Frame:
            return self._lines_of(item)
        return super().encode(item)

    def block(self, text: str, event: str | None) -> bytes:
        """Returns the line of an event of a type, with a text that is JSON as its data."""
        parts: list[bytes] = []
        self.head(event).join([text.encode()], parts)
        return b"".join(parts)

    def _message(self, message: SSEMessage) -> bytes:
        return self._block(message, "").encode()

    def _converted(self, converted: SSEMessage | tuple[SSEMessage, str] | Frame) -> bytes:
        if isinstance(converted, Frame):
            return self._lines_of(converted)
        message = converted if isinstance(converted, SSEMessage) else converted[0]
        return self._block(message, "").encode()

    def _block(self, message: SSEMessage, separator: str) -> str:
        data, event, id, retry = message.data, message.event, message.id, message.retry
        if data is UNSET:
            if event is None:
                return f"{_opened(None, id, retry).removesuffix(',')}{_END}"
            data = ""
        defaults = self._defaults
        opened = _opened(
            defaults.event if event is None else event,
            defaults.id if id is None else id,
            defaults.retry if retry is None else retry,
        )
        return f'{opened}"data":{self._as_json(data)}{_END}'

    def _as_json(self, data: object) -> str:
        text = as_text(data, self._json)
        if isinstance(data, (str, bytes, bytearray, memoryview)):
            return _quoted(check_text("data", text))
        return _on_one_line(text.encode()).decode()

    def _lines_of(self, frame: Frame) -> bytes:
        """Takes ready blocks apart, as a client of an event stream would."""
        decoder = Decoder()
        decoder.feed(frame.block)  # type: ignore[arg-type]  # as it is once it was checked
        messages = [
            SSEMessage(event.data, None if event.type == "message" else event.type, event.id or None, decoder.retry)
            for event in decoder.events
        ]
        if not messages:
            return f"{_opened(None, decoder.last_event_id or None, decoder.retry).removesuffix(',')}{_END}".encode()
        return b"".join(map(self._message, messages))


def make_json_preamble(retry: int | None) -> Preamble:
    """Returns what a stream over a WebSocket begins with.

    Args:
        retry: The reconnection time in milliseconds, or ``None``.
    """
    return Preamble(b"" if retry is None else f'{{"retry":{retry}}}\n'.encode())


def _opened(event: str | None, id: str | int | None, retry: int | None) -> str:
    fields = ("event", event), ("id", None if id is None else str(id))
    opened = "".join([f'"{name}":{_quoted(value)},' for name, value in fields if value is not None])
    return f"{{{opened}" if retry is None else f'{{{opened}"retry":{retry},'


def _quoted(text: str) -> str:
    return encode(text).decode()


def _on_one_line(json: bytes) -> bytes:
    return json.replace(b"\n", b" ").replace(b"\r", b" ")  # of a msgspec.Raw; it is white space between tokens
