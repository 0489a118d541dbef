"""Litestar's own cases for ``ServerSentEvent``, run with its class and with ours, as another decoder sees them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
import httpx
import httpx_sse
import pytest
from litestar import Litestar, get
from litestar.config.cors import CORSConfig
from litestar.exceptions import ImproperlyConfiguredException, LitestarException
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.testing import AsyncTestClient
from litestar.types import SSEData

from litestar_safe_sse import InvalidFieldError, SafeServerSentEvent, SafeSSEPlugin, SSEMessage
from tests.litestar.apps import PLAIN
from tests.litestar.clients import Connection, connect
from tests.litestar.clients import get as request

if TYPE_CHECKING:
    from litestar.params import FromPath
else:
    try:
        from litestar.params import FromPath
    except ImportError:  # before Litestar 2.23
        FromPath = Annotated[TypeVar("T"), "a path parameter"]

pytestmark = pytest.mark.anyio

CLASSES = [ServerSentEvent, SafeServerSentEvent]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Event(NamedTuple):
    """What a client is given."""

    event: str
    data: str
    id: str
    retry: int | None


def decode(response: Connection) -> list[Event]:
    """Decodes a whole response with httpx-sse."""
    received = httpx.Response(response.status, headers=response.header_list, content=response.body)
    events = httpx_sse.EventSource(received).iter_sse()
    return [Event(event.event, event.data, event.id, event.retry) for event in events]


def make_app(response_class: Any, make_response: Callable[[], Any], **options: Any) -> Litestar:
    async def handler() -> Any:
        return make_response()

    options = {**PLAIN, **options}
    return Litestar([get("/")(returning(response_class, handler))], plugins=[SafeSSEPlugin()], **options)


async def respond(response_class: Any, content: Callable[[], Any], **parameters: Any) -> Connection:
    return await request(make_app(response_class, lambda: response_class(content(), **parameters)))


def returning(response_class: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Annotates a function's return, as Litestar takes the media type of its own class from there."""
    function.__annotations__["return"] = response_class
    return function


# The same


def five(make: Callable[[int], Any]) -> Callable[[], AsyncIterator[Any]]:
    async def numbers() -> AsyncIterator[Any]:
        for number in range(1, 6):
            await anyio.lowlevel.checkpoint()
            yield make(number)

    return numbers


async def two_kinds() -> AsyncIterator[SSEData]:
    for number in range(1, 6):
        yield {"data": number, "event": "event1", "retry": 1000}
        yield {"data": 2 * number, "event": "event2", "retry": 10}


async def every_kind() -> AsyncIterator[SSEData]:
    for count in range(1, 11):
        await anyio.lowlevel.checkpoint()
        yield count
        yield str(count)
        yield str(count).encode()
        yield {"data": 2 * count, "event": "event2", "retry": 10}
        yield ServerSentEventMessage(event="something-with-comment", retry=1000, comment="some comment")


def sync_numbers() -> Iterator[str]:
    yield from map(str, range(1, 6))


class Numbers:
    """An async iterable that is no iterator."""

    def __aiter__(self) -> AsyncIterator[str]:
        return five(str)()


class Countdown:
    """An async iterator that is no generator."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


DEFAULTS: dict[str, Any] = {"event_type": "special", "event_id": "123", "retry_duration": 1000}

SAME: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "integers": (five(int), DEFAULTS),
    "strings": (five(str), DEFAULTS),
    "bytes": (five(lambda number: str(number).encode()), DEFAULTS),
    "dicts": (five(lambda number: {"data": number, "event": "special", "retry": 1000}), DEFAULTS),
    "dicts of two kinds": (two_kinds, DEFAULTS),
    "messages": (five(lambda number: ServerSentEventMessage(data=number, event="special", retry=1000)), DEFAULTS),
    "empty messages": (five(lambda _: ServerSentEventMessage(event="something-empty", retry=1000)), DEFAULTS),
    "messages with comments": (
        five(lambda _: ServerSentEventMessage(event="with-comment", retry=1000, comment="some comment")),
        DEFAULTS,
    ),
    "messages with an id": (five(lambda number: ServerSentEventMessage(data="x", id=number)), {}),
    "messages with a separator": (five(lambda _: ServerSentEventMessage(data="a\nb", id=1, sep="\n")), {}),
    "dict with an event only": (five(lambda _: {"event": "ping"}), {}),
    "every kind": (every_kind, {}),
    "sync generator": (sync_numbers, DEFAULTS),
    "list": (lambda: ["a", 1, b"b"], {}),
    "tuple": (lambda: ("a", "b"), {}),
    "iterator": (lambda: iter(["a", "b"]), {}),
    "async iterable": (Numbers, {}),
    "async iterator": (Countdown, {}),
    "callable": (lambda: five(str), DEFAULTS),
    "callable of a sync generator": (lambda: sync_numbers, {}),
    "one string": (lambda: "hello", {}),
    "one string of bytes": (lambda: b"hello", {}),
    "empty string": (lambda: "", {}),
    "nothing": (list, {}),
    "nothing, with defaults": (list, DEFAULTS),
    "lines": (lambda: ["a\nb\r\nc\rd", "\n", "a\n", " x", ""], {}),
    "other line breaks": (lambda: ["a\u2028b\u2029c\u0085d\x0be\x0cf"], {}),
    "not ASCII": (lambda: ["é€😀", "\ufeffbom"], {}),
    "id of zero": (lambda: ["x"], {"event_id": 0}),
    "retry of zero": (lambda: ["x"], {"retry_duration": 0}),
    "comment of the response": (lambda: ["x"], {"comment_message": "hello\nworld"}),
    "empty id": (lambda: [{"data": "a", "id": 1}, {"data": "b", "id": ""}, {"data": "c"}], {}),
    "colons": (lambda: [": no comment", "data: x", {"data": "x", "event": "a: b", "id": ":c"}], {}),
}


@pytest.mark.parametrize("name", SAME)
async def test_client_sees_the_same(name: str) -> None:
    """With the class swapped, an independent decoder sees the same events, and the response is as complete."""
    content, parameters = SAME[name]
    theirs = await respond(ServerSentEvent, content, **parameters)
    ours = await respond(SafeServerSentEvent, content, **parameters)
    assert decode(ours) == decode(theirs)
    assert ours.complete
    assert theirs.complete
    assert ours.status == theirs.status
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize("response_class", CLASSES)
async def test_defaults_of_the_response(response_class: Any) -> None:
    """Type, ID and reconnection time given to the response are those of its events."""
    response = await respond(response_class, sync_numbers, **DEFAULTS)
    assert decode(response) == [Event("special", str(number), "123", 1000) for number in range(1, 6)]


@pytest.mark.parametrize("response_class", CLASSES)
async def test_documented_example(response_class: Any) -> None:
    """The documentation's example has fifty events, five kinds of item taking turns."""
    events = decode(await respond(response_class, every_kind))
    assert len(events) == 50
    assert events[:5] == [
        Event("message", "1", "", None),
        Event("message", "1", "", None),
        Event("message", "1", "", None),
        Event("event2", "2", "", 10),
        Event("something-with-comment", "", "", 1000),
    ]


@pytest.mark.parametrize("response_class", CLASSES)
async def test_documented_example_in_litestars_test_client(response_class: Any) -> None:
    """The documentation's way to test a stream, httpx-sse on ``AsyncTestClient``, works."""
    app = make_app(response_class, lambda: response_class(every_kind()))
    async with (
        AsyncTestClient(app) as client,
        httpx_sse.aconnect_sse(client, "GET", f"{client.base_url}/") as source,
    ):
        assert len([event async for event in source.aiter_sse()]) == 50


@pytest.mark.parametrize("response_class", CLASSES)
async def test_sync_handler(response_class: Any) -> None:
    """A sync handler, as in the documentation, can return a stream."""

    def function() -> Any:
        return response_class(every_kind())

    handler = get("/count", sync_to_thread=False)(returning(response_class, function))

    app = Litestar([handler], plugins=[SafeSSEPlugin()], **PLAIN)
    assert len(decode(await request(app, "/count"))) == 50


@pytest.mark.parametrize("response_class", CLASSES)
async def test_example_with_a_topic_in_the_path(response_class: Any) -> None:
    """The example that is tested in a subprocess sends the topic of its path twice, with the response's type."""

    async def notifications(topic: str) -> AsyncIterator[SSEData]:
        for _ in range(2):
            yield topic

    async def function(topic: FromPath[str]) -> Any:
        return response_class(notifications(topic), event_type="Notifier")

    handler = get("/notify/{topic:str}")(returning(response_class, function))
    app = Litestar([handler], plugins=[SafeSSEPlugin()], **PLAIN)
    assert decode(await request(app, "/notify/cats")) == [Event("Notifier", "cats", "", None)] * 2


@pytest.mark.parametrize("response_class", CLASSES)
async def test_event_without_data_across_origins(response_class: Any) -> None:
    """An event that has a type and no data reaches a page of another origin."""
    app = make_app(
        response_class,
        lambda: response_class(iter([ServerSentEventMessage(event="empty")])),
        cors_config=CORSConfig(allow_origins=["*"]),
    )
    response = await request(app, headers=[("origin", "https://other.example")])
    assert response.headers["access-control-allow-origin"] == "*"
    assert decode(response) == [Event("empty", "", "", None)]


@pytest.mark.parametrize("response_class", CLASSES)
async def test_background_headers_cookies_and_status(response_class: Any) -> None:
    """What every response takes is taken, and does the same."""
    from litestar.background_tasks import BackgroundTask

    ran: list[str] = []
    response = await respond(
        response_class,
        lambda: ["x"],
        background=BackgroundTask(ran.append, "background"),
        cookies={"a": "b"},
        headers={"X-A": "b"},
        status_code=202,
        encoding="utf-8",
    )
    assert response.status == 202
    assert response.headers["x-a"] == "b"
    assert response.headers["set-cookie"].startswith("a=b")
    assert ran == ["background"]


def test_parameters_are_a_superset() -> None:
    """Every parameter of Litestar's class is one of ours, of the same kind and with the same default."""
    theirs = inspect.signature(ServerSentEvent).parameters
    ours = inspect.signature(SafeServerSentEvent).parameters
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind
        if name != "ping_interval":  # which Litestar 3 has as well; ours defaults to the plugin's
            assert ours[name].default == parameter.default


# Heartbeats


async def test_idle_stream_has_heartbeats_that_are_comments() -> None:
    """While a body waits, comments are sent; no client takes them for events."""
    go_on = anyio.Event()

    async def body() -> AsyncIterator[str]:
        await go_on.wait()
        yield "done"

    app = make_app(SafeServerSentEvent, lambda: SafeServerSentEvent(body(), ping_interval=0.02))
    async with connect(app) as connection:
        await connection.until_body(b":\r\n: ping\r\n: ping\r\n")
        go_on.set()
        await connection.finished()
    assert b"event:" not in connection.body
    assert decode(connection) == [Event("message", "done", "", None)]


async def test_heartbeats_between_events_break_none() -> None:
    """Heartbeats among many events leave each event whole and in its place."""

    async def body() -> AsyncIterator[str]:
        for number in range(20):
            await anyio.sleep(0.005)
            yield str(number)

    app = make_app(SafeServerSentEvent, lambda: SafeServerSentEvent(body(), ping_interval=0.002))
    connection = await request(app)
    assert b": ping" in connection.body
    assert [event.data for event in decode(connection)] == [str(number) for number in range(20)]


@pytest.mark.parametrize("content", [list, lambda: ["data1", "data2"]])
async def test_short_stream_has_no_heartbeats(content: Callable[[], Any]) -> None:
    """A stream that ends before a heartbeat is due has none, and ends at once."""
    response = await respond(SafeServerSentEvent, content, ping_interval=99999)
    assert b": ping" not in response.body
    assert len(decode(response)) == len(content())


@pytest.mark.parametrize("interval", [0, -1])
def test_heartbeat_interval_is_checked(interval: float) -> None:
    """An interval that is not positive is refused where the response is made."""
    with pytest.raises(InvalidFieldError, match="ping_interval"):
        SafeServerSentEvent(["x"], ping_interval=interval)


# The deliberate differences


async def both(content: Callable[[], Any], **parameters: Any) -> tuple[list[Event], list[Event]]:
    theirs = await respond(ServerSentEvent, content, **parameters)
    ours = await respond(SafeServerSentEvent, content, **parameters)
    return decode(theirs), decode(ours)


@pytest.mark.parametrize("item", [{"comment": "ping"}, {"id": "5"}, {"retry": 10}])
async def test_fields_without_data_are_no_event(item: dict[str, Any]) -> None:
    """Comment, ID or reconnection time on their own are sent without data; Litestar's fire an empty event."""
    theirs = await respond(ServerSentEvent, lambda: [item.copy()])
    ours = await respond(SafeServerSentEvent, lambda: [item.copy()])
    assert b"data:" in theirs.body
    assert b"data:" not in ours.body


@pytest.mark.parametrize(
    ("data", "theirs", "ours"),
    [
        (True, "True", "true"),
        ([1, "a"], "[1, 'a']", '[1,"a"]'),
        ({"a": None}, "{'a': None}", '{"a":null}'),
        (1.5, "1.5", "1.5"),
    ],
)
async def test_objects_are_json(data: Any, theirs: str, ours: str) -> None:
    """Data that is no text is sent as JSON; Litestar sends Python's notation."""
    assert [[event.data for event in events] for events in await both(lambda: [{"data": data}])] == [[theirs], [ours]]


async def test_yielded_list_is_json() -> None:
    """An object that is yielded is sent as JSON; Litestar sends Python's notation."""
    theirs, ours = await both(lambda: [["a", 1]])
    assert [event.data for event in theirs] == ["['a', 1]"]
    assert [event.data for event in ours] == ['["a",1]']


async def test_dict_as_content_is_one_event() -> None:
    """A dict given as the content is one event's fields; Litestar iterates over its keys."""
    theirs, ours = await both(lambda: {"data": "x", "event": "y"})
    assert [event.data for event in theirs] == ["data", "event"]
    assert ours == [Event("y", "x", "", None)]


async def test_defaults_complete_each_event() -> None:
    """The response's type completes every event that has none; Litestar's misses dicts and messages but the first."""
    theirs, ours = await both(lambda: [{"data": 1}, {"data": 2}, ServerSentEventMessage(3)], event_type="special")
    assert [event.event for event in theirs] == ["special", "message", "message"]
    assert [event.event for event in ours] == ["special"] * 3


async def test_yielded_dict_is_left_as_it_is() -> None:
    """A dict that is yielded is not changed; Litestar adds a key to it."""
    item: dict[str, Any] = {"data": 1}
    await respond(SafeServerSentEvent, lambda: [item])
    assert item == {"data": 1}
    await respond(ServerSentEvent, lambda: [item])
    assert item != {"data": 1}


async def test_message_of_ours_is_new() -> None:
    """Our ``SSEMessage`` can say what Litestar's message cannot: null as data, and a comment without an event."""
    ours = await respond(SafeServerSentEvent, lambda: [SSEMessage(None), SSEMessage(comment="ping"), SSEMessage("x")])
    assert [event.data for event in decode(ours)] == ["null", "x"]


REFUSED: dict[str, tuple[Any, bytes]] = {
    # name: (item, what Litestar's class writes)
    "line break in an event": (ServerSentEventMessage("x", event="a\nb"), b"event: ab"),
    "line break in an id": ({"data": "x", "id": "a\r\nb"}, b"id: ab"),
    "NUL in an id": ({"data": "x", "id": "a\0b"}, b"id: a\0b"),
    "negative retry": ({"data": "x", "retry": -1}, b"retry: -1"),
    "fractional retry": ({"data": "x", "retry": 1.5}, b"retry: 1.5"),
    "boolean retry": ({"data": "x", "retry": True}, b"retry: True"),
    "text in a retry": ({"data": "x", "retry": "5\ndata: forged"}, b"retry: 5\ndata: forged"),
    "other separator": (ServerSentEventMessage("x", sep="X"), b"data: xX"),
    "None": (None, b""),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_sent_is_refused(name: str) -> None:
    """What a field cannot carry is refused by name, before a byte of it; Litestar strips or injects it."""
    item, written = REFUSED[name]
    theirs = await respond(ServerSentEvent, lambda: [item.copy() if isinstance(item, dict) else item])
    assert written in theirs.body
    async with connect(make_app(SafeServerSentEvent, lambda: SafeServerSentEvent(["before", item]))) as ours:
        failure = await ours.finished()
    while isinstance(failure, LitestarException):
        failure = failure.__cause__
    assert isinstance(failure, InvalidFieldError)
    assert ours.body == b"data: before\r\n\r\n"
    assert not ours.complete


@pytest.mark.parametrize(
    ("parameters", "forged"),
    [
        ({"event_type": "a\ndata: forged\n\n"}, "forged"),
        ({"event_id": "1\ndata: forged\n\n"}, "forged"),
        ({"retry_duration": "5\ndata: forged\n\n"}, "forged"),
    ],
)
async def test_defaults_cannot_forge_an_event(parameters: dict[str, Any], forged: str) -> None:
    """The response's own type, ID and retry are refused if they hold more; Litestar lets a forged event through."""
    theirs = decode(await respond(ServerSentEvent, lambda: ["x"], **parameters))
    assert forged in theirs[0].data
    with pytest.raises(InvalidFieldError):
        SafeServerSentEvent(["x"], **parameters)


async def test_object_as_content() -> None:
    """An object is one event, if it can be encoded when its turn comes; Litestar refuses it at once."""
    with pytest.raises(ImproperlyConfiguredException):
        ServerSentEvent(object())  # type: ignore[arg-type]

    class Odd:
        pass

    ours = await respond(SafeServerSentEvent, Odd, type_encoders={Odd: lambda _: "odd"})
    assert [event.data for event in decode(ours)] == ['"odd"']


async def test_headers_that_differ() -> None:
    """``Connection`` is the server's business (RFC 9113, 8.2.2), and proxies are told not to transform."""
    theirs = await respond(ServerSentEvent, lambda: ["x"])
    ours = await respond(SafeServerSentEvent, lambda: ["x"])
    assert theirs.headers["connection"] == "keep-alive"
    assert "connection" not in ours.headers
    assert theirs.headers["cache-control"] == "no-cache"
    assert ours.headers["cache-control"] == "no-cache, no-transform"
    names = set(ours.headers) | {"connection"}
    assert set(theirs.headers) == names
