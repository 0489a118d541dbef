"""What the OpenAPI document says of streams: the media type, the types of events, and the schemas of their data.

OpenAPI 3.2 describes one item of a stream, by ``itemSchema``. In 3.1 there is only the schema of the whole: it holds
that of the data of each event, as generators of clients read it, with the item beside it as an extension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, Operation, Reference, Schema
from litestar.openapi.spec.enums import OpenAPIType

from litestar_safe_sse._core.encoding import is_text
from litestar_safe_sse._events import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.openapi import OpenAPIConfig

    from litestar_safe_sse._events import Declared, EventType

    Describe = Callable[[EventType], Schema | Reference]

__all__ = ("MEDIA_TYPE", "EventSchema", "describe_events", "operation_of", "says_items")

MEDIA_TYPE = "text/event-stream"


class EventSpec(NamedTuple):
    """What the document says of the events of one type."""

    name: str | None
    data: Schema | Reference
    is_text: bool


class EventSchema(Schema):
    """The schema of the data of all events of a stream, which knows them one by one."""

    events: tuple[EventSpec, ...] = ()


@dataclass
class ItemMediaType(OpenAPIMediaType):
    """A media type that describes its items (OpenAPI 3.2, section 4.14.3)."""

    item_schema: Schema | None = field(default=None, metadata={"alias": "itemSchema"})


@dataclass
class ExtendedMediaType(OpenAPIMediaType):
    """A media type of OpenAPI 3.1, with what 3.2 would say of its items."""

    item_schema: Schema | None = field(default=None, metadata={"alias": "x-itemSchema"})


def says_items(config: OpenAPIConfig | None) -> bool:
    """Returns whether a document is of a version that describes the items of a stream, 3.2 or later."""
    if config is None:
        return False
    version = config.to_openapi_schema().openapi.split(".")
    return tuple(int(part) for part in version[:2]) >= (3, 2)


def describe_events(declared: Declared, describe: Describe) -> EventSchema:
    """Returns the schema of a stream's data.

    Args:
        declared: What the handler's annotation names.
        describe: Makes the schema of what items of one type are sent as.
    """
    known = {event.annotation: event for event in (*declared.items, *declared.data)} if _hashable(declared) else {}
    events = list(known.values()) or [*declared.items, *declared.data]
    described = tuple(EventSpec(event.name, _named(describe(event), event), _is_text(event)) for event in events)
    schema = EventSchema(one_of=[event.data for event in described])
    if declared.anything or declared.any_data or not described:
        schema = EventSchema(type=OpenAPIType.STRING)
    schema.events = described if schema.one_of else ()
    return schema


def _hashable(declared: Declared) -> bool:
    try:
        return bool({event.annotation for event in (*declared.items, *declared.data)})
    except TypeError:
        return False


def _is_text(event: EventType) -> bool:
    return is_text(event.kind) and not issubclass(event.kind, int)


def _named(schema: Schema | Reference, event: EventType) -> Schema | Reference:
    """Says the type of the event beside the schema of its data, for who reads it."""
    if event.name is not None and schema.description is None:
        schema.description = f"The data of events of the type `{event.name}`."
    return schema


def item_of(schema: EventSchema) -> Schema:
    """Returns the schema of one event, as section 4.14.4 of OpenAPI 3.2 has it."""
    text = Schema(type=OpenAPIType.STRING)
    return Schema(
        type=OpenAPIType.OBJECT,
        properties={
            "data": text,
            "event": text,
            "id": text,
            "retry": Schema(type=OpenAPIType.INTEGER, minimum=0),
        },
        required=["data"],
        one_of=[_event(event) for event in schema.events] or None,
    )


def _event(event: EventSpec) -> Schema:
    json = None if event.is_text else "application/json"
    data = Schema(content_media_type=json, content_schema=None if event.is_text else event.data)
    if event.name is None:  # absent, or what clients take that for
        return Schema(properties={"event": Schema(const=DEFAULT), "data": data})
    return Schema(properties={"event": Schema(const=event.name), "data": data}, required=["event"])


class StreamOperation(Operation):
    """An operation that says of streams what Litestar's own cannot."""


def operation_of(
    base: type[Operation], status_code: int, config_of: Callable[[], OpenAPIConfig | None]
) -> type[Operation]:
    """Returns the class of a handler's operation.

    The media type is said here, and not by the handler's own, by which Litestar answers errors too.

    Args:
        base: The class that it would have.
        status_code: That of the stream.
        config_of: Tells how the document is made, when it is made.
    """
    if issubclass(base, StreamOperation):
        return base

    class Described(StreamOperation, base):  # type: ignore[misc, valid-type]
        def __post_init__(self) -> None:
            prepare = getattr(base, "__post_init__", None)
            if prepare is not None:
                prepare(self)
            response = (self.responses or {}).get(str(status_code))
            if isinstance(response, OpenAPIResponse) and response.content:
                (described,) = response.content.values()
                response.content = {MEDIA_TYPE: _stream(described, says_items(config_of()))}

    return dataclass(Described)


def _stream(media_type: OpenAPIMediaType, items: bool) -> OpenAPIMediaType:
    schema = media_type.schema
    if not isinstance(schema, EventSchema):  # of a handler that says no more than that it is a stream
        schema = EventSchema(type=OpenAPIType.STRING)
    if items:
        return ItemMediaType(item_schema=item_of(schema), examples=media_type.examples)
    return ExtendedMediaType(schema=schema, item_schema=item_of(schema), examples=media_type.examples)
