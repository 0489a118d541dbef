"""The listener: waits for the client to leave, in a task of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.timing import SECOND_CANCELLATION

if TYPE_CHECKING:
    from litestar_safe_sse._core.transport import Transport
    from litestar_safe_sse._runtime.base import OwnedTask, Runtime

__all__ = ("Listener",)


class Closable(Protocol):
    """What ends when the client has left."""

    def close(self, reason: CloseReason) -> None: ...

    def lose_connection(self, failure: Exception) -> None: ...


class Listener:
    """Listens from the moment it is made, until it is stopped.

    Args:
        stream: What is ended when the client leaves.
        transport: The way to the client.
        runtime: The running event loop.
        name: The task's name.
    """

    __slots__ = ("_done", "_runtime", "_stream", "_task", "_transport")

    def __init__(self, stream: Closable, transport: Transport, runtime: Runtime, name: str) -> None:
        self._stream = stream
        self._transport = transport
        self._runtime = runtime
        self._done = runtime.event()
        self._task = runtime.spawn(self._listen, name)

    async def _listen(self, task: OwnedTask) -> None:
        failure = await task.capture(self._transport.wait_left())
        if failure is None or isinstance(failure, OSError):
            self._stream.close(CloseReason.CLIENT_DISCONNECTED)
        elif isinstance(failure, Exception):
            self._stream.lose_connection(failure)
        self._done.set()

    async def stop(self) -> None:
        """Cancels the task, but does not wait for a ``receive()`` that refuses."""
        if self._done.is_set():
            return
        self._task.cancel_unwatched()
        await self._runtime.turn()  # in which almost every one ends
        if not self._done.is_set():
            with anyio.move_on_after(SECOND_CANCELLATION, shield=True):
                await self._done.wait()
                return
            self._task.cancel()
