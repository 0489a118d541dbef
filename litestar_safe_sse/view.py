"""A view of the live streams: who streams what, for how long, and why the last ones ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse.config import check_function, check_text
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litestar import Request
    from litestar.types import Guard

__all__ = ("StreamsView",)


class StreamsView:
    """A page of the live streams of a process, and the same as JSON; given to ``SafeSSEPlugin(view=...)``.

    Whoever passes the guards sees every stream, and may close it.

    Args:
        guards: Litestar's guards of the view, one at least.
        path: Where it is.
        who: Returns what is told of whom a stream belongs to, given its request or WebSocket; the client's address
            unless given.

    Raises:
        InvalidFieldError: If there is no guard, or something is of another type.
    """

    def __init__(
        self,
        *,
        guards: Sequence[Guard],
        path: str = "/_sse/streams",
        who: Callable[[Request], str] | None = None,  # type: ignore[type-arg]
    ) -> None:
        if not isinstance(guards, (list, tuple)) or not guards or not all(map(callable, guards)):
            raise InvalidFieldError(
                "guards", "must be a list of one or more guards: whoever sees the view sees, and may close, all streams"
            )
        if not check_text("path", path).startswith("/"):
            raise InvalidFieldError("path", f"must begin with a slash, not {path!r:.40}")
        check_function("who", who)
        self.guards = list(guards)
        self.path = path.rstrip("/")
        self.who = who or client_address


def client_address(request: Request) -> str:  # type: ignore[type-arg]
    """Returns the address that a server says a request came from."""
    client = request.client
    return "unknown" if client is None else f"{client.host}:{client.port}"
