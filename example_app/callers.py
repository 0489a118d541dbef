"""Whom the application obeys: its own pages, under a name that nobody else can have.

A page of another site can have a browser send orders here, and a site whose name is made to point here (DNS rebinding)
looks to the browser like this one. The first is told by what browsers say of a request's origin, the second by the name
under which the request comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import BaseRouteHandler

__all__ = ["own_pages_only"]

AnyConnection = ASGIConnection[Any, Any, Any, Any]


def own_pages_only(hosts: Iterable[str]) -> Callable[[AnyConnection, BaseRouteHandler], None]:
    """Makes a guard that answers 403 to what another site has a browser ask for.

    Args:
        hosts: The names, without ports, under which the pages may be opened, besides addresses and ``localhost``.
    """
    names = {"localhost", *(host.lower() for host in hosts)}

    def guard(connection: AnyConnection, _: BaseRouteHandler) -> None:
        headers = connection.headers
        host = headers.get("host", "").lower()
        if not is_own(host, names):
            raise PermissionDeniedException(f"Host must be an address or a name in EXAMPLE_HOSTS, not {host!r}.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host:
            raise PermissionDeniedException(f"Origin must be that of this host, {host!r}, not {origin!r}.")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and not follows_a_link(connection):
            raise PermissionDeniedException(f"Sec-Fetch-Site must be 'same-origin' or 'none', not {site!r}.")

    return guard


def is_own(host: str, names: set[str]) -> bool:
    """Whether nobody else's DNS can have led here: an address comes from none."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ip_address(name))
    except ValueError:
        return False


def follows_a_link(connection: AnyConnection) -> bool:
    """Whether the answer will be a page whose address its reader sees."""
    fetch = [connection.headers.get(f"sec-fetch-{name}") for name in ("mode", "dest")]
    return connection.scope.get("method") == "GET" and fetch == ["navigate", "document"]
