"""What ASGI does not offer for the end of a response: to cut it at once, so that the client sees that it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._servers.behind_send import behind, module_of_owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("cut_response",)


async def cut_response(send: Callable[..., Awaitable[None]]) -> None:
    """Ends a response that has failed, after what was sent, so that its client sees at once that it is cut.

    Without it the client learns of it only when the exception reaches the server, which is after the cleanups. Uvicorn
    closes the connection, and Hypercorn the stream, as they do then. Where neither is found, nothing is done.

    Args:
        send: The ASGI ``send`` of the request.
    """
    for candidate in behind(send):
        module = module_of_owner(candidate)
        if module.startswith("uvicorn.protocols.http.") and hasattr(candidate.__self__, "transport"):
            candidate.__self__.transport.close()
            return
        if module == "hypercorn.protocol.http_stream":
            await candidate(None)
            return
