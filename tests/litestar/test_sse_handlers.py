"""``@sse``: the handler is the generator, with all that handlers of Litestar have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Controller, Litestar, Request, Response, Router, get
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.datastructures import ResponseHeader
from litestar.exceptions import HTTPException, ImproperlyConfiguredException, NotAuthorizedException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.middleware import DefineMiddleware

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    MissingPluginError,
    SafeServerSentEvent,
    StreamContext,
    sse,
)
from litestar_safe_sse._options import HandlerOptions, ResponseOptions
from litestar_safe_sse.handlers import SSERouteHandler
from tests.bounds import NEVER
from tests.litestar.apps import (
    PLAIN,
    ClassMiddleware,
    FromPath,
    FromQuery,
    JSONBody,
    NamedDependency,
    cause,
    cleaned,
    closed,
    make_app,
    serving,
)
from tests.litestar.bodies import Trace
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


@dataclass
class Question:
    text: str


# Where it may stand, and what it is answered


@sse("/ticks")
async def ticks(count: FromQuery[int] = 2) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@sse("/threaded")
def threaded() -> Iterator[str]:
    yield "from"
    yield "a thread"


class Feeds(Controller):
    path = "/feeds"

    @sse("/{name:str}")
    async def feed(self, name: FromPath[str]) -> AsyncIterator[str]:
        yield f"{type(self).__name__} {name}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ticks?count=3", "data: 0|data: 1|data: 2|"),
        ("/threaded", "data: from|data: a thread|"),
        ("/feeds/news", "data: Feeds news|"),
        ("/router/ticks", "data: 0|data: 1|"),
    ],
)
async def test_generator_is_a_handler_wherever_handlers_are(path: str, body: str) -> None:
    """On an application, a controller and a router; async or sync."""
    async with serving(ticks, threaded, Feeds, Router("/router", route_handlers=[ticks])) as (app, streams):
        response = await request(app, path)
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert response.body.decode().replace("\r\n\r\n", "|") == body
        assert response.complete
        assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_body_of_a_request_and_200_to_post() -> None:
    """A stream from POST is no resource that was created."""

    @sse("/", method="POST")
    async def answer(data: JSONBody[Question]) -> AsyncIterator[str]:
        yield data.text.upper()

    async with serving(answer) as (app, _):
        response = await request(app, method="POST", chunks=[b'{"text":', b'"why"}'])
        assert (response.status, response.body) == (200, b"data: WHY\r\n\r\n")
        assert (await request(app)).status == 405
        refused = await request(app, method="POST", chunks=[b"{}"])
        assert (refused.status, refused.headers["content-type"]) == (400, "application/json")


@pytest.mark.parametrize("method", [["GET", "HEAD"], ("get", "head")])
async def test_head_never_starts_the_generator(trace: Trace, method: Any) -> None:
    """It is answered with the headers."""

    @sse("/", method=method)
    async def feed() -> AsyncIterator[str]:
        trace.append("began")
        yield "x"

    async with serving(feed) as (app, _):
        response = await request(app, method="HEAD")
        assert (response.status, response.body) == (200, b"")
        assert trace == []
        assert (await request(app)).body == b"data: x\r\n\r\n"


async def test_parameters_dependencies_guards_middleware_and_hooks(trace: Trace) -> None:
    """All of them have their part, in their order."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        trace.append(f"guard of {handler.opt['room']}")
        if "key" not in connection.query_params:
            raise NotAuthorizedException("no key")

    async def before_request(request: Request[Any, Any, Any]) -> None:
        trace.append("before_request")

    async def after_request(response: Response[Any]) -> Response[Any]:
        trace.append("after_request")
        response.headers["X-After"] = "yes"
        return response

    async def after_response(request: Request[Any, Any, Any]) -> None:
        trace.append("after_response")

    async def provide_user(key: FromQuery[str]) -> str:
        trace.append("dependency")
        return f"user {key}"

    async def later() -> None:
        trace.append("background")

    @sse(
        "/{room:int}",
        after_request=after_request,
        after_response=after_response,
        background=BackgroundTask(later),
        before_request=before_request,
        dependencies={"user": provide_user},
        guards=[guard],
        middleware=[DefineMiddleware(ClassMiddleware)],
        opt={"room": "the room"},
        response_headers=[ResponseHeader(name="X-Layer", value="one")],
        headers={"X-Own": "two"},
        name="room",
    )
    async def feed(room: FromPath[int], user: NamedDependency[str], stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        trace.append("body")
        yield f"{user} in {room}"

    async with serving(feed) as (app, _):
        app.state.trace = trace
        assert (await request(app, "/5")).status == 401
        trace.clear()
        response = await request(app, "/5?key=k")
        assert response.body == b"data: user k in 5\r\n\r\n"
        assert {"x-after", "x-layer", "x-own"} <= response.headers.keys()
        assert app.route_reverse("room", room=5) == "/5"
    assert trace == [
        *("middleware", "guard of the room", "before_request", "dependency", "after_request", "body"),
        *("cleaned: completed", "background", "after_response"),
    ]


async def test_what_a_before_request_hook_answers_is_the_answer(trace: Trace) -> None:
    """The generator is never called."""

    async def before_request(request: Request[Any, Any, Any]) -> Response[str]:
        return Response("instead", status_code=202, media_type="text/plain")

    @sse("/", before_request=before_request)
    async def feed() -> AsyncIterator[str]:
        trace.append("began")
        yield "x"

    async with serving(feed) as (app, _):
        response = await request(app)
        assert (response.status, response.body) == (202, b"instead")
        assert trace == []


async def test_options_of_the_response() -> None:
    """Those of ``SafeServerSentEvent``, by their names."""

    @sse(
        "/",
        event_type="tick",
        event_id=7,
        retry_duration=50,
        separator="\n",
        cookies={"seen": "yes"},
        status_code=206,
        ping_interval=None,
    )
    async def feed() -> AsyncIterator[str]:
        yield "x"

    async with serving(feed) as (app, _):
        response = await request(app)
        assert response.status == 206
        assert response.body == b"id: 7\nevent: tick\ndata: x\nretry: 50\n\n"
        assert response.headers["set-cookie"].startswith("seen=yes")


def test_it_takes_every_option_of_a_response_and_of_a_handler() -> None:
    """Those of handlers that mean nothing to a stream are left out, and each has its reason."""
    meaningless = {
        *("cache", "cache_key_builder"),  # a stream cannot be cached
        *("content_encoding", "content_media_type", "media_type", "response_class"),  # it is one of events
        "sync_to_thread",  # a sync generator always has a thread
        *("http_method", "path"),  # parameters of their own
    }
    of_handlers = inspect.signature(HTTPRouteHandler.__init__).parameters.keys() - {
        "self",
        "kwargs",
        "fn",
        "parameters",
    }
    assert HandlerOptions.__annotations__.keys() - {"signature_types"} == of_handlers - meaningless
    of_responses = inspect.signature(SafeServerSentEvent.__init__).parameters.keys() - {"self", "content"}
    assert of_responses <= ResponseOptions.__annotations__.keys() | HandlerOptions.__annotations__.keys()


def test_handler_keeps_its_function() -> None:
    """It can be called as it is, in a test of its own."""
    assert isinstance(ticks, SSERouteHandler)
    assert inspect.isasyncgen(ticks.fn(count=1))


async def test_function_may_be_wrapped() -> None:
    """By whoever keeps it known as what it is, or as a partial."""

    def shouting(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapped

    async def feed(word: FromQuery[str] = "x") -> AsyncIterator[str]:
        yield word

    handlers = [sse("/wrapped")(shouting(feed)), sse("/partial")(functools.partial(feed))]
    async with serving(*handlers) as (app, _):
        assert (await request(app, "/wrapped")).body == b"data: x\r\n\r\n"
        assert (await request(app, "/partial?word=y")).body == b"data: y\r\n\r\n"


def test_without_the_plugin() -> None:
    """The application is refused, with the handler and the remedy."""
    with pytest.raises(MissingPluginError, match=r"the handler .*ticks needs its plugin: .*plugins=\[SafeSSEPlugin"):
        Litestar([ticks], **PLAIN)


# Prefetching the first event


class Full(HTTPException):
    status_code = 429


class BrokenError(Exception):
    """Has a handler of its own."""


def answer_broken(request: Request[Any, Any, Any], error: BrokenError) -> Response[dict[str, str]]:
    return Response({"broken": str(error)}, status_code=503)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotAuthorizedException("who?"), 401, b"who?"),
        (Full("come back later"), 429, b"come back later"),
        (BrokenError("pipe"), 503, b'{"broken":"pipe"}'),
        (LookupError("secret"), 500, b"Internal Server Error"),
    ],
)
@pytest.mark.parametrize("sync", [False, True])
async def test_exception_ahead_of_the_first_event_is_answered(
    trace: Trace, error: Exception, status: int, text: bytes, sync: bool
) -> None:
    """By Litestar's exception handlers, once everything is cleaned up; background tasks are not of this answer."""

    async def later() -> None:
        trace.append("background")

    options: dict[str, Any] = {"background": BackgroundTask(later), "exception_handlers": {BrokenError: answer_broken}}

    @sse("/", **options)
    async def feed(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        try:
            await anyio.lowlevel.checkpoint()
            raise error
            yield "never"
        finally:
            trace.append("body ends")

    @sse("/", **options)
    def threaded_feed(stream: StreamContext) -> Iterator[str]:
        cleaned(trace, stream)
        try:
            raise error
            yield "never"
        finally:
            trace.append("body ends")

    async with serving(threaded_feed if sync else feed) as (app, streams):
        response = await request(app)
        assert (response.status, response.headers["content-type"]) == (status, "application/json")
        assert text in response.body
        assert trace == ["body ends", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_exception_behind_the_first_event_cuts_the_stream(trace: Trace) -> None:
    """As in every stream: the client has its headers."""

    @sse("/")
    async def feed(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        yield "one"
        raise NotAuthorizedException("too late")

    async with serving(feed) as (app, _), connect(app) as client:
        failure = cause(await client.finished())
        assert isinstance(failure, NotAuthorizedException)
        assert (client.status, client.body, client.complete) == (200, b"data: one\r\n\r\n", False)
    assert trace == ["cleaned: error"]


async def test_headers_wait_no_longer_than_they_are_to(trace: Trace) -> None:
    """``onopen`` is not held up by a source that has nothing yet."""
    go_on = anyio.Event()

    @sse("/", prefetch=0.01)
    async def feed() -> AsyncIterator[str]:
        await go_on.wait()
        yield "late"

    async with serving(feed) as (app, _), connect(app) as client:
        await client.until(lambda: client.sent)
        assert client.status == 200
        go_on.set()
        await client.until_body(b"data: late")


@pytest.mark.parametrize("prefetch", [0, NEVER])
async def test_body_is_behind_what_is_done_in_send(trace: Trace, prefetch: float) -> None:
    """A commit before the headers is behind what stands before the first event, and before what stands behind it."""

    async def before_send(message: Any, scope: Any) -> None:
        if message["type"] == "http.response.start":
            await anyio.sleep(0.01)
            trace.append("committed")

    @sse("/", prefetch=prefetch)
    async def feed() -> AsyncIterator[str]:
        trace.append("began")
        yield "one"
        trace.append("went on")

    async with serving(feed, before_send=[before_send]) as (app, _):
        await request(app)
    began = ["began", "committed"] if prefetch else ["committed", "began"]
    assert trace == [*began, "went on"]


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
async def test_client_that_goes_while_the_first_event_is_waited_for(trace: Trace, how: str) -> None:
    """The body gets its one cancellation, and its resources are given back once."""
    began = anyio.Event()

    @sse("/", prefetch=NEVER)
    async def feed(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        try:
            began.set()
            await anyio.sleep_forever()
            yield "never"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            trace.append("body ends")

    async with serving(feed) as (app, streams), connect(app) as client:
        await began.wait()
        client.leave() if how == "leaves" else client.cancel()
        await client.finished()
        assert trace == ["body ends", "cleaned: client_disconnected"]
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}


@pytest.mark.parametrize("where", ["before_send", "after_request"])
async def test_hook_that_fails_behind_the_generator(trace: Trace, where: str) -> None:
    """It is heard, and the generator is closed, or was never begun."""

    async def before_send(message: Any, scope: Any) -> None:
        if message["type"] == "http.response.start" and not trace.count("failed"):
            trace.append("failed")
            raise LookupError

    async def after_request(response: Any) -> Any:
        trace.append("failed")
        raise LookupError

    options: dict[str, Any] = {"after_request": after_request} if where == "after_request" else {}

    @sse("/", **options)
    async def feed(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        trace.append("began")
        try:
            yield "one"
        finally:
            trace.append("ended")

    hooks: dict[str, Any] = {"before_send": [before_send]} if where == "before_send" else {}
    async with serving(feed, **hooks) as (app, _), connect(app) as client:
        failure = await client.finished()
        if where == "before_send":  # Litestar takes the response to have begun
            assert isinstance(cause(failure), LookupError)
            assert trace == ["began", "failed", "ended", "cleaned: error"]
        else:
            assert (client.status, trace) == (500, ["failed"])


# What is refused


async def not_a_generator() -> AsyncIterator[str]:
    raise NotImplementedError


def returns_one() -> AsyncIterator[str]:
    return not_a_generator()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("function", [not_a_generator, returns_one, lambda: iter("x")])
def test_function_that_is_no_generator_is_refused(function: Any) -> None:
    """When it is decorated, with what to do instead."""
    with pytest.raises(InvalidFieldError, match=r"invalid handler: must be a generator function.*use @get"):
        sse("/")(function)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefetch": -1}, "invalid prefetch: must be a number of seconds, from 0 up to"),
        ({"prefetch": None}, "invalid prefetch: must be a number of seconds"),
        ({"prefetch": float("nan")}, "invalid prefetch: must be a number of seconds"),
        ({"validate": "yes"}, "invalid validate: must be a bool, or None, not 'yes'"),
        ({"ping_interval": 0}, "invalid ping_interval: must be a number of seconds, above 0"),
        ({"separator": "X"}, "invalid separator: must be "),
        ({"event_type": "a\nb"}, "invalid event_type: must be one line"),
        ({"retry_duration": -1}, "invalid retry_duration: must be an int"),
        ({"status_code": 204}, "invalid status_code: "),
        ({"expires_at": 5}, "invalid expires_at: must be seconds of the epoch"),
        ({"expires_at": lambda: 1}, r"invalid expires_at: must be a function that can be called with the connection"),
        ({"on_error": lambda: 1}, r"invalid on_error: must be a function that can be called with an exception alone"),
        ({"reauthorize": not_a_generator}, r"invalid reauthorize: must be a function .* not_a_generator\(\).* can not"),
    ],
)
def test_option_with_a_wrong_value_is_refused(options: dict[str, Any], message: str) -> None:
    """When the handler is defined, naming the option."""
    with pytest.raises(InvalidFieldError, match=message):
        sse("/", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ping_intervall": 3},
            r"invalid ping_intervall: must be an option of @sse above greet.*did you mean ping_int",
        ),
        ({"prefech": 1}, r"invalid prefech: must be .*; did you mean prefetch\?$"),
        ({"http_method": "POST"}, r"invalid http_method: must be .*; did you mean method\?$"),
        ({"zzz": True}, r"invalid zzz: must be .* use opt=\{\.\.\.\}\): after_request, .*, websocket$"),
        ({"cache": True}, r"invalid cache: must be an option of @sse above greet; .* means nothing to a stream"),
        ({"media_type": "text/plain"}, "invalid media_type: must be .*; .* means nothing to a stream, so leave it out"),
        ({"resume_timeout": 1}, "invalid resume_timeout: must be .*; it is one of @sse_websocket"),
        ({"heartbeat": 1}, r"invalid heartbeat: must be .*; did you mean ping_interval\?"),
        ({"retry": 1}, r"invalid retry: must be .*; did you mean retry_duration\?"),
        ({"max_streams": 1}, r"invalid max_streams: must be .*; .* give it to SafeSSEConfig\(max_streams=\.\.\.\)"),
    ],
)
def test_option_that_does_not_exist_is_refused(options: dict[str, Any], message: str) -> None:
    """Naming the handler, and the option that was meant or where it belongs, or else all of them."""
    with pytest.raises(InvalidFieldError, match=message):
        sse("/", **options)(greet)


def test_decorator_without_parentheses_is_refused() -> None:
    """With what to write instead."""
    decorate: Any = sse
    with pytest.raises(InvalidFieldError, match=r'invalid path: must be .*not the function greet; write @sse\("/'):
        decorate(greet)


async def greet() -> AsyncIterator[str]:
    yield "hello"


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarWarning")
@pytest.mark.parametrize("options", [{}, {"sync_to_thread": True}, {"sync_to_thread": False}])
def test_generator_function_that_ought_to_return_a_stream_is_refused(options: dict[str, Any]) -> None:
    """At the start: by another decorator than ours, Litestar would take the generator for what is to be sent."""

    async def answer():  # type: ignore[no-untyped-def]
        yield "hello"

    def answer_from_a_thread():  # type: ignore[no-untyped-def]
        yield "hello"

    for function in [answer_from_a_thread] if options else [answer, answer_from_a_thread]:
        function.__annotations__["return"] = SafeServerSentEvent
        with pytest.raises(InvalidFieldError, match=r"invalid handler: .*answer.* has a yield; decorate it by @sse"):
            make_app(get("/", **options)(function))


@pytest.mark.parametrize("annotation", [str, int, "AsyncIterator[None]", "list[str]", Response, SafeServerSentEvent])
def test_annotation_that_is_no_iterators_is_refused(annotation: Any) -> None:
    """At the start of the application, naming the handler."""

    async def feed():  # type: ignore[no-untyped-def]
        yield "x"

    feed.__annotations__["return"] = annotation
    with pytest.raises(InvalidFieldError, match=r"return annotation of .*feed: must be "):
        make_app(sse("/")(feed))


def test_annotation_that_is_missing_is_refused() -> None:
    """By Litestar, as of every handler."""

    async def feed():  # type: ignore[no-untyped-def]
        yield "x"

    with pytest.raises(ImproperlyConfiguredException, match="annotat"):
        make_app(sse("/")(feed))


class Odd:
    """Nothing that msgspec knows."""


async def test_handler_may_be_registered_more_than_once() -> None:
    """Each has its own layers."""

    @sse("/odd")
    async def odd() -> AsyncIterator[Odd]:
        yield Odd()

    quiet = Router("/quiet", route_handlers=[odd], type_encoders={Odd: lambda _: "quiet"})
    loud = Router("/loud", route_handlers=[odd], type_encoders={Odd: lambda _: "loud"})
    async with serving(quiet, loud) as (app, _):
        for _ in range(2):
            assert (await request(app, "/quiet/odd")).body == b'data: "quiet"\r\n\r\n'
            assert (await request(app, "/loud/odd")).body == b'data: "loud"\r\n\r\n'
