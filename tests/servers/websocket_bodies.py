"""Which bodies of the matrices are visited over WebSockets, and by which settings."""

from __future__ import annotations

SEND_TIMEOUT = 0.3
GRACE = 1.0
"""Longer than Uvicorn leaves a WebSocket alone once it has been told to stop."""

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
