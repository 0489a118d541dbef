"""``@sse``: the handler is the generator of its events."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from litestar.dto import AbstractDTO
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import Empty
from litestar.typing import FieldDefinition

from litestar_safe_sse._events import Declared
from litestar_safe_sse._handler import make_encoder
from litestar_safe_sse._litestar import handler_from, return_dto_above
from litestar_safe_sse._openapi import describe_events, operation_of
from litestar_safe_sse._options import (
    HandlerOptions,
    Options,
    ResponseOptions,
    check_functions,
    check_names,
    check_path,
)
from litestar_safe_sse._slot import NeedsPlugin
from litestar_safe_sse._typed import TypedEncoder
from litestar_safe_sse.config import check_duration, check_name
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.response import SafeServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence

    from litestar import Request
    from litestar._openapi.schema_generation import SchemaCreator
    from litestar.connection import ASGIConnection
    from litestar.dto.data_structures import DTOFieldDefinition
    from litestar.enums import HttpMethod
    from litestar.handlers import BaseRouteHandler
    from litestar.openapi import OpenAPIConfig
    from litestar.openapi.spec import Reference, Schema
    from litestar.types import Method, TypeEncodersMap
    from typing_extensions import Unpack

    from litestar_safe_sse._core.encoding import Encoder
    from litestar_safe_sse._events import EventType
    from litestar_safe_sse._handler import Handler
    from litestar_safe_sse.config import SafeSSEConfig

    Methods = HttpMethod | Method | Sequence[HttpMethod | Method]
    DTO = type[AbstractDTO[Any]]

__all__ = ("SSERouteHandler", "TypedStream", "check_generator", "describe_stream", "dtos_for", "sse")

PREFETCH = 0.5
"""Seconds that the headers wait for the first event: enough for a refusal by a database or by another service, and too
little for somebody to notice where no event comes."""

P = ParamSpec("P")
EventsT = TypeVar("EventsT", bound="AsyncIterable[Any] | Iterable[Any]")


class SSERouteHandler(NeedsPlugin, HTTPRouteHandler, Generic[P, EventsT]):
    """A handler that ``@sse`` has made: ``fn`` is the generator function, with its own type."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[P, EventsT]: ...  # type: ignore[override]


def sse(
    path: str | Sequence[str] | None = None,
    *,
    method: Methods = "GET",
    prefetch: float = PREFETCH,
    validate: bool | None = None,
    websocket: str | None = None,
    **options: Unpack[Options],
) -> Callable[[Callable[P, EventsT]], SSERouteHandler[P, EventsT]]:
    """Makes a handler of a generator function: what it yields is the stream, answered 200 unless told otherwise.

    The function may be async or sync, which is advanced by a thread, and has all that handlers have: parameters,
    dependencies, guards, a request body. What its return annotation names is sent as JSON, or as text if it is text;
    the type of an event is the tag of a ``Struct``, or what ``Annotated[T, Event("name")]`` says.

    Args:
        path: The path, or paths.
        method: The HTTP method, or methods.
        prefetch: Seconds that the headers wait for the first event at most. An exception that comes before is answered
            with an error, by Litestar's exception handlers, as that of any handler. 0 for not at all.
        validate: Whether to refuse what the annotation does not name; in debug mode unless given.
        websocket: The path of a WebSocket that streams the same, with the same guards, middleware and dependencies;
            below that of the router or controller, as ``path`` is. ``None`` for none.
        **options: Those of ``SafeServerSentEvent``, and those of Litestar's handlers.

    Returns:
        The decorator.

    Raises:
        InvalidFieldError: If an option is unknown or has a wrong value, or the function is no generator function.
    """
    check_path(path, "@sse")
    answer = _answer(prefetch, validate, websocket, options)
    handling: dict[str, Any] = {
        name: value for name, value in options.items() if name in HandlerOptions.__annotations__
    }
    handling.setdefault("status_code", 200)

    def decorate(fn: Callable[P, EventsT]) -> SSERouteHandler[P, EventsT]:
        check_names(options, _NAMES, "@sse", fn)
        check_generator(fn)
        return handler_from(  # type: ignore[no-any-return]
            SSERouteHandler,
            fn,
            path,
            http_method=method,
            sync_to_thread=None if inspect.iscoroutinefunction(fn) else False,  # to call it runs nothing of it
            **{**handling, "return_dto": answer},
        )

    return decorate


def _answer(prefetch: float, validate: bool | None, websocket: str | None, options: Options) -> type[StreamDTO]:
    check_duration("prefetch", prefetch, zero=True)
    if validate not in (True, False, None):
        raise InvalidFieldError("validate", f"must be a bool, or None, not {validate!r}")
    if websocket is not None:
        check_name("websocket", websocket)
    response = {name: value for name, value in options.items() if name in ResponseOptions.__annotations__}
    check_functions(response, "the connection")
    SafeServerSentEvent((), status_code=options.get("status_code"), **response)  # type: ignore[arg-type]
    namespace = {
        "prefetch": prefetch,
        "validate": validate,
        "websocket": websocket,
        "options": response,
        "item_dto": options.get("return_dto", Empty),
        "streams": {},
    }
    return type("StreamDTO", (StreamDTO,), namespace)


_OWN = inspect.signature(sse).parameters.keys() - {"options"}
_NAMES = _OWN | ResponseOptions.__annotations__.keys() | HandlerOptions.__annotations__.keys()


def check_generator(fn: Any) -> None:
    function = inspect.unwrap(fn.func if isinstance(fn, partial) else fn)
    if not (inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)):
        raise InvalidFieldError(
            "handler",
            f"must be a generator function, one that has a yield, not {getattr(function, '__qualname__', function)}; "
            "to return a stream, use @get and SafeServerSentEvent",
        )


class EventStream(SafeServerSentEvent):
    """The response of a handler that is a generator."""

    def __init__(
        self, content: Any, stream: TypedStream, transforms: Mapping[type, Any], validate: bool, **options: Any
    ) -> None:
        super().__init__(content, **options)
        self.stream = stream
        self.transforms = transforms
        self.validate = validate

    def _encoder(self, handler: Handler, config: SafeSSEConfig, type_encoders: TypeEncodersMap) -> Encoder:
        type_encoders = {**type_encoders, **self.response_type_encoders}
        make = partial(
            make_encoder, config, kind=TypedEncoder, declared=self.stream.declared, transforms=self.transforms
        )
        if self.transforms:  # they are made for the request
            return make(type_encoders=type_encoders, validate=self.validate, **self.defaults)
        known = self.stream.encoder
        key = {**type_encoders}, self.validate, config.separator, self.defaults
        if known is None or known[0] != key:
            made = make(type_encoders=type_encoders, validate=self.validate, **self.defaults)
            known = self.stream.encoder = key, made
        return known[1]


class TypedStream:
    """What is known of one handler's stream, once it has been registered."""

    def __init__(self, declared: Declared, dtos: Mapping[type, DTO]) -> None:
        self.declared = declared
        self.dtos = dtos
        self.encoder: tuple[object, TypedEncoder] | None = None

    def transforms(self, request: ASGIConnection[Any, Any, Any, Any]) -> Mapping[type, Any]:
        """Returns what makes of items what is to be sent."""
        return {kind: dto(request).data_to_encodable_type for kind, dto in self.dtos.items()}


class StreamDTO(AbstractDTO[Any]):
    """Where Litestar asks what becomes of what a handler returns, and how the OpenAPI document describes it."""

    prefetch: ClassVar[float]
    validate: ClassVar[bool | None]
    websocket: ClassVar[str | None]
    options: ClassVar[dict[str, Any]]
    item_dto: ClassVar[Any]
    streams: ClassVar[dict[str, TypedStream]]
    """What is known of each handler that was made of the decorated function, by its ID."""

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Tells that it is for every generator."""
        return True

    @classmethod
    def create_for_field_definition(cls, field_definition: FieldDefinition, *args: Any, **kwargs: Any) -> None:
        """Does nothing: :func:`describe_stream` does, once the handler has all its layers."""

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition, None, None]:
        """Yields nothing: a stream has no fields."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        """Tells that a stream has no fields."""
        return False

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: SchemaCreator
    ) -> Reference | Schema:
        """Describes the events of a handler."""
        stream = cls.streams[handler_id]

        def describe(event: EventType) -> Schema | Reference:
            field = FieldDefinition.from_annotation(event.annotation)
            dto = stream.dtos.get(event.kind)
            if dto is None:
                return schema_creator.for_field_definition(field)
            return dto.create_openapi_schema(field, handler_id, schema_creator)

        return describe_events(stream.declared, describe)

    def data_to_encodable_type(self, data: Any) -> Any:
        """Makes the response of a generator. What a ``before_request`` hook has answered is left as it is."""
        request: Request[Any, Any, Any] = self.asgi_connection  # type: ignore[assignment]
        if isinstance(data, Response):
            return data
        stream = self.streams[request.route_handler.handler_id]
        validate = request.app.debug if self.validate is None else self.validate
        response = EventStream(data, stream, stream.transforms(request), validate, **self.options)
        response.prefetch = self.prefetch
        return response


def describe_stream(handler: HTTPRouteHandler, config_of: Callable[[], OpenAPIConfig | None]) -> None:
    """Learns from a handler's annotation what its events are, and sees to it that its document says so.

    Args:
        handler: Any handler, which has been registered with an application.
        config_of: Tells how the OpenAPI document is made.

    Raises:
        InvalidFieldError: If the annotation, or a DTO, does not fit to a stream.
    """
    returned = handler.parsed_fn_signature.return_type
    if isinstance(handler, SSERouteHandler):
        answer: type[StreamDTO] = handler.return_dto  # type: ignore[assignment]
        declared = Declared(returned.raw, str(handler))
        answer.streams[handler.handler_id] = TypedStream(declared, dtos_for(handler, declared, answer.item_dto))
    elif not returned.is_subclass_of(SafeServerSentEvent):
        return
    handler.operation_class = operation_of(handler.operation_class, handler.status_code, config_of)


def dtos_for(handler: BaseRouteHandler, declared: Declared, given: Any) -> dict[type, DTO]:
    """Finds the DTOs that are for events of a handler, by the class of the items."""
    found: dict[type, DTO] = {}
    for event in dict.fromkeys(event.kind for event in (*declared.items, *declared.data)):
        field = FieldDefinition.from_annotation(event)
        dto = return_dto_above(handler, field) if given is Empty else given
        if dto is None or not dto.is_supported_model_type_field(field):
            continue
        if dto in found.values():
            raise InvalidFieldError("return_dto", f"must be for one type of events of {handler}, not for several")
        dto.create_for_field_definition(field, handler_id=handler.handler_id)
        found[event] = dto
    if given is not Empty and given is not None and not found:
        raise InvalidFieldError("return_dto", f"must be for a type that the return annotation of {handler} names")
    return found
