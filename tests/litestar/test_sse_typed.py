"""Typed events: the return annotation of a handler tells what its items are on the wire, and what may be yielded."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Protocol, TypeVar

import attrs
import pytest
from datastar_py.sse import DatastarEvent
from litestar import Controller, Router
from litestar.dto import DataclassDTO, DTOConfig
from litestar.response.sse import ServerSentEventMessage
from msgspec import Struct
from pydantic import BaseModel
from typing_extensions import TypeAliasType, TypedDict

from litestar_safe_sse import (
    Event,
    Frame,
    InvalidFieldError,
    SSEError,
    SSEMessage,
    UndeclaredEventError,
    sse,
)
from litestar_safe_sse._core.messages import SOURCE_EVENTS
from litestar_safe_sse._events import Declared
from litestar_safe_sse._typed import TypedEncoder
from litestar_safe_sse.sources import MemoryEventLog
from litestar_safe_sse.sources._stored import CAUGHT_UP, FINISHED, RESET, SUBSCRIBED
from litestar_safe_sse.sources._subscription import DROPPED
from litestar_safe_sse.sources.redis.pubsub import GAP
from tests.litestar.apps import cause, make_app, serving
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


class Progress(Struct, tag="progress"):
    percent: int


class Done(Struct, tag="done"):
    pass


class Between(Struct, tag="between"):
    pass


class Numbered(Struct, tag=7):
    pass


class HasPercent(Protocol):
    percent: int


class Forging(Struct, tag="a\ndata: forged\n\nevent: b"):
    pass


class Surrogate(Struct, tag="a\ud800"):
    pass


class Named(str, Enum):
    TOKEN = "token"


class Plain(Struct):
    x: int


class Base(Struct, tag=True):
    pass


class Derived(Base):
    y: int = 1


@dataclass
class Note:
    text: str


@dataclass
class LongNote(Note):
    more: str = "more"


@attrs.define
class Point:
    x: int


class Model(BaseModel):
    a: int


class Row(TypedDict):
    id: int


class OtherRow(TypedDict):
    name: str


Text = NewType("Text", str)
Both = TypeAliasType("Both", Progress | Done)
T = TypeVar("T")
Or = TypeAliasType("Or", Progress | T, type_params=(T,))
OrText = TypeAliasType("OrText", Or[T] | SSEMessage[T] | str, type_params=(T,))
Items = TypeAliasType("Items", AsyncIterator[Progress])


def returning(annotation: Any, *items: object, **options: Any) -> Any:
    """A handler with an annotation, that yields some items."""

    async def feed():  # type: ignore[no-untyped-def]
        for item in items:
            yield item

    feed.__annotations__["return"] = AsyncIterator[annotation]
    options.setdefault("validate", True)
    return sse("/", **options)(feed)


async def body_of(handler: Any, **options: Any) -> str:
    async with serving(handler, **options) as (app, _):
        return (await request(app)).body.decode().replace("\r\n", "|")


@pytest.mark.parametrize(
    ("annotation", "item", "wire"),
    [
        (Progress, Progress(5), 'event: progress|data: {"type":"progress","percent":5}||'),
        (Numbered, Numbered(), 'event: 7|data: {"type":7}||'),
        (Plain, Plain(1), 'data: {"x":1}||'),
        (Base, Derived(), 'event: Derived|data: {"type":"Derived","y":1}||'),
        (Note, Note("a"), 'data: {"text":"a"}||'),
        (Annotated[Note, Event("note")], Note("a\nb"), 'event: note|data: {"text":"a\\nb"}||'),
        (Annotated[Note, Event("note")], LongNote("a"), 'event: note|data: {"text":"a","more":"more"}||'),
        (Annotated[Progress, Event("tick")], Progress(1), 'event: tick|data: {"type":"progress","percent":1}||'),
        (Annotated[Progress, "a remark"], Progress(1), 'event: progress|data: {"type":"progress","percent":1}||'),
        (Point, Point(1), 'data: {"x":1}||'),
        (Model, Model(a=1), 'data: {"a":1}||'),
        (Annotated[Model, Event("model")], Model(a=1), 'event: model|data: {"a":1}||'),
        (Row, {"id": 1}, 'data: {"id":1}||'),
        (Annotated[Row, Event("row")], {"id": 1}, 'event: row|data: {"id":1}||'),
        (dict[str, int], {"data": 1}, 'data: {"data":1}||'),
        (list[int], [1, 2], "data: [1,2]||"),
        (int, 5, "data: 5||"),
        (bool, True, "data: true||"),
        (float, 0.5, "data: 0.5||"),
        (str, "[DONE]", "data: [DONE]||"),
        (str, "a\nb", "data: a|data: b||"),
        (str, "é", "data: é||"),
        (bytes, b"raw", "data: raw||"),
        (Annotated[str, Event("token")], "a", "event: token|data: a||"),
        (Annotated[str, Event(Named.TOKEN)], "a", "event: token|data: a||"),
        (Annotated[str, Event("token")], "a\nb", "event: token|data: a|data: b||"),
        (Text, "a", "data: a||"),
        (Literal["a", 1], "a", "data: a||"),
        (Literal["a", 1], 1, "data: 1||"),
        (Both, Done(), 'event: done|data: {"type":"done"}||'),
        (Or[Done], Done(), 'event: done|data: {"type":"done"}||'),
        (OrText[Done], SSEMessage(Done()), 'event: done|data: {"type":"done"}||'),
        (Or[list[Done]], [Done()], 'data: [{"type":"done"}]||'),
        (Or, Note("x"), 'data: {"text":"x"}||'),
        (float, 1, "data: 1||"),
        (Annotated[float, Event("ratio")], 1, "event: ratio|data: 1||"),
        (SSEMessage[Annotated[float, Event("ratio")]], SSEMessage(1), "event: ratio|data: 1||"),
        (Annotated[float, Event("a")] | Annotated[int, Event("b")], 1, "event: b|data: 1||"),
        (Annotated[Progress, Event("a")] | Annotated[Note, Event("b")], Note("x"), 'event: b|data: {"text":"x"}||'),
        (SSEMessage, SSEMessage("a", id=1), "id: 1|data: a||"),
        (SSEMessage, SSEMessage(comment="hi"), ": hi||"),
        (Progress, SSEMessage(comment="no event"), ": no event||"),
        (Progress, SSEMessage(id=5), "id: 5||"),
        (SSEMessage, SSEMessage(Progress(1)), 'event: progress|data: {"type":"progress","percent":1}||'),
        (
            SSEMessage[Progress],
            SSEMessage(Progress(1), id=2),
            'id: 2|event: progress|data: {"type":"progress","percent":1}||',
        ),
        (SSEMessage[Progress], SSEMessage(Progress(1), "own"), 'event: own|data: {"type":"progress","percent":1}||'),
        (SSEMessage[Progress] | Note, Note("x"), 'data: {"text":"x"}||'),
        (Annotated[SSEMessage[Note], Event("note")], SSEMessage(Note("x")), 'event: note|data: {"text":"x"}||'),
        (SSEMessage[Annotated[str, Event("token")]], SSEMessage("x"), "event: token|data: x||"),
        (ServerSentEventMessage, ServerSentEventMessage("a", event="x"), "event: x|data: a||"),
        (Frame, Frame("data: x\r\n\r\n"), "data: x||"),
        (DatastarEvent, DatastarEvent("data: x\r\n\r\n"), "data: x||"),
        (Any, {"a": 1}, 'data: {"a":1}||'),
        (object, Progress(1), 'event: progress|data: {"type":"progress","percent":1}||'),
        (T, "x", "data: x||"),
    ],
)
async def test_item_becomes_what_the_annotation_says(annotation: Any, item: object, wire: str) -> None:
    """On its first time and on each other, between items of other types."""
    assert await body_of(returning(annotation, item, item)) == wire * 2
    if annotation is Any:
        return
    mixed = await body_of(returning(annotation | Between, item, Between(), item))
    assert mixed == f'{wire}event: between|data: {{"type":"between"}}||{wire}'


@pytest.mark.parametrize("annotation", [AsyncIterator, AsyncGenerator[Progress, None], Iterator[Progress], Items])
async def test_other_annotations_of_generators(annotation: Any) -> None:
    """Without a type of items, all may be yielded."""

    async def feed():  # type: ignore[no-untyped-def]
        yield Progress(1)

    feed.__annotations__["return"] = annotation
    assert await body_of(sse("/", validate=True)(feed)) == 'event: progress|data: {"type":"progress","percent":1}||'


async def test_defaults_of_the_response_complete_events() -> None:
    """``event_type`` is that of events whose type has no name."""
    handler = returning(Progress | str | SSEMessage, Progress(1), "x", SSEMessage("y"), event_type="other", event_id=3)
    assert await body_of(handler) == (
        'id: 3|event: progress|data: {"type":"progress","percent":1}||'
        "id: 3|event: other|data: x||id: 3|event: other|data: y||"
    )


async def test_encoders_of_the_layers_are_used() -> None:
    """Of the application, the router and the handler itself."""

    class Odd:
        pass

    handler = returning(Annotated[Odd, Event("odd")], Odd(), type_encoders={Odd: lambda _: "encoded"})
    assert await body_of(handler) == 'event: odd|data: "encoded"||'
    router = Router("/", route_handlers=[returning(Odd, Odd())], type_encoders={Odd: lambda _: "routed"})
    assert await body_of(router) == 'data: "routed"||'


# Validation


async def failure_of(handler: Any, **options: Any) -> tuple[BaseException | None, bytes]:
    async with serving(handler, **options) as (app, _), connect(app) as client:
        failure = await client.finished()
        return cause(failure), client.body


@pytest.mark.parametrize(
    ("annotation", "first", "item"),
    [
        (Progress, Progress(1), Done()),
        (Progress, Progress(1), "text"),
        (Progress, Progress(1), "é"),
        (Progress, Progress(1), {"percent": 1}),
        (Progress, Progress(1), SSEMessage("x")),
        (Progress, Progress(1), SSEMessage(event="progress")),
        (Progress, Progress(1), Frame("data: x\n\n")),
        (Progress, Progress(1), 5),
        (Or[Done], Progress(1), 5),
        (int, 1, 0.5),
        (str, "a", b"b"),
        (Note, Note("a"), Point(1)),
        (SSEMessage[Progress], SSEMessage(Progress(1)), SSEMessage(Done())),
        (SSEMessage[Progress], SSEMessage(Progress(1)), Progress(1)),
        (SSEMessage[Progress], SSEMessage(comment="x"), SSEMessage("x")),
    ],
)
async def test_item_that_the_annotation_does_not_name_is_refused(annotation: Any, first: object, item: object) -> None:
    """By an error that the log shows, and of which the client learns nothing."""
    failure, body = await failure_of(returning(annotation, first, item, first))
    assert isinstance(failure, UndeclaredEventError)
    assert isinstance(failure, SSEError)
    assert "validate=False" in str(failure)
    assert "feed yielded a " in str(failure)
    assert body.count(b"\r\n\r\n") == 1
    assert b"Undeclared" not in body


TYPED_BY_A_LOG = [Progress | Done, SSEMessage[Progress | Done], Progress | Done | SSEMessage[Plain], SSEMessage, Any]


@pytest.mark.parametrize("annotation", TYPED_BY_A_LOG, ids=str)
@pytest.mark.parametrize("validate", [True, False])
async def test_what_a_log_has_stored_is_typed_by_its_events_type(annotation: Any, validate: bool) -> None:
    """It comes as text, which is taken for what was declared by that name; and so do the log's own events."""
    log = MemoryEventLog()
    await log.append("job", Progress(50))
    await log.append("job", SSEMessage(Done()))
    await log.finish("job")

    async def feed():  # type: ignore[no-untyped-def]
        async for message in log.subscribe("job", start="oldest"):
            yield SSEMessage(message.data, message.event)

    feed.__annotations__["return"] = AsyncIterator[annotation]
    async with serving(sse("/", validate=validate)(feed)) as (app, _):
        assert (await request(app)).body.decode().replace("\r", "") == (
            'event: progress\ndata: {"type":"progress","percent":50}\n\n'
            'event: done\ndata: {"type":"done"}\n\n'
            'event: finished\ndata: {"topic":"job"}\n\n'
        )


@pytest.mark.parametrize("annotation", [Progress | Done, SSEMessage[Progress]])
@pytest.mark.parametrize(
    "message", [SSEMessage("50"), SSEMessage("50", "between"), SSEMessage(Plain(1), "progress"), SSEMessage(50, "done")]
)
async def test_message_that_no_log_can_have_sent_for_the_annotation_is_refused(
    annotation: Any, message: SSEMessage
) -> None:
    """Text without a name that was declared, and other types than were declared by that name."""

    async def feed():  # type: ignore[no-untyped-def]
        yield message

    feed.__annotations__["return"] = AsyncIterator[annotation]
    async with serving(sse("/", validate=True, prefetch=0)(feed)) as (app, _), connect(app) as client:
        assert isinstance(cause(await client.finished()), UndeclaredEventError)


@pytest.mark.parametrize("name", sorted(SOURCE_EVENTS))
async def test_events_of_sources_may_stand_beside_what_is_declared(name: str) -> None:
    """They are no types of the application's."""

    @sse("/", validate=True)
    async def feed() -> AsyncIterator[Progress | SSEMessage[Done]]:
        yield SSEMessage({"of": "a source"}, name)  # type: ignore[arg-type]

    async with serving(feed) as (app, _):
        assert (await request(app)).body == f'event: {name}\r\ndata: {{"of":"a source"}}\r\n\r\n'.encode()


def test_all_events_of_sources_are_known() -> None:
    """By the names that the sources have for them."""
    assert {RESET, DROPPED, SUBSCRIBED, FINISHED, CAUGHT_UP, GAP} == SOURCE_EVENTS


@pytest.mark.parametrize(("debug", "refused"), [(True, True), (False, False)])
async def test_validation_is_on_in_debug_mode_unless_told(debug: bool, refused: bool) -> None:
    """Where an application is developed; what is yielded elsewhere is sent as it can be."""
    handler = returning(Progress | None if False else Progress, Progress(1), Done(), "text", {"a": 1}, validate=None)
    failure, body = await failure_of(handler, debug=debug)
    assert isinstance(failure, UndeclaredEventError) is refused
    if not refused:
        assert body.decode().endswith(
            'event: done\r\ndata: {"type":"done"}\r\n\r\ndata: text\r\n\r\ndata: {"a":1}\r\n\r\n'
        )


async def test_validation_can_be_switched_off() -> None:
    """In debug mode too."""
    failure, body = await failure_of(returning(Progress, Progress(1), "text", validate=False), debug=True)
    assert failure is None
    assert body.endswith(b"data: text\r\n\r\n")


@pytest.mark.parametrize("item", [Forging(), Surrogate(), SSEMessage(Forging()), SSEMessage(Surrogate())])
async def test_tag_that_is_no_events_type_is_refused(item: object) -> None:
    """Where the annotation does not name its type: with a line break in it, one item would make several events."""
    failure, body = await failure_of(returning(Any, "text", item))
    assert isinstance(failure, InvalidFieldError)
    assert failure.field == "event"
    assert body.endswith(b"data: text\r\n\r\n")


async def test_first_item_that_is_refused_is_a_server_error() -> None:
    """It is ahead of the headers."""
    async with serving(returning(Progress, Done())) as (app, _):
        response = await request(app)
        assert response.status == 500
        assert b"Done" not in response.body


def test_a_large_message_is_not_kept() -> None:
    """What has been encoded for one stream is not held in memory for those that may never come."""
    declared = Declared(AsyncIterator[SSEMessage[Annotated[str, Event("file")]]], "here")
    encoder, size = TypedEncoder(declared, validate=True, transforms={}), 10_000_000
    tracemalloc.start()
    try:
        assert encoder.encode(SSEMessage("x" * size)).startswith(b"event: file\r\ndata: x")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > size > 100 * kept


async def test_more_types_than_are_remembered() -> None:
    """They are sent as the others are."""
    types = [dataclasses.make_dataclass(f"Type{number}", ["x"]) for number in range(100)]
    body = await body_of(returning(Any, *[kind(number) for number, kind in enumerate(types)] * 2))
    assert body == "".join(f'data: {{"x":{number}}}||' for number in range(100)) * 2


# What is refused at the start


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (None, "must be without None"),
        (Progress | None, "must be without None"),
        (
            Annotated[Note, Event("x")] | Annotated[Plain, Event("x")],
            "must give the name 'x' to one type, not to Note and",
        ),
        (Progress | Annotated[Note, Event("progress")], "must give the name 'progress' to one type"),
        (
            Annotated[Row, Event("a")] | Annotated[OtherRow, Event("b")],
            "items of the class dict one name, not 'a' and 'b'",
        ),
        (Annotated[str, Event("a")] | str, "items of the class str one name, not 'a' and no name"),
        (SSEMessage[Annotated[Note, Event("a")]] | Note, "items of the class Note one name, not no name and 'a'"),
        (Annotated[Note, Event("message")] | Plain, "must not use the name 'message' beside events without a name"),
        (Annotated[Note, Event("a"), Event("b")], "must give a type one name, not 'a' and 'b'"),
        (Annotated[Annotated[Note, Event("a")] | Plain, Event("b")], "must give a type one name, not 'a' and 'b'"),
        (Forging, "the tag of Forging must be one line"),
        (Progress | SSEMessage[Surrogate], r"the tag of Surrogate must be text that UTF-8 can encode, .* U\+D800"),
    ],
)
def test_events_that_could_not_be_told_apart_are_refused(annotation: Any, message: str) -> None:
    """When the application starts, naming the handler and the remedy."""
    with pytest.raises(InvalidFieldError, match=f"return annotation of .*feed: .*{message}"):
        make_app(returning(annotation))


@pytest.mark.parametrize("annotation", [HasPercent, Progress | SSEMessage[HasPercent]])
@pytest.mark.parametrize("validate", [True, False])
def test_type_that_no_item_can_be_looked_at_for_is_refused(annotation: Any, validate: bool) -> None:
    """As a protocol is: not only when the first item comes."""
    with pytest.raises(InvalidFieldError, match=r"must name types that issubclass\(\) takes, not HasPercent"):
        make_app(returning(annotation, validate=validate))


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", 5, None, "\ud800"])
def test_name_of_an_event_is_one_line(name: Any) -> None:
    """It is checked where it is given."""
    with pytest.raises(InvalidFieldError, match="invalid name: must be"):
        Event(name)


# DTOs


@dataclass
class User:
    name: str
    password: str


class PublicUser(DataclassDTO[User]):
    config = DTOConfig(exclude={"password"})


@pytest.mark.parametrize("where", ["handler", "router", "app"])
async def test_dto_makes_what_is_sent(where: str) -> None:
    """Of the items of its type, and of what messages carry; the others are as they were."""
    items = User("a", "secret"), "text", SSEMessage(User("b", "secret"), id=1)
    annotation = Annotated[User, Event("user")] | str | SSEMessage[Annotated[User, Event("user")]]
    options: dict[str, Any] = {"return_dto": PublicUser}
    handler = returning(annotation, *items, **(options if where == "handler" else {}))
    layer = Router("/", route_handlers=[handler], **(options if where == "router" else {}))
    body = await body_of(layer, **(options if where == "app" else {}))
    assert body == 'event: user|data: {"name":"a"}||data: text||id: 1|event: user|data: {"name":"b"}||'


class AnonymousUser(DataclassDTO[User]):
    config = DTOConfig(exclude={"name"})


async def test_dto_of_the_nearest_layer_makes_what_is_sent() -> None:
    """That of a controller goes before those of the layers around it."""

    class Users(Controller):
        path = "/"
        return_dto = PublicUser

        @sse()
        async def users(self) -> AsyncIterator[User]:
            yield User("a", "secret")

    layer = Router("/", route_handlers=[Users], return_dto=AnonymousUser)
    assert await body_of(layer, return_dto=AnonymousUser) == 'data: {"name":"a"}||'


async def test_no_dto_of_a_layer_if_the_handler_wants_none() -> None:
    """``None`` is a choice."""
    router = Router("/", route_handlers=[returning(User, User("a", "p"), return_dto=None)], return_dto=PublicUser)
    assert await body_of(router) == 'data: {"name":"a","password":"p"}||'


def test_dto_that_is_for_none_of_the_events_is_refused() -> None:
    """At the start, naming the handler."""
    with pytest.raises(InvalidFieldError, match=r"invalid return_dto: must be for a type that the .* of .*feed names"):
        make_app(returning(Progress, return_dto=PublicUser))
