"""Dependencies that live as long as the stream, and the warning of those that do not."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Controller, Litestar, Router, get, route
from litestar.di import Provide

from litestar_safe_sse import (
    InvalidFieldError,
    MissingPluginError,
    SafeServerSentEvent,
    ShortLivedDependencyWarning,
    StreamContext,
    StreamProvide,
    sse,
)
from tests.litestar.apps import PLAIN, FromQuery, NamedDependency, cause, make_app, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])

tenant = contextvars.ContextVar("tenant", default="nobody")


async def outcome(app: Any, path: str) -> BaseException | None:
    """Makes a request that comes to its end by itself, and returns what the application raised."""
    async with connect(app, path) as connection:
        return await connection.finished()


async def pause() -> None:
    with anyio.CancelScope(shield=True):  # as trio asks for
        await anyio.lowlevel.checkpoint()


def async_resource(trace: Trace) -> Callable[[], AsyncIterator[str]]:
    async def resource() -> AsyncIterator[str]:
        await pause()
        trace.append("opens")
        try:
            yield "resource"
        finally:
            await pause()
            trace.append("closes")

    return resource


def sync_resource(trace: Trace) -> Callable[[], Iterator[str]]:
    def resource() -> Iterator[str]:
        trace.append("opens")
        try:
            yield "resource"
        finally:
            trace.append("closes")

    return resource


RESOURCES: dict[str, Callable[[Trace], Any]] = {
    "async generator": async_resource,
    "sync generator": sync_resource,
    "async context manager": lambda trace: asynccontextmanager(async_resource(trace)),
    "context manager": lambda trace: contextmanager(sync_resource(trace)),
    "partial": lambda trace: partial(async_resource(trace)),
}
each_kind = pytest.mark.parametrize("kind", RESOURCES)


@each_kind
async def test_it_is_open_until_the_stream_has_ended(kind: str, trace: Trace) -> None:
    """It is opened before the handler, and closed after the body, of ``@get`` and of ``@sse``."""
    dependencies = {"resource": StreamProvide(RESOURCES[kind](trace))}

    @get("/get", dependencies=dependencies)
    async def returns(resource: NamedDependency[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace, resource))

    @sse("/sse", dependencies={"resource": StreamProvide(RESOURCES[kind](trace))})
    async def yields(resource: NamedDependency[str]) -> AsyncIterator[str]:
        async for item in endless(trace, resource):
            yield str(item)

    async with serving(returns, yields) as (app, _):
        for path in ("/get", "/sse"):
            async with connect(app, path) as connection:
                await connection.until_body(b"data: resource")
            assert trace == ["opens", "body begins", "body ends", "closes"], path
            trace.clear()


@each_kind
async def test_it_is_closed_once_however_the_stream_ends(kind: str, trace: Trace) -> None:
    """A body that completes, one that fails and a handler that raises are followed by its end."""
    dependencies = {"resource": StreamProvide(RESOURCES[kind](trace))}

    @get("/", dependencies=dependencies)
    async def handler(resource: NamedDependency[str], how: FromQuery[str]) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield resource
            if how == "body":
                raise RuntimeError(how)
            trace.append("body ends")

        if how == "handler":
            raise RuntimeError(how)
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, _):
        for how, told in (("completes", ["body ends"]), ("body", []), ("handler", [])):
            failure = await outcome(app, f"/?how={how}")
            assert isinstance(cause(failure), RuntimeError) is (how == "body")
            assert trace == ["opens", *told, "closes"], how
            trace.clear()


async def test_head_opens_and_closes_it(trace: Trace) -> None:
    """A request that starts no body gives back what was opened for it all the same."""
    dependencies = {"resource": StreamProvide(async_resource(trace))}

    @route("/", http_method=["GET", "HEAD"], dependencies=dependencies)
    async def handler(resource: NamedDependency[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace, resource))

    async with serving(handler) as (app, _):
        await request(app, method="HEAD")
        assert trace == ["opens", "closes"]


async def test_a_handler_that_does_not_stream_has_it_until_its_response_is_over(trace: Trace) -> None:
    """A layer may give it to all of its handlers."""

    @get("/")
    async def handler(resource: NamedDependency[str]) -> str:
        trace.append("handler")
        return resource

    async with serving(handler, dependencies={"resource": StreamProvide(async_resource(trace))}) as (app, _):
        assert (await request(app)).body == b"resource"
        assert trace == ["opens", "handler", "closes"]


async def test_dependencies_of_dependencies_end_last_in_first_out(trace: Trace) -> None:
    """What depends on another is closed before it, with the stream at hand, whatever the layers are."""

    async def engine(stream: StreamContext) -> AsyncIterator[str]:
        trace.append("engine opens")
        stream.callback(trace.append, "engine's own cleanup")
        yield stream.id
        await pause()
        trace.append(f"engine closes: {stream.close_reason}")

    @contextmanager
    def session(engine: NamedDependency[str]) -> Iterator[str]:
        trace.append("session opens")
        try:
            yield engine
        finally:
            trace.append("session closes")

    async def plain(session: NamedDependency[str]) -> str:
        return session

    class Feed(Controller):
        path = "/"
        dependencies = {"session": StreamProvide(session)}  # noqa: RUF012

        @sse(dependencies={"plain": Provide(plain)})
        async def feed(self, plain: NamedDependency[str], stream: StreamContext) -> AsyncIterator[str]:
            assert plain == stream.id
            stream.callback(trace.append, "handler's cleanup")
            yield "event"
            trace.append("body ends")

    router = Router("/feed", route_handlers=[Feed], dependencies={"engine": StreamProvide(engine)})
    async with serving(router) as (app, _):
        assert (await request(app, "/feed")).body == b"data: event\r\n\r\n"
    closed = ["handler's cleanup", "session closes", "engine closes: completed", "engine's own cleanup"]
    assert trace == ["engine opens", "session opens", "body ends", *closed]


@only_asyncio
async def test_it_is_opened_and_closed_by_the_task_of_the_body(trace: Trace) -> None:
    """A task group and a context variable may span its ``yield``, and the body sees the variable."""

    async def workers() -> AsyncIterator[str]:
        token = tenant.set("acme")
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            trace.append(anyio.get_current_task().id)
            yield "workers"
            trace.append(anyio.get_current_task().id)
            group.cancel_scope.cancel()
        tenant.reset(token)

    def acting() -> Iterator[str]:
        token = tenant.set("sync")
        yield "acting"
        tenant.reset(token)

    dependencies = {"workers": StreamProvide(workers), "acting": StreamProvide(acting)}

    @sse("/{name:str}", dependencies=dependencies)
    async def asynchronous(workers: NamedDependency[str]) -> AsyncIterator[str]:
        trace.append(anyio.get_current_task().id)
        yield tenant.get()

    @sse("/sync", dependencies=dependencies)
    def synchronous(acting: NamedDependency[str]) -> Iterator[str]:
        yield tenant.get()

    async with serving(asynchronous, synchronous) as (app, _):
        assert (await request(app, "/any")).body == b"data: acme\r\n\r\n"
        assert len(trace) == 3
        assert len(set(trace)) == 1
        assert (await request(app, "/sync")).body == b"data: sync\r\n\r\n"


@only_asyncio
async def test_it_is_left_with_what_ended_the_body(trace: Trace) -> None:
    """It commits when the body completes, and rolls back when the body fails or is stopped."""

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "transaction"
        except BaseException as error:
            trace.append(f"rolled back: {type(error).__name__}")
            raise
        trace.append("committed")

    @sse("/", dependencies={"transaction": StreamProvide(transaction)})
    async def handler(transaction: NamedDependency[str], how: FromQuery[str]) -> AsyncIterator[str]:
        yield transaction
        if how == "fails":
            raise RuntimeError
        if how == "waits":
            await anyio.sleep_forever()

    async with serving(handler) as (app, _):
        await request(app, "/?how=completes")
        await outcome(app, "/?how=fails")
        async with connect(app, "/?how=waits") as connection:
            await connection.until_body(b"transaction")
        assert trace == ["committed", "rolled back: RuntimeError", "rolled back: CancelledError"]


async def test_one_that_fails_to_open_is_answered_with_an_error(trace: Trace) -> None:
    """The exception is Litestar's to answer, and what was opened before is closed."""

    async def failing(resource: NamedDependency[str]) -> AsyncIterator[str]:
        await pause()
        raise PermissionError
        yield resource

    dependencies = {"resource": StreamProvide(async_resource(trace)), "failing": StreamProvide(failing)}

    @sse("/", dependencies=dependencies)
    async def handler(failing: NamedDependency[str]) -> AsyncIterator[str]:
        yield failing

    async with serving(handler) as (app, _):
        assert (await request(app)).status == 500
        assert trace == ["opens", "closes"]


async def test_one_that_fails_to_close_is_reported_by_its_name(trace: Trace, caplog: pytest.LogCaptureFixture) -> None:
    """The rest is closed nevertheless."""

    async def failing(resource: NamedDependency[str]) -> AsyncIterator[str]:
        yield resource
        raise PermissionError("on purpose")

    dependencies = {"resource": StreamProvide(async_resource(trace)), "failing": StreamProvide(failing)}

    @sse("/", dependencies=dependencies)
    async def handler(failing: NamedDependency[str]) -> AsyncIterator[str]:
        yield failing

    async with serving(handler) as (app, _):
        await request(app)
        assert trace == ["opens", "closes"]
    (report,) = caplog.records
    assert "dependency failing: PermissionError('on purpose')" in report.getMessage()


class Resource:
    """Nothing that a stream could close."""


async def opened() -> str:
    return "nothing to close"


@pytest.mark.parametrize("dependency", [Resource, opened, lambda: None, None, "resource", asynccontextmanager])
def test_what_could_not_be_closed_is_refused(dependency: Any) -> None:
    """Only what a generator function provides has an end."""
    with pytest.raises(InvalidFieldError, match=r"dependency: must be a generator function, .* not .*; .*use Provide"):
        StreamProvide(dependency)


async def test_without_the_plugin_the_error_names_it(trace: Trace) -> None:
    """There is no stream for it to live as long as."""
    seen: list[Exception] = []

    @get("/", dependencies={"resource": StreamProvide(async_resource(trace))})
    async def handler(resource: NamedDependency[str]) -> str:
        return resource

    async def after_exception(exc: Exception, scope: Any) -> None:
        seen.append(exc)

    app = Litestar([handler], after_exception=[after_exception], **PLAIN)
    assert (await request(app)).status == 500
    assert isinstance(seen[0], MissingPluginError)
    assert trace == []


def starting(*handlers: Any, **options: Any) -> list[str]:
    """What an application warns of when it starts."""
    with pytest.warns(ShortLivedDependencyWarning) as warned:
        make_app(*handlers, **options)
    return [str(warning.message) for warning in warned]


def provide_async() -> Any:
    async def provide_session() -> AsyncIterator[str]:
        yield "session"

    return provide_session


def provide_sync() -> Any:
    def provide_session() -> Iterator[str]:
        yield "session"

    return provide_session


@pytest.mark.parametrize("provide", [provide_async, provide_sync])
def test_generator_dependency_of_a_stream_is_warned_of(provide: Callable[[], Any]) -> None:
    """Whatever layer it comes from, and however the handler tells that it streams."""

    @get("/returns")
    async def returns(session: NamedDependency[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent([session])

    @get("/asks")
    async def asks(session: NamedDependency[str], stream: StreamContext) -> Any:
        return session

    @sse("/yields")
    async def yields(session: NamedDependency[str]) -> AsyncIterator[str]:
        yield session

    @get("/plain")
    async def plain(session: NamedDependency[str]) -> str:
        return session

    dependencies = {"session": Provide(provide())}
    for handler in (returns, asks, yields):
        (message,) = starting(Router("/", route_handlers=[handler], dependencies=dependencies))
        assert "'session'" in message
        assert handler.fn.__name__ in message
        assert "'session': StreamProvide(provide_session)" in message
    make_app(plain, dependencies=dependencies)


def test_generator_dependency_of_a_dependency_is_warned_of() -> None:
    """What lives as long as the stream may not be made of what does not."""

    async def users(session: NamedDependency[str]) -> AsyncIterator[str]:
        yield session

    dependencies = {"session": Provide(provide_async()), "users": StreamProvide(users)}

    @sse("/", dependencies=dependencies)
    async def handler(users: NamedDependency[str]) -> AsyncIterator[str]:
        yield users

    (message,) = starting(handler)
    assert "'session'" in message


def test_what_lives_on_is_not_warned_of(trace: Trace) -> None:
    """Neither what is provided for the stream, nor what has no end, nor what the handler does not ask for."""

    async def number() -> int:
        return 1

    dependencies = {
        "resource": StreamProvide(async_resource(trace)),
        "number": Provide(number),
        "unused": Provide(provide_async()),
    }

    @sse("/", dependencies=dependencies)
    async def handler(resource: NamedDependency[str], number: NamedDependency[int]) -> AsyncIterator[str]:
        yield resource

    make_app(handler)
