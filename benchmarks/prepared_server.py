"""A server that does nothing but hand over prepared bytes: what the client can read at most.

``python -m benchmarks.prepared_server PORT``: ``/ready?events=N`` sends N events in pieces of 1 MiB, and ``/one`` one.
"""

from __future__ import annotations

import socket
import sys

from benchmarks.workload import EVENT, TEXT, events_of, wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ITEM = wire(TEXT, EVENT)
AT_ONCE = (1 << 20) // len(ITEM)
PIECE = memoryview(ITEM * AT_ONCE)


def answer(connection: socket.socket) -> None:
    request = connection.recv(65536).decode()
    if not request:
        return
    path, _, query = request.split()[1].partition("?")
    if path != "/ready":
        connection.sendall(HEAD + ITEM)
        if path == "/one":
            connection.recv(1)  # until the client leaves
        return
    events = events_of(query)
    connection.sendall(HEAD)
    while events > 0:
        connection.sendall(PIECE[: len(ITEM) * min(events, AT_ONCE)])
        events -= AT_ONCE


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                try:
                    answer(connection)
                except ConnectionError:
                    continue


if __name__ == "__main__":
    main()
