"""nginx in front of a server, as it comes but for the buffering that nobody can have in front of a stream."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bounds import START
from tests.ports import free_port
from tests.servers.kinds import Address
from tests.servers.processes import connect

TEMPLATE = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_set_header Connection "";
            {settings}
        }}
    }}
}}
"""
UNBUFFERED = """
            proxy_buffering off;
            proxy_http_version 1.1;
            proxy_set_header X-Forwarded-For 203.0.113.9;
"""


@contextlib.contextmanager
def nginx(server: Address, directory: Path) -> Iterator[Address]:
    """Runs nginx in front of a server, and yields where it listens."""
    directory.mkdir()
    port = free_port()
    upstream = f"unix:{server}:" if isinstance(server, str) else f"{server[0]}:{server[1]}"
    (directory / "nginx.conf").write_text(
        TEMPLATE.format(directory=directory, port=port, upstream=upstream, settings=UNBUFFERED)
    )
    process = subprocess.Popen(
        ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_ready(process, ("127.0.0.1", port), directory)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], address: Address, directory: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError):
            connect(address).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nginx did not start:\n{(directory / 'error.log').read_text()}")
        time.sleep(0.01)
