"""What the responses of one handler have in common, made once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVar

from litestar.datastructures import MutableScopeHeaders
from litestar.serialization import get_serializer

from litestar_safe_sse._core.encoding import Encoder
from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.stream import StreamNames
from litestar_safe_sse._frames import find_converter
from litestar_safe_sse._litestar import ServerSentEventMessage, default_serializer, from_litestar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litestar.types import TypeEncodersMap

    from litestar_safe_sse._core.encoding import Converter
    from litestar_safe_sse.config import SafeSSEConfig

    RawHeaders = list[tuple[bytes, bytes]]

__all__ = ("HEADERS", "Handler", "draw_retry", "make_encoder", "make_headers")

_E = TypeVar("_E", bound=Encoder)

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""What keeps proxies from holding events back. No ``Connection``: HTTP/2 forbids it, and HTTP/1.1 needs none."""


def draw_retry(config: SafeSSEConfig) -> int | None:
    """Returns the reconnection time of one stream, in milliseconds."""
    return random.randint(*config.retry) if isinstance(config.retry, tuple) else config.retry


class Handler:
    """What the responses of one handler have in common, made once.

    It is found again by the value of what it was made of: whoever makes responses may pass something else each time,
    or change what was passed, and what one client is sent must not reach another.

    Args:
        name: The handler's name.
    """

    __slots__ = ("_encoder", "_headers", "names")

    def __init__(self, name: str) -> None:
        self.names = StreamNames.of(name)
        self._encoder: tuple[TypeEncodersMap, Encoder] | None = None
        self._headers: tuple[Mapping[str, Any], RawHeaders] | None = None

    def encoder(self, config: SafeSSEConfig, type_encoders: TypeEncodersMap) -> Encoder:
        """Returns the encoder of responses that have no settings of their own.

        Args:
            config: The application's settings.
            type_encoders: Those of the handler's layers.
        """
        known = self._encoder
        if known is None or known[0] != type_encoders:
            known = self._encoder = {**type_encoders}, make_encoder(config, type_encoders, Encoder)
        return known[1]

    def headers(self, configured: Mapping[str, Any]) -> RawHeaders:
        """Returns the headers of responses that add none of their own.

        Args:
            configured: Those of the handler's layers.
        """
        known = self._headers
        if known is None or known[0] != configured:
            known = self._headers = {**configured}, make_headers(configured)
        return known[1]


def make_encoder(
    config: SafeSSEConfig,
    type_encoders: TypeEncodersMap,
    kind: Callable[..., _E],
    *,
    of_frames: bool = False,
    **options: Any,
) -> _E:
    """Makes an encoder that knows what Litestar's responses know, and the events of other libraries.

    Args:
        config: The settings in force.
        type_encoders: Types mapped to functions that make something of them that msgspec encodes.
        kind: The class of the encoder.
        of_frames: Whether each text is a ready block.
        **options: The fields of events that have none, and what else the class takes.
    """
    converters: dict[type, Converter] = {ServerSentEventMessage: from_litestar}
    if of_frames:
        converters[str] = Frame
    return kind(
        separator=config.separator,
        enc_hook=get_serializer(type_encoders) if type_encoders else default_serializer,
        converters=converters,
        find_converter=find_converter,
        ping_comment=config.ping_comment,
        **options,
    )


def make_headers(*layers: Mapping[str, Any]) -> RawHeaders:
    """Makes the headers of all layers, as ASGI has them, with the content type.

    Of those that differ in case only, the last one is sent.
    """
    named = {name.lower(): (name, value) for layer in (HEADERS, *layers) for name, value in layer.items()}
    made = MutableScopeHeaders()
    for name, value in named.values():
        made.add(name, value)
    made.setdefault("content-type", "text/event-stream; charset=utf-8")
    return made.headers
