"""The application of the matrices behind middleware that puts another client into the scope, as behind a proxy."""

from __future__ import annotations

from typing import Any

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from hypercorn.middleware import ProxyFixMiddleware

from tests.servers.app import app

CLIENT = ("203.0.113.9", 0)


async def copying(scope: Any, receive: Any, send: Any) -> None:
    """Gives the application a scope of its own, as many middlewares do."""
    own: Any = {**scope, "client": CLIENT} if scope["type"] == "http" else scope
    await app(own, receive, send)


async def writing(scope: Any, receive: Any, send: Any) -> None:
    """Writes into the scope that the server has made, whatever the headers say."""
    if scope["type"] == "http":
        scope["client"] = CLIENT
    await app(scope, receive, send)


granian = wrap_asgi_with_proxy_headers(app, trusted_hosts="*")
hypercorn = ProxyFixMiddleware(app)  # type: ignore[arg-type]
