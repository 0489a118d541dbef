"""The search for a server behind ``send``, through whatever middleware has put around it."""

from __future__ import annotations

from typing import Any

from litestar_safe_sse._servers.behind_send import behind


class Server:
    async def send(self, message: Any) -> None:
        """The server's own."""


def wrapped(send: Any) -> Any:
    """A middleware's wrapper and its helper, which call each other and themselves."""

    async def flush(again: bool = False) -> None:
        await send(None)
        await outer([flush, outer, again])

    async def outer(message: Any) -> None:
        await flush()
        await outer(message)

    return outer


def test_wrappers_that_know_each_other_are_visited_once() -> None:
    """However deep they are nested, the server is found, and nothing is looked at twice."""
    server = Server()
    send: Any = server.send
    for _ in range(8):
        send = wrapped(send)
    visited = list(behind(send))
    assert any(getattr(candidate, "__self__", None) is server for candidate in visited)
    assert len(visited) <= 2 * 8 + 2
