"""What is Litestar's own: its messages, its serializer, and all that differs between its releases.

Releases are told apart by what they have, never by their number.
"""

from __future__ import annotations

import inspect
import logging
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from litestar.exceptions import LitestarException, PermissionDeniedException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.response.sse import ServerSentEventMessage
from litestar.serialization import default_serializer
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_204_NO_CONTENT
from litestar.types import Empty
from msgspec import UNSET

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import SSEError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litestar import Litestar, Request
    from litestar.di import Provide
    from litestar.dto import AbstractDTO
    from litestar.handlers import BaseRouteHandler
    from litestar.response.base import ASGIResponse
    from litestar.types import Scope
    from litestar.typing import FieldDefinition

__all__ = (
    "ServerSentEventMessage",
    "TopicsDeniedError",
    "as_called",
    "cause_of",
    "chosen_status",
    "default_serializer",
    "dependencies_of",
    "from_litestar",
    "handler_from",
    "logger_of",
    "request_class_of",
    "return_dto_above",
    "to_asgi",
    "websocket_class_of",
)

_PASSES_APP = "app" in inspect.signature(Response.to_asgi_response).parameters
"""Whether ``to_asgi_response`` is passed the application: until Litestar 3."""

_F = TypeVar("_F", bound="Callable[..., Any]")


class TopicsDeniedError(SSEError, PermissionDeniedException):
    """A stream may not have the topics that it subscribes to; ahead of its first event it is answered 403.

    Attributes:
        topics: The topics, at least one of which it may not have. The answer doesn't name them.
    """

    def __init__(self, topics: tuple[str, ...] = ()) -> None:
        super().__init__(detail="this topic is not for you to subscribe to")
        self.topics = topics


def from_litestar(message: ServerSentEventMessage) -> tuple[SSEMessage, str]:
    """Makes our message of Litestar's, where ``None`` as data means that there is none."""
    only_others = message.event is None and (message.comment, message.id, message.retry) != (None, None, None)
    # Its default is "", which after a lone comment, id or retry would have an empty event dispatched.
    data = UNSET if message.data is None or (message.data == "" and only_others) else message.data
    return SSEMessage(data, message.event, message.id, message.retry, message.comment), message.sep


def logger_of(app: Litestar) -> Any:
    """Returns the application's logger, or the standard library's where it has none, as from Litestar 3."""
    logger = app.logger if getattr(app, "logging_config", None) is not None else None
    return logger or logging.getLogger("litestar_safe_sse")


def dependencies_of(handler: BaseRouteHandler) -> Mapping[str, Provide]:
    """Returns what a handler can have injected, from all its layers."""
    if hasattr(handler, "ownership_layers"):
        return handler.resolve_dependencies()
    return cast("Mapping[str, Provide]", handler.dependencies)  # of all layers, from Litestar 3


def request_class_of(scope: Scope) -> type[Request[Any, Any, Any]]:
    """Returns the class of the requests that a scope's handler is given."""
    handler: Any = scope["route_handler"]
    found = handler.resolve_request_class() if hasattr(handler, "ownership_layers") else handler.request_class
    return cast("type[Request[Any, Any, Any]]", found)


def websocket_class_of(scope: Scope) -> Any:
    """Returns the class of the WebSockets that a scope's handler is given."""
    handler: Any = scope["route_handler"]
    return handler.resolve_websocket_class() if hasattr(handler, "ownership_layers") else handler.websocket_class


def chosen_status(status_code: int | None, handler: object) -> int:
    """Returns the status that a handler's decorator asks for, or 200.

    Litestar's own default for a method (201 where there is POST, 204 for DELETE) is nobody's choice, and on any status
    but 200 an ``EventSource`` gives up for good (WHATWG HTML, section 9.2.3).

    Args:
        status_code: What Litestar has decided.
        handler: The route handler, or ``None``.
    """
    if status_code is None or status_code == HTTP_204_NO_CONTENT:
        return HTTP_200_OK
    is_default = status_code == HTTP_201_CREATED and "POST" in getattr(handler, "http_methods", ())
    return HTTP_200_OK if is_default else status_code


def to_asgi(response: Response[Any], request: Request[Any, Any, Any]) -> ASGIResponse:
    """Makes the ASGI response of another response."""
    options: dict[str, Any] = {"app": None} if _PASSES_APP else {}
    return response.to_asgi_response(request=request, **options)


def as_called(to_asgi_response: _F) -> _F:
    """Gives a ``to_asgi_response`` the parameters that Litestar calls it with: from 3 it is not passed the application.

    Args:
        to_asgi_response: The method, with the parameters of Litestar 2.
    """
    if _PASSES_APP:
        return to_asgi_response

    @wraps(to_asgi_response)
    def called(self: Any, request: Any, **options: Any) -> Any:
        return to_asgi_response(self, None, request, **options)

    signature = inspect.signature(to_asgi_response)
    kept = [field for name, field in signature.parameters.items() if name not in ("app", "encoded_headers")]
    called.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return cast("_F", called)


def cause_of(error: Exception) -> Exception:
    """Returns what Litestar wraps when an exception comes after the response has started."""
    while type(error) is LitestarException and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def handler_from(kind: Callable[..., Any], fn: Callable[..., Any], path: Any, **options: Any) -> Any:
    """Makes a handler of a function: from Litestar 3 it is made with it, and else is called with it.

    Args:
        kind: The class of the handler.
        fn: The function.
        path: Its path, or paths.
        **options: The handler's options.
    """
    if "fn" in inspect.signature(HTTPRouteHandler.__init__).parameters:
        return kind(path, fn=fn, **options)
    return kind(path, **options)(fn)


def return_dto_above(handler: BaseRouteHandler, field: FieldDefinition) -> type[AbstractDTO[Any]] | None:
    """Returns the DTO that the layers above a handler, or a plugin, have for what it returns.

    From Litestar 3 a handler that has one of its own does not tell.

    Args:
        handler: The handler.
        field: What it returns.
    """
    if not hasattr(handler, "ownership_layers"):
        return None
    above = [layer.return_dto for layer in handler.ownership_layers[:-1] if layer.return_dto is not Empty]
    if above:
        return above[-1]
    for plugin in handler.app.plugins.serialization:
        if field.match_predicate_recursively(plugin.supports_type):
            return plugin.create_dto_for_type(field)
    return handler.resolve_data_dto()
