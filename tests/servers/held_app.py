"""The application, which one process alone may import at once: the others wait to be let go."""

from __future__ import annotations

import os
import time
from pathlib import Path

HELD = Path(os.environ["SAFE_SSE_HELD"])

try:
    (HELD / "first").touch(exist_ok=False)
except FileExistsError:
    (HELD / "waiting").touch()
    while not (HELD / "go").exists():
        time.sleep(0.01)

from tests.servers.app import app  # noqa: E402

__all__ = ("app",)
