"""Servers that answer what no event stream is."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ("endless", "impostor")


@contextlib.contextmanager
def impostor(
    status: int = 200, body: bytes = b"", tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Runs a server that answers every request alike, and yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with serving(Handler, tls) as port:
        yield port


@contextlib.contextmanager
def endless(kind: str, pause: float = 0) -> Iterator[int]:
    """Runs a server whose answers go on until the client leaves, and yields its port.

    Args:
        kind: The content type.
        pause: Seconds between two of their parts.
    """
    has_ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not has_ended.wait(pause):
                    self.wfile.write(b"data: x\n\n")

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with serving(Handler) as port:
        try:
            yield port
        finally:
            has_ended.set()


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Runs a server, and yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
