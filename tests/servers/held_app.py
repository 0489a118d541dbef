"""The application, which one process alone may import at once, or serve: the others wait to be let go."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

HELD = Path(os.environ["SAFE_SSE_HELD"])


def hold() -> None:
    """Waits to be let go, unless this is the first process."""
    try:
        (HELD / "first").touch(exist_ok=False)
    except FileExistsError:
        (HELD / "waiting").touch()
        with (HELD / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)


if "SAFE_SSE_HELD_READY" in os.environ:  # between its start-up and what it serves by
    module = sys.modules["granian.server.mp"]
    make = module.ASGIWorker

    def make_held(*args: Any) -> Any:
        hold()
        return make(*args)

    module.ASGIWorker = make_held  # type: ignore[attr-defined]
else:
    hold()

from tests.servers.app import app  # noqa: E402

__all__ = ("app",)
