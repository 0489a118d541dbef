"""A search for the clients that take nothing, where nothing tells which connection belongs to which request.

That a client takes something shows in what the kernel keeps count of. For TCP that is the bytes that the client has
acknowledged. For a Unix socket it is the length of the queue alone, which is the same again once the server has filled
it up. So for the time of the search such a socket gets room for less than is queued: the queue can only shrink then.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from litestar_safe_sse._servers.sockets import connected, shut

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from litestar_safe_sse._runtime.base import Runtime, Timer
    from litestar_safe_sse._servers.sockets import Connected

__all__ = ("StallSearch",)

_LOOKS = 4
"""Looks at each queue after the first. Who has taken something by then gets back the room that the socket had."""

_BYTES_ACKED = struct.Struct("=120xQ")
"""Where ``struct tcp_info`` has ``tcpi_bytes_acked`` (Linux 4.1, ``linux/tcp.h``)."""

_WRITABLE = 4
"""A Unix socket can be written to once a quarter of its room is taken at most (Linux, ``unix_writable()``)."""


class Queue(NamedTuple):
    """The bytes that wait for a client.

    Attributes:
        measure: A number that changes when the client takes something.
        room: The room that the socket had before it was narrowed; ``None`` if it was not.
    """

    measure: int
    room: int | None


class StallSearch:
    """Shuts the connections whose clients have taken nothing all the while that it looked. It works on Linux only.

    It looks at everything that a server has accepted at some addresses, connections of other requests among it.

    Args:
        runtime: The running event loop.
        local: The server's ports and paths.
        duration: Seconds in which such a client takes nothing.
        rounds: How often to search.
        may_shut: Tells whether so many connections may be shut as have been found.
    """

    def __init__(
        self,
        runtime: Runtime,
        local: Collection[int | str | None],
        duration: float,
        *,
        rounds: int = 1,
        may_shut: Callable[[int], bool] = bool,
    ) -> None:
        self.is_over = False
        self._runtime = runtime
        self._local = local
        self._interval = duration / _LOOKS
        self._may_shut = may_shut
        self._timer: Timer | None = None
        self._steps = self._search(rounds)
        self._go_on()

    def cancel(self) -> None:
        """Ends the search, and shuts nothing more."""
        self.is_over = True
        self._steps.close()
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        if next(self._steps, False):
            self._timer = self._runtime.call_later(self._interval, self._go_on)
        else:
            self.is_over = True

    def _search(self, rounds: int) -> Generator[bool, None, None]:
        """Yields when it has to wait."""
        for _ in range(rounds):
            stalled = {each.inode: queue for each in self._accepted() if (queue := _narrow(each.socket)) is not None}
            try:
                for _ in range(_LOOKS):
                    yield True
                    stalled = self._without_moved(stalled)
                if self._may_shut(len(stalled)):
                    shut(lambda each: each.inode in stalled)  # noqa: B023 - called at once
            finally:
                self._without_moved(stalled, all_have=True)

    def _accepted(self) -> Iterator[Connected]:
        return (each for each in connected() if each.addresses.local in self._local)

    def _without_moved(self, queues: dict[int, Queue], *, all_have: bool = False) -> dict[int, Queue]:
        """Returns the queues of which nothing has been taken, and gives the others their room back."""
        left = {}
        for each in self._accepted():
            queue = queues.get(each.inode)
            if queue is None:
                continue
            if _measure(each.socket) == queue.measure and not all_have:
                left[each.inode] = queue
            elif queue.room is not None:
                _set_room(each.socket, queue.room)
        return left


def _narrow(connection: socket.socket) -> Queue | None:
    """Returns what is queued; from now on its measure stays as it is until the client takes something."""
    measure = _measure(connection)
    if not measure or connection.family != socket.AF_UNIX:
        return None if measure is None else Queue(measure, None)
    room = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    _set_room(connection, 0)  # as little as there can be
    least = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    if measure > _WRITABLE * least:
        return Queue(measure, room)
    _set_room(connection, room)  # the server is not waiting to write to it
    return None


def _measure(connection: socket.socket) -> int | None:
    """Returns a number that changes when the client takes something; ``None`` if nothing is queued, or is known."""
    try:
        queued = _queued(connection)
        if not queued or connection.family == socket.AF_UNIX:
            return queued or None
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
    except (OSError, struct.error):  # the client has just left, or the kernel does not keep count
        return None


def _queued(connection: socket.socket) -> int:
    """Returns the number of bytes that the kernel holds for the client (Linux: SIOCOUTQ in ``tcp(7)``, ``unix(7)``)."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def _set_room(connection: socket.socket, room: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room // 2)  # Linux doubles it: ``socket(7)``
