"""Streams of events that others have made, served by ours: ``SafeSSEPlugin(adopt=True)``.

A response is taken over once Litestar has made it: its headers, cookies, status and background tasks are what its
class, the handler and all hooks have decided upon, and its bytes are made by what would have made them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar.datastructures import MutableScopeHeaders
from litestar.response import Response
from litestar.response.streaming import ASGIStreamingResponse
from litestar.utils.sync import AsyncIteratorWrapper

from litestar_safe_sse._core.encoding import Encoder, Preamble
from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._handler import HEADERS, draw_retry, make_encoder
from litestar_safe_sse._litestar import chosen_status
from litestar_safe_sse._slot import Slot
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.response import SafeSSEResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.types import ASGIApp

    from litestar_safe_sse._handler import RawHeaders
    from litestar_safe_sse.config import SafeSSEConfig

    ToBytes = Callable[[Any], bytes]

__all__ = ("Adopter",)

MEDIA_TYPE = "text/event-stream"

_SEPARATOR = "\r\n"
"""What ends the lines of Litestar's own streams, whatever is configured for ours."""

_IN_MEMORY: tuple[type, ...] = (type(iter([])), type(iter(())))
"""Iterators that never block, and need no thread."""


class Adopter:
    """Has handlers serve by our stream what they answer with."""

    def __init__(self) -> None:
        self._kinds: dict[type[HTTPRouteHandler], type[HTTPRouteHandler]] = {}

    def adopt(self, handler: HTTPRouteHandler) -> None:
        """Has a handler take over its responses, by a class that differs from its own in nothing else.

        Args:
            handler: A handler that has been registered. One whose responses are cached is left as it is.
        """
        kind = type(handler)
        if handler.cache or kind in self._kinds.values():
            return
        if kind not in self._kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Litestar's `get` is to be no class some day
                self._kinds[kind] = _adopting(kind)
        handler.__class__ = self._kinds[kind]


def _adopting(kind: Any) -> Any:
    class AdoptingHandler(kind):  # type: ignore[misc]
        __slots__ = ()

        async def to_response(self, *, data: Any, request: Request[Any, Any, Any], **options: Any) -> ASGIApp:
            """Makes the response, and takes it over if it is a stream of events."""
            response = await super().to_response(data=data, request=request, **options)
            if type(response) is ASGIStreamingResponse and is_event_stream(response):
                given = data.status_code if isinstance(data, Response) else None
                return adopted(response, request, given or chosen_status(response.status_code, self))
            return response  # type: ignore[no-any-return]

    AdoptingHandler.__name__, AdoptingHandler.__qualname__ = kind.__name__, kind.__qualname__
    return AdoptingHandler


def is_event_stream(response: ASGIStreamingResponse) -> bool:
    """Returns whether a response says that it is a stream of events."""
    media_type: str = response.headers.get("content-type", "").partition(";")[0]
    return media_type.strip().lower() == MEDIA_TYPE


def adopted(response: ASGIStreamingResponse, request: Request[Any, Any, Any], status_code: int) -> SafeSSEResponse:
    """Makes our response of another, with all that it has set.

    Args:
        response: What Litestar has made.
        request: The request that it answers.
        status_code: The status to send.

    Raises:
        HTTPException: If the stream is refused.
    """
    slot = Slot.of(request.scope)
    config = slot.registry.config
    if config.on_error is not None:
        config = replace(
            config, on_error=partial(_tell, config.on_error, slot.handler(request.scope).encoder(config, {}))
        )
    content, to_bytes, preamble = _taken_apart(response, config)
    encoder = make_encoder(config, {}, partial(AdoptedEncoder, to_bytes), of_frames=True)
    return SafeSSEResponse(
        preamble=preamble,
        prefetch=0,
        stream=slot.accept(request.scope, content, encoder, config),
        slot=slot,
        background=response.background,
        headers=_headers_of(response, is_http_1=request.scope["http_version"].startswith("1")),
        is_head_response=response.is_head_response or request.method == "HEAD",
        status_code=status_code,
    )


def _headers_of(response: ASGIStreamingResponse, *, is_http_1: bool) -> RawHeaders:
    headers = MutableScopeHeaders({"headers": response.encode_headers()})
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if not is_http_1 and "connection" in headers:  # RFC 9113, section 8.2.2
        del headers["connection"]
    return headers.headers


def _tell(on_error: Callable[[Exception], object], encoder: Encoder, error: Exception) -> Frame | None:
    """Makes a block of the last event, since an adopted stream makes something else of what it is given."""
    event = on_error(error)
    return None if event is None else Frame(encoder.encode(event))


def _taken_apart(response: ASGIStreamingResponse, config: SafeSSEConfig) -> tuple[object, ToBytes, Preamble]:
    """Returns the body of a response as its handler has given it, what makes bytes of it, and what precedes it."""
    iterator: Any = response.iterator
    encode, content = (getattr(iterator, name, None) for name in ("ensure_bytes", "content_async_iterator"))
    if encode is None or content is None:
        return _unwrapped(iterator), partial(_chunk, response.encoding), Preamble()
    lines: list[bytes] = list(iterator.iterator)
    retry = draw_retry(config) if iterator.retry_duration is None else None
    if retry is not None:
        lines.append(f"retry: {retry}{_SEPARATOR}".encode())
    comment = [line for line in lines if line.startswith(b":")]
    preamble = Preamble(b"".join(comment), b"".join(line for line in lines if line not in comment))
    return _unwrapped(content), lambda item: encode(item, _SEPARATOR), preamble


def _unwrapped(iterator: Any) -> object:
    """Returns what an iterator of Litestar's has been made of: a sync body has its own thread here."""
    if type(iterator) is not AsyncIteratorWrapper:
        return iterator
    return list(iterator.iterator) if isinstance(iterator.iterator, _IN_MEMORY) else iterator.iterator


def _chunk(encoding: str, item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode(encoding)
    raise InvalidFieldError("content", f"must yield str or bytes where it is a Stream, not {type(item).__qualname__}")


class AdoptedEncoder(Encoder):
    """Makes the bytes of a stream that is not ours by what made them before; they may be any part of a block.

    Args:
        to_bytes: Makes the bytes of an item.
        **options: Those of an ``Encoder``.
    """

    __slots__ = ("_heartbeats", "_tail", "_to_bytes")

    def __init__(self, to_bytes: ToBytes, **options: Any) -> None:
        super().__init__(**options)
        self._to_bytes = to_bytes
        comment = self.heartbeat.rstrip()
        # Behind a carriage return, of the item or the heartbeat, a line feed may follow that is of the same line end.
        self._heartbeats = {b"\n": self.heartbeat, b"\r": b"\n" + comment + b"\r"}
        self._tail = b"\n\n"
        """The last bytes: those of two line ends at most."""

    def encode(self, item: object) -> bytes:
        """Returns the bytes of an item. A heartbeat, which is a line, may follow them if they end one.

        Raises:
            InvalidFieldError: The item cannot be sent.
        """
        if isinstance(item, (SSEMessage, Frame)):  # of stream.send(), or of on_error
            block = super().encode(item)
            if not _ends_block(self._tail):
                block = b"\n\n" + block
        else:
            block = self._to_bytes(item)
        if block:
            self._tail = (self._tail + block[-4:])[-4:]
            self.heartbeat = self._heartbeats.get(block[-1:], b"")
        return block


def _ends_block(tail: bytes) -> bool:
    return tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").endswith(b"\n\n")
