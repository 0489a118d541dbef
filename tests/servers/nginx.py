"""nginx in front of a server, as it comes but for the buffering that nobody can have in front of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.proxies import KINDS, NGINX_TEMPLATE, ProxyKind, configured
from tests.servers.kinds import Address

ANYWHERE = ProxyKind("nginx", NGINX_TEMPLATE, KINDS["nginx"].command, {})
"""In front of a server that may listen at a Unix socket."""

UNBUFFERED = """
            proxy_buffering off;
            proxy_http_version 1.1;
            proxy_set_header X-Forwarded-For 203.0.113.9;
"""


@contextlib.contextmanager
def nginx(server: Address, directory: Path) -> Iterator[Address]:
    """Runs nginx in front of a server, and yields where it listens."""
    upstream = f"unix:{server}:" if isinstance(server, str) else f"{server[0]}:{server[1]}"
    with configured(ANYWHERE, UNBUFFERED, directory, upstream=upstream) as port:
        yield "127.0.0.1", port
