"""What a ``ShutdownWatch`` is given, and whom it stands in front of."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable
from typing import Any

import anyio

from litestar_safe_sse._servers.shutdown import ShutdownWatch
from tests.bounds import WAIT


class Log:
    """A logger that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        pass

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        self.warnings.append(msg)


class Callback:
    """A callback that counts its calls, and can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self.threads: set[int] = set()
        self._event = anyio.Event()

    def __call__(self) -> None:
        self.times += 1
        self.threads.add(threading.get_ident())
        self._event.set()

    async def wait(self) -> None:
        with anyio.fail_after(WAIT):
            await self._event.wait()


async def raise_and_settle() -> None:
    """Raises the signal, and returns when everybody who is to be notified of it has been."""
    callback = Callback()
    watch = ShutdownWatch(callback, Log())
    watch.install()
    signal.raise_signal(signal.SIGTERM)
    # All are notified in one turn of the loop, and this goes on in the next.
    await callback.wait()
    watch.uninstall()


class Handler:
    """A signal handler that keeps the signals it gets."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        self.seen.append(number)

    def method(self, number: int, frame: types.FrameType | None) -> None:
        self(number, frame)


Run = Callable[[Callable[[], Any]], None]
