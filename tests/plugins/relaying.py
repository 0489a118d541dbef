"""Relays of the documented outbox, one after the other: for each line of the input a process, which is not told to end.

With ``fatal`` on that line it kills itself where it has appended, and has not noted so yet.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import anyio
import outbox


def die(*_: Any) -> Any:
    """Ends this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def live(*, fatal: bool) -> None:
    """Relays until it is killed."""
    if fatal:
        vars(outbox)["delete"] = die
    anyio.run(outbox.relay)


for line in sys.stdin:
    pid = os.fork()
    if not pid:
        live(fatal="fatal" in line)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("over", flush=True)
