"""The client, in a process of its own: raw sockets, large buffers, and no more HTTP than counting takes.

``python -m benchmarks.client OPERATION '{"port": ..., ...}'`` prints what it measured as JSON. Events are counted by
their ``data:``, heartbeats by their ``: ping``; nothing that is sent contains either elsewhere.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time
from itertools import pairwise
from typing import Any

__all__ = ("Stream", "main")

HOST = "127.0.0.1"
DATA = b"data:"
PING = b"ping"
LIMIT = 120.0
"""Seconds after which a measurement is given up."""
RESET = struct.pack("ii", 1, 0)
now = time.perf_counter
buffer = bytearray(4 << 20)
view = memoryview(buffer)


class Stream:
    """One connection that asks for one stream."""

    def __init__(self, port: int, path: str, source: str = HOST) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source != HOST:  # so that 10,000 of them find a port
            self.socket.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            self.socket.bind((source, 0))
        self.socket.connect((HOST, port))
        self.request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        self.events = 0
        self.first_at = 0.0
        self.beats: list[float] = []
        self._tail = b""

    def ask(self) -> None:
        self.socket.sendall(self.request)

    def read(self, marker: bytes = DATA) -> bool:
        """Reads what is there.

        Returns:
            Whether the server has closed.
        """
        size = self.socket.recv_into(view)
        if size == 0:
            return True
        carried = len(self._tail)
        if carried:  # a marker may lie across two reads
            self.events += (self._tail + bytes(view[: len(marker) - 1])).count(marker)
        self.events += buffer.count(marker, 0, size)
        self._tail = bytes(view[max(0, size - len(marker) + 1) : size])
        if self.events and not self.first_at:
            self.first_at = now()
        return False

    def abort(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()


def read_all(port: int, path: str, streams: int = 1) -> dict[str, Any]:
    """Reads streams to their end."""
    opened = [Stream(port, path) for _ in range(streams)]
    time.sleep(0.001 * streams)  # for the server to accept them, which some do one at a time between streams that run
    began = now()
    with selectors.DefaultSelector() as selector:
        for stream in opened:
            stream.ask()
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        open_ = streams
        while open_ and now() - began < LIMIT:
            for key, _ in selector.select(1):
                if key.data.read():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                    open_ -= 1
        elapsed = now() - began
    return {
        "elapsed": elapsed,
        "events": [stream.events for stream in opened],
        "first": [stream.first_at - began for stream in opened],
    }


def first(port: int, paths: list[str], requests: int) -> dict[str, Any]:
    """Measures from a request, on a connection that stands, to the first ``data:``; the paths take turns."""
    times: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(requests):
        for path in paths:
            stream = Stream(port, path)
            time.sleep(0.001)  # for the server to have accepted it, and done with the one before
            asked = now()
            stream.ask()
            while not stream.events and not stream.read():
                pass
            times[path].append(now() - asked)
            stream.abort()
    return times


def churn(port: int, path: str, cycles: int, at_once: int) -> dict[str, Any]:
    """Connects, asks, reads one event and resets, over and over."""
    began = now()
    done = 0
    with selectors.DefaultSelector() as selector:

        def begin() -> None:
            stream = Stream(port, path)
            stream.ask()
            selector.register(stream.socket, selectors.EVENT_READ, stream)

        for _ in range(at_once):
            begin()
        begun = at_once
        while done < cycles and now() - began < LIMIT:
            for key, _ in selector.select(1):
                key.data.read()
                if key.data.events:
                    selector.unregister(key.fileobj)
                    key.data.abort()
                    done += 1
                    if begun < cycles:
                        begin()
                        begun += 1
        elapsed = now() - began
    return {"elapsed": elapsed, "cycles": done}


def hold(port: int, path: str, streams: int) -> dict[str, Any]:
    """Opens many streams, says so, and does what it is told on its standard input until the server has closed them.

    ``beats SECONDS`` records the heartbeats of that time, ``event`` publishes one and waits until all have it,
    ``abort`` resets all connections, and ``end`` waits until the server has closed all.
    """
    selector = selectors.DefaultSelector()
    began = now()
    opened: list[Stream] = []
    while len(opened) < streams and now() - began < LIMIT:
        for _ in range(min(200, streams - len(opened))):
            stream = Stream(port, path, f"127.0.1.{1 + len(opened) % 8}")
            stream.ask()
            selector.register(stream.socket, selectors.EVENT_READ, stream)
            opened.append(stream)
        _until(selector, lambda: all(stream.events for stream in opened[-200:]), DATA)
    _until(selector, lambda: all(stream.events for stream in opened), DATA)
    _tell({"opened": now() - began, "streams": sum(stream.events > 0 for stream in opened)})
    result: dict[str, Any] = {}
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "beats":
            result = {"beats": _listen(selector, float(argument))}
        elif command == "event":
            before = now()
            read_all(port, "publish")  # each has had one event before
            _until(selector, lambda: all(stream.events > 1 for stream in opened), DATA)
            result = {"elapsed": now() - before}
        elif command == "abort":
            for stream in opened:
                stream.abort()
            result = {"aborted": len(opened)}
        elif command == "end":
            closed = _until(selector, lambda: not selector.get_map(), DATA)
            result = {"closed": closed}
        _tell(result)
    return {}


def _until(selector: selectors.BaseSelector, done: Any, marker: bytes) -> int:
    closed, limit, look_at = 0, now() + LIMIT, 0.0
    while now() < limit:
        if (asked := now()) > look_at:  # not after each read: it looks at all of them
            if done():
                break
            look_at = now() + max(0.002, 5 * (now() - asked))
        for key, _ in selector.select(0.002):
            try:
                over = key.data.read(marker)
            except ConnectionResetError:
                over = True
            if over:
                selector.unregister(key.fileobj)
                key.data.socket.close()
                closed += 1
    return closed


def _listen(selector: selectors.BaseSelector, seconds: float) -> list[list[float]]:
    """The intervals between the heartbeats of each stream."""
    arrivals: dict[int, list[float]] = {}
    end = now() + seconds
    while now() < end:
        ready = selector.select(0.01)
        arrived = now()
        for key, _ in ready:
            size = key.fileobj.recv_into(view)  # type: ignore[union-attr]
            if PING in view[:size].tobytes():
                arrivals.setdefault(key.fd, []).append(arrived)
    return [[after - before for before, after in pairwise(a)] for a in arrivals.values()]


def _tell(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


OPERATIONS: dict[str, Any] = {"read_all": read_all, "first": first, "churn": churn, "hold": hold}


def main() -> None:
    result = OPERATIONS[sys.argv[1]](**json.loads(sys.argv[2]))
    if result:
        _tell(result)


if __name__ == "__main__":
    main()
