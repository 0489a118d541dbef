"""Endless streams in tests: no server, no subprocess, and no wait without a bound.

``open_stream`` and ``open_websocket`` call the application as a server would, read its events by the standard, and can
do what clients and servers do to a stream: leave, stop reading, shut down. What the stream did about it can then be
asserted on.
"""

from litestar_safe_sse._core.decoding import Event
from litestar_safe_sse.testing._exchange import StreamEndedError
from litestar_safe_sse.testing._http import OpenStream, SyncOpenStream, open_stream, open_stream_sync
from litestar_safe_sse.testing._websocket import (
    OpenWebSocket,
    SyncOpenWebSocket,
    open_websocket,
    open_websocket_sync,
)

__all__ = (
    "Event",
    "OpenStream",
    "OpenWebSocket",
    "StreamEndedError",
    "SyncOpenStream",
    "SyncOpenWebSocket",
    "open_stream",
    "open_stream_sync",
    "open_websocket",
    "open_websocket_sync",
)
