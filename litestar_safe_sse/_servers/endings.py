"""What ASGI does not offer for the end of a response.

To cut it at once, so that the client sees that it has failed; to have no other follow it on its connection; and to have
a WebSocket live until its stream has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse._servers.behind_send import behind, daphne_request, daphne_websocket, module_of_owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Hold", "close_after_response", "close_websocket", "cut_response")


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


def close_after_response(send: Callable[..., Awaitable[None]]) -> None:
    """Has the server close the connection once the response has ended, for a client that is to come back elsewhere.

    To be called before the end of the response. Uvicorn does so by itself up to 0.1 seconds after a signal, Daphne only
    when it exits; Granian and Hypercorn, and all over HTTP/2, need not be asked.

    Args:
        send: The ASGI ``send`` of the request.
    """
    for candidate in behind(send):
        if module_of_owner(candidate).startswith("uvicorn.protocols.http."):
            _set_false(candidate.__self__, "keep_alive")
            return
        if (request := daphne_request(candidate)) is not None:
            _set_false(request.channel, "persistent")
            return


class Hold:
    """Has Uvicorn leave a WebSocket alone at a shutdown, until it is released.

    It would close each one, by 1012, up to 0.1 seconds after the signal, whatever its application has left to say.

    Args:
        send: The ASGI ``send`` of the WebSocket.
    """

    __slots__ = ("_is_asked", "_protocol")

    def __init__(self, send: Callable[..., Awaitable[None]]) -> None:
        self._is_asked = False
        self._protocol: Any = None
        for candidate in behind(send):
            if module_of_owner(candidate).startswith("uvicorn.protocols.websockets."):
                self._protocol = candidate.__self__
                self._protocol.shutdown = self._ask
                return

    def _ask(self) -> None:
        self._is_asked = True

    def release(self) -> None:
        """Has the server do what it has been kept from; may be called again."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            vars(protocol).pop("shutdown", None)
            if self._is_asked:
                protocol.shutdown()


def close_websocket(send: Callable[..., Awaitable[None]], code: int, reason: str) -> bool:
    """Closes a WebSocket of Daphne's, where a ``websocket.close`` is an error by most of the codes that are registered.

    Args:
        send: The ASGI ``send`` of the WebSocket.
        code: Its code.
        reason: Its text, of at most 123 bytes.

    Returns:
        Whether it has been closed; elsewhere a ``websocket.close`` does it.
    """
    for candidate in behind(send):
        protocol = daphne_websocket(candidate)
        if protocol is not None and hasattr(protocol, "sendCloseFrame"):
            protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode(), isReply=False)
            return True
    return False


def _set_false(owner: Any, name: str) -> None:
    if hasattr(owner, name):
        setattr(owner, name, False)
