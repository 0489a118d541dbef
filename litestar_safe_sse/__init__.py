"""Server-Sent Events for Litestar that can be cancelled and always clean up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._core.state import CloseReason, StreamState
from litestar_safe_sse._core.statistics import RegistryStatistics, StreamStatistics
from litestar_safe_sse._events import Event
from litestar_safe_sse.config import PerKey, SafeSSEConfig
from litestar_safe_sse.context import StreamContext
from litestar_safe_sse.dependencies import StreamProvide
from litestar_safe_sse.exceptions import (
    CleanupError,
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    ShortLivedDependencyWarning,
    SSEError,
    StreamClosedError,
    UndeclaredEventError,
)
from litestar_safe_sse.handlers import sse
from litestar_safe_sse.plugin import SafeSSEPlugin
from litestar_safe_sse.response import SafeServerSentEvent
from litestar_safe_sse.websocket import sse_websocket

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version  # looks through what is installed: not at every start

        return version("litestar-safe-sse")


__all__ = (
    "CleanupError",
    "CloseReason",
    "Event",
    "Frame",
    "InvalidFieldError",
    "MissingPluginError",
    "OutsideRequestError",
    "PerKey",
    "RegistryStatistics",
    "SSEError",
    "SSEMessage",
    "SafeSSEConfig",
    "SafeSSEPlugin",
    "SafeServerSentEvent",
    "ShortLivedDependencyWarning",
    "StreamClosedError",
    "StreamContext",
    "StreamProvide",
    "StreamState",
    "StreamStatistics",
    "UndeclaredEventError",
    "sse",
    "sse_websocket",
)
