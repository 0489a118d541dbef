"""The application, which one process alone may import at once: the others wait to be let go."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

HELD = Path(os.environ["SAFE_SSE_HELD"])

try:
    (HELD / "first").touch(exist_ok=False)
except FileExistsError:
    (HELD / "waiting").touch()
    with (HELD / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)

from tests.servers.app import app  # noqa: E402

__all__ = ("app",)
