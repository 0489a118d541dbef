"""How a stream is refused, at a shutdown or beyond a limit: so that its client can come back."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.enums import ScopeType
from litestar.exceptions import (
    HTTPException,
    NotAuthorizedException,
    ServiceUnavailableException,
    TooManyRequestsException,
    WebSocketException,
)
from litestar.exceptions.responses import create_exception_response
from litestar.status_codes import HTTP_200_OK

from litestar_safe_sse._core.websocket import POLICY_VIOLATION, TRY_AGAIN_LATER
from litestar_safe_sse._handler import HEADERS
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from litestar import Request
    from litestar.connection import ASGIConnection
    from litestar.types import Scope

    from litestar_safe_sse._core.registry import StreamRegistry
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse.config import PerKey, SafeSSEConfig

__all__ = ("ReconnectLater", "answer_refusal", "check_access", "raised_by_the_application", "refuse")

EXPIRED = "the right to this stream has expired"

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


def refuse(
    scope: Scope, config: SafeSSEConfig, why: str, *, is_shutdown: bool, rule: PerKey | None = None
) -> HTTPException | WebSocketException:
    """Makes the exception that refuses a stream.

    An ``EventSource`` gives up for good on a 503, as on any status but 200. At a shutdown another process takes over,
    so it is told to come back; beyond a limit the application decides.

    Args:
        scope: The ASGI scope of the request.
        config: The application's settings.
        why: What to tell other clients.
        is_shutdown: Whether it is refused because of a shutdown.
        rule: The limit of its key, if that was reached.
    """
    if scope["type"] == ScopeType.WEBSOCKET:
        return WebSocketException(detail=why, code=TRY_AGAIN_LATER)
    on_refusal = (None if rule is None else rule.on_refusal) or config.on_refusal
    headers: dict[str, str] = {}
    if is_shutdown and scope["http_version"].startswith("1"):
        headers["Connection"] = "close"  # so that the next request goes to a process that stays
    if is_event_source(scope) and (is_shutdown or on_refusal != "unavailable"):
        seconds = max(config.retry_after, _LEAST_RETRY) * random.uniform(1, 2)
        # A line and no block: at one without data some clients dispatch an empty event.
        line = f"retry: {math.ceil(seconds * 1000)}{config.separator}"
        return ReconnectLater(why, line, {**HEADERS, **headers})
    headers["Retry-After"] = str(math.ceil(config.retry_after))  # RFC 9110, section 10.2.3
    if rule is not None:
        return TooManyRequestsException(detail=why, headers=headers)
    return ServiceUnavailableException(detail=why, headers=headers)


def raised_by_the_application(error: InvalidFieldError) -> Exception:
    """Returns what is to be raised where a function of the application has failed: its answer, if it is one."""
    return error.__cause__ if isinstance(error.__cause__, HTTPException) else error


def check_access(registry: StreamRegistry, stream: Stream, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Has a stream revoked when the right to it ends.

    Raises:
        NotAuthorizedException: If it has ended already: a stream that is revoked would have its client come back.
        WebSocketException: The same, for a WebSocket.
        HTTPException: If that is how the application's function answers.
        InvalidFieldError: If that function has failed.
    """
    try:
        is_expired = not registry.watch_access(stream, connection)
    except InvalidFieldError as error:
        raise raised_by_the_application(error) from error
    if is_expired and connection.scope["type"] == ScopeType.WEBSOCKET:
        raise WebSocketException(detail=EXPIRED, code=POLICY_VIOLATION)
    if is_expired:
        raise NotAuthorizedException(detail=EXPIRED)


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
