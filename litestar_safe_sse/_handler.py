"""What the responses of one handler have in common, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.datastructures import MutableScopeHeaders

from litestar_safe_sse._core.stream import StreamNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar_safe_sse._core.buffer import BlockEncoder

    RawHeaders = list[tuple[bytes, bytes]]

__all__ = ("HEADERS", "Handler", "encode_headers", "merge_headers")

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""What keeps proxies from holding events back. No ``Connection``: HTTP/2 forbids it, and HTTP/1.1 needs none."""


class Handler:
    """What the responses of one handler have in common, made once.

    Args:
        name: The handler's name.
    """

    __slots__ = ("encoder", "headers", "names")

    def __init__(self, name: str) -> None:
        self.names = StreamNames.of(name)
        self.encoder: BlockEncoder | None = None
        """That of the streams that have no settings of their own."""
        self.headers: tuple[object, RawHeaders] | None = None
        """What was configured, and what became of it: the headers of responses that add none."""


def merge_headers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the headers of all layers; of those that differ in case only, the last."""
    named = {name.lower(): (name, value) for layer in layers for name, value in layer.items()}
    return dict(named.values())


def encode_headers(headers: Mapping[str, str]) -> RawHeaders:
    """Returns headers as ASGI has them, with the content type."""
    made = MutableScopeHeaders()
    for name, value in headers.items():
        made.add(name, value)
    made.setdefault("content-type", "text/event-stream; charset=utf-8")
    return made.headers
