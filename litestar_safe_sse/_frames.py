"""Blocks that other libraries have encoded, recognised by their types.

None of the libraries is imported for it: who yields an event of a library has imported it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.frame import Frame

if TYPE_CHECKING:
    from litestar_safe_sse._core.encoding import Converter

__all__ = ("find_converter", "is_made_of_frames")

VERCEL_SDK = 5
"""The version of Vercel's AI SDK that pydantic-ai encodes for unless told otherwise."""


def _ag_ui_frame(event: Any) -> Frame:
    return Frame(import_module("ag_ui.encoder").EventEncoder().encode(event))


def _vercel_frame(chunk: Any) -> Frame:
    return Frame(f"data: {chunk.encode(VERCEL_SDK)}\n\n")


_CONVERTERS: MappingProxyType[tuple[str, str], Converter] = MappingProxyType(
    {
        ("datastar_py.sse", "DatastarEvent"): Frame,
        ("ag_ui.core", "BaseEvent"): _ag_ui_frame,
        ("pydantic_ai.ui.vercel_ai.response_types", "BaseChunk"): _vercel_frame,
    }
)
"""What makes frames of the events of other libraries, by where their base class is found and its name."""

_SOURCES = (
    ("pydantic_ai.ui._event_stream", "UIEventStream", "encode_stream"),
    ("strawberry.http.streaming", "merge_stream_with_heartbeat", ""),
)
"""Functions of other libraries whose generators yield frames as plain text: modules, names, methods."""


def find_converter(kind: type) -> Converter | None:
    """Returns what makes frames of another library's events, or ``None`` for all other types."""
    for (module, name), convert in _CONVERTERS.items():
        known = getattr(sys.modules.get(module), name, None)
        if isinstance(known, type) and issubclass(kind, known):
            return convert
    return None


def is_made_of_frames(content: object) -> bool:
    """Returns whether a generator is one of another library's that yields its frames as text."""
    code = getattr(content, "ag_code", None)
    if code is not None:
        for source in _SOURCES:
            if source[0] in sys.modules and code in _codes_of(*source):
                return True
    return False


def _codes_of(module: str, name: str, method: str) -> tuple[CodeType, ...]:
    """Returns the code of a function, and of those that it defines."""
    function: Any = getattr(sys.modules[module], name, None)
    if method:
        function = getattr(function, method, None)
    code: CodeType | None = getattr(function, "__code__", None)
    return () if code is None else (code, *(inner for inner in code.co_consts if isinstance(inner, CodeType)))
