"""The sockets of this process: those of a server, too, which no object of Python's holds (Granian's are Rust's)."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Addresses", "Connected", "connected", "shut")

_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"


class Addresses(NamedTuple):
    """The two ends of a connection that a server has accepted.

    Attributes:
        peer: The client's host and port; ``None`` if they are not known, as on a Unix socket.
        local: The server's port, or the path of its Unix socket; ``None`` if it is not known.
    """

    peer: tuple[str, int] | None
    local: int | str | None


class Connected(NamedTuple):
    """A socket that is connected, open until the next is asked for.

    Attributes:
        socket: The socket.
        inode: The number by which it is known again.
        addresses: Its two ends.
    """

    socket: socket.socket
    inode: int
    addresses: Addresses


def connected() -> Iterator[Connected]:
    """Yields the connected stream sockets among the descriptors of this process."""
    if not os.path.isdir(_DESCRIPTORS):
        return
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # it has been closed meanwhile, or is connected to nobody
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if (addresses := _addresses(copy)) is not None:
                    yield Connected(copy, os.fstat(copy.fileno()).st_ino, addresses)


def shut(is_chosen: Callable[[Connected], bool]) -> set[Addresses]:
    """Shuts connections in both directions, upon which the server that they belong to closes them.

    Args:
        is_chosen: Whether to shut one.

    Returns:
        The addresses of those that were shut.
    """
    found = set()
    for each in filter(is_chosen, connected()):
        found.add(each.addresses)
        with contextlib.suppress(OSError):  # the client has just left
            each.socket.shutdown(socket.SHUT_RDWR)
    return found


def _addresses(connection: socket.socket) -> Addresses | None:
    if connection.type != socket.SOCK_STREAM:
        return None
    peer, local = connection.getpeername(), connection.getsockname()
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        return Addresses(peer[:2], local[1])
    # Of a Unix socket it is the end that was accepted which has a name.
    return Addresses(None, local) if local and isinstance(local, str) else None
