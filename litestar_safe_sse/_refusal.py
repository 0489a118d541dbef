"""How a stream is refused, at a shutdown or beyond ``max_streams``: so that its client can come back."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.exceptions import HTTPException, ServiceUnavailableException
from litestar.exceptions.responses import create_exception_response
from litestar.status_codes import HTTP_200_OK

from litestar_safe_sse._handler import HEADERS

if TYPE_CHECKING:
    from litestar import Request
    from litestar.types import Scope

    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("ReconnectLater", "answer_refusal", "refuse")

_LEAST_RETRY = 0.1
"""Seconds that an ``EventSource`` is told to wait at least, whatever ``retry_after`` is: it never stops asking."""


class ReconnectLater(HTTPException):
    """A refusal that an ``EventSource`` survives; answered by :func:`answer_refusal`.

    Args:
        why: Why the stream is refused.
        line: The field that tells the reconnection time.
        headers: Headers to send.
    """

    def __init__(self, why: str, line: str, headers: dict[str, str]) -> None:
        super().__init__(detail=why, status_code=HTTP_200_OK, headers=headers)
        self.line = line


def refuse(scope: Scope, config: SafeSSEConfig, why: str, *, is_shutdown: bool) -> HTTPException:
    """Makes the exception that refuses a stream.

    An ``EventSource`` gives up for good on a 503, as on any status but 200. At a shutdown another process takes over,
    so it is told to come back; beyond a limit the application decides.

    Args:
        scope: The ASGI scope of the request.
        config: The application's settings.
        why: What to tell other clients.
        is_shutdown: Whether it is refused because of a shutdown.
    """
    headers: dict[str, str] = {}
    if is_shutdown and scope["http_version"].startswith("1"):
        headers["Connection"] = "close"  # so that the next request goes to a process that stays
    if is_event_source(scope) and (is_shutdown or config.on_refusal == "reconnect"):
        seconds = max(config.retry_after, _LEAST_RETRY) * random.uniform(1, 2)
        # A line and no block: at one without data some clients dispatch an empty event.
        line = f"retry: {math.ceil(seconds * 1000)}{config.separator}"
        return ReconnectLater(why, line, {**HEADERS, **headers})
    headers["Retry-After"] = str(math.ceil(config.retry_after))  # RFC 9110, section 10.2.3
    return ServiceUnavailableException(detail=why, headers=headers)


def answer_refusal(request: Request[Any, Any, Any], refusal: HTTPException) -> Response[Any]:
    """Answers a refusal; one that is to be survived with the reconnection time and a proper end.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#reestablish-the-connection
    """
    if not isinstance(refusal, ReconnectLater):
        return create_exception_response(request, refusal)
    return Response(
        refusal.line.encode(), status_code=HTTP_200_OK, media_type="text/event-stream", headers=refusal.headers
    )


def is_event_source(scope: Scope) -> bool:
    """Returns whether a request may be that of an ``EventSource``: a GET that names ``text/event-stream``.

    One by POST is made by a program that knows what to make of a 503, and might take an empty answer for the answer.
    """
    if scope.get("method") != "GET":
        return False
    return any(name == b"accept" and b"text/event-stream" in value.lower() for name, value in scope["headers"])
