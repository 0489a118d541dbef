"""What is injected into handlers: the context of the request's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, ImproperlyConfiguredException

from litestar_safe_sse._core.encoding import decode_last_event_id
from litestar_safe_sse._litestar import dependencies_of, request_class_of
from litestar_safe_sse._slot import Slot
from litestar_safe_sse.context import Injected, StreamContext
from litestar_safe_sse.exceptions import InvalidFieldError, MissingPluginError, OutsideRequestError

if TYPE_CHECKING:
    from litestar.handlers import BaseRouteHandler
    from litestar.types import Scope
    from litestar.typing import FieldDefinition

    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("KEY", "check_parameters", "provide_stream")

KEY = "stream"
"""The name of the parameter that a stream's context is injected as."""


def provide_stream(scope: Scope) -> StreamContext:
    """Makes the context of the request's stream; the stream lives until the response has ended.

    Raises:
        OutsideRequestError: In the handler of a WebSocket.
        ClientException: If the client sent a ``Last-Event-ID`` that no event can have had.
        HTTPException: If the stream is refused.
    """
    if scope["type"] != ScopeType.HTTP:
        raise OutsideRequestError("a StreamContext belongs to an HTTP request; a WebSocket has no event stream")
    slot = Slot.of(scope)
    last_event_id = last_event_id_of(scope, slot.registry.config)
    request_class = request_class_of(scope)
    return StreamContext(slot.admit(scope), request_class(scope, slot.receiver.receive, slot.send), last_event_id)


def last_event_id_of(scope: Scope, config: SafeSSEConfig) -> str | None:
    """Reads what a client resumes after: the header (WHATWG HTML, section 9.2.4), or else the query parameter for it.

    The header comes first: it grows with each reconnection, while the address stays what it was.

    Args:
        scope: The ASGI scope of the request.
        config: The settings of the application.

    Raises:
        ClientException: If no event can have had that ID.
    """
    try:
        for name, value in scope["headers"]:
            if name == b"last-event-id":
                return decode_last_event_id(value, config.max_last_event_id)
        if config.last_event_id_query is not None:
            return last_event_id_in_query(scope["query_string"], config.last_event_id_query, config.max_last_event_id)
    except InvalidFieldError as error:
        raise ClientException(str(error)) from error
    return None


def last_event_id_in_query(query: bytes, name: str, max_length: int) -> str | None:
    """Reads a query parameter that stands for the header; an empty one, as a template leaves it, stands for none.

    Args:
        query: The query string.
        name: The parameter's name.
        max_length: The most bytes that the ID may have.

    Raises:
        InvalidFieldError: If no event can have had that ID.
    """
    # As Latin-1, in which each byte is a character: what they mean together is for the decoder to say.
    wanted = name.encode().decode("latin-1")
    for key, value in parse_qsl(query.decode("latin-1"), encoding="latin-1"):
        if key == wanted:
            return decode_last_event_id(value.encode("latin-1"), max_length, f"query parameter {name}")
    return None


def check_parameters(handler: BaseRouteHandler) -> None:
    """Refuses parameters, of a handler or of its dependencies, that are not given what they are annotated with.

    Raises:
        ImproperlyConfiguredException: If one would be given a ``StreamContext``, and is something else.
        MissingPluginError: If one is to be a ``StreamContext``, and would not be given one.
    """
    providers = dependencies_of(handler)
    is_provided = KEY in providers and providers[KEY].dependency is provide_stream
    takers: tuple[BaseRouteHandler | Provide, ...] = (handler, *providers.values())
    for taker in takers:
        for name, field in taker.parsed_fn_signature.parameters.items():
            if name == KEY and is_provided and not admits_context(field):
                raise ImproperlyConfiguredException(
                    f"the parameter {KEY!r} of {handler}, or of a dependency of it, would be given a StreamContext; "
                    "rename the parameter (a query parameter can keep its name on the wire, as an alias)"
                )
            if name not in providers and is_context(field):
                raise MissingPluginError(
                    f"the parameter {name!r} of {handler}, or of a dependency of it, must be called {KEY!r}, the name "
                    "under which SafeSSEPlugin provides a StreamContext"
                )


def admits_context(field: FieldDefinition) -> bool:
    """Returns whether an annotation allows a ``StreamContext``."""
    if field.is_union:
        return any(admits_context(inner) for inner in field.inner_types)
    return field.is_any or (isinstance(field.annotation, type) and issubclass(StreamContext, field.annotation))


def is_context(field: FieldDefinition) -> bool:
    """Returns whether an annotation says that a parameter is a ``StreamContext``, or may be one."""
    return field.is_subclass_of(Injected) or (field.is_union and field.has_inner_subclass_of(Injected))
