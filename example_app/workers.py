"""Workers for servers that have none to offer: processes on one listening socket, replaced when they die."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

__all__ = ["keep_workers"]

LOOK_EVERY = 0.1
TOO_SOON = 1.0
STOP_WITHIN = 10.0


def keep_workers(command: Callable[[int], list[str]], host: str, port: int, workers: int) -> None:
    """Runs workers until SIGINT or SIGTERM.

    Args:
        command: Makes the command line of one worker, given the number of the socket that it inherits.
        host: Where to listen.
        port: Where to listen.
        workers: How many.
    """
    if sys.platform == "win32":
        sys.exit("This server can't share a socket with others on Windows. Take --server uvicorn.")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address, family=family, backlog=128) as listening:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            while not stopping:
                processes = [process for process in processes if process.poll() is None]
                while len(processes) < workers:
                    processes.append(start(command, listening))
                began = time.monotonic()
                while not stopping and all(process.poll() is None for process in processes):
                    time.sleep(LOOK_EVERY)
                if not stopping and time.monotonic() - began < TOO_SOON:
                    sys.exit("A worker ended as soon as it was started.")
        finally:
            for process in processes:
                process.terminate()
            give_up = time.monotonic() + STOP_WITHIN
            for process in processes:
                try:
                    process.wait(max(0.0, give_up - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def start(command: Callable[[int], list[str]], listening: socket.socket) -> subprocess.Popen[bytes]:
    # In a session of its own: ^C is for the parent, which passes it on once.
    return subprocess.Popen(
        command(listening.fileno()), pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
    )
