"""Which bodies of the matrices are visited over WebSockets, and by which settings."""

from __future__ import annotations

SEND_TIMEOUT = 0.3
FAREWELL = 0.5
"""Seconds that a farewell takes: longer than Uvicorn leaves a WebSocket alone once it has been told to stop."""
GRACE = 20.0
"""Seconds that it has, on a machine that is busy too."""

ENDLESS = [
    "await_in_finally",
    "plain_finally",
    "nested",
    "task_group",
    "cancel_scope",
    "timeouts",
    "context_variable",
    "swallows",
    "raises_in_cleanup",
    "sync_sleep",
    "farewell",
]
BODIES = [
    *ENDLESS,
    "flood",
    "flood_in_task_group",
    "busy",
    "completes",
    "fails_first",
    "fails_middle",
]
