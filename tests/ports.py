"""Ports on the loopback interface that no other process of the tests is given."""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Iterator

BLOCKS = range(10_200, 20_000, 200)
"""Where blocks of ports begin: below what kernels give to clients, and so is Redis Cluster's bus, 10,000 above.

They are above 10080, the last to which browsers refuse to connect (https://fetch.spec.whatwg.org/#port-blocking).
"""


def free_port() -> int:
    """Returns a port that nobody listens at, and that is not soon given again."""
    _, ports = _own_block()
    for port in itertools.islice(ports, BLOCKS.step):
        if probe := _bind(port):
            probe.close()
            return port
    raise RuntimeError("All ports of this process's block are in use.")


@functools.cache
def _own_block() -> tuple[socket.socket, Iterator[int]]:
    """Claims a block as long as this process lives, by listening at its first port."""
    for first in BLOCKS:
        if claim := _bind(first):
            claim.listen()
            return claim, itertools.cycle(range(first + 1, first + BLOCKS.step))
    raise RuntimeError(f"All blocks of ports from {BLOCKS.start} to {BLOCKS.stop} are in use.")


def _bind(port: int) -> socket.socket | None:
    probe = socket.socket()
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        probe.close()
        return None
    return probe
