"""Contexts injected into handlers and dependencies on every layer."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from litestar import Controller, Router, get
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamClosedError, StreamContext
from tests.bounds import WAIT
from tests.litestar.apps import FromQuery, NamedDependency, Pool, cleaned, closed, endless_and_brief, serving
from tests.litestar.bodies import BRIEF, ENDLESS, Trace, brief, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

short_lived = pytest.mark.filterwarnings("ignore::litestar_safe_sse.ShortLivedDependencyWarning")

only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_controllers_and_routers(trace: Trace) -> None:
    """A context is injected into controllers' methods, below routers, into sync and async handlers."""

    class Streams(Controller):
        path = "/controller"

        @get("/async")
        async def asynchronous(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

        @get("/sync", sync_to_thread=False)
        def synchronous(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

        @get("/thread", sync_to_thread=True)
        def in_a_thread(self, stream: StreamContext) -> SafeServerSentEvent:
            cleaned(trace, stream)
            return SafeServerSentEvent(brief(trace))

    async with serving(Router("/router", route_handlers=[Streams])) as (app, _):
        for name in ("async", "sync", "thread"):
            response = await request(app, f"/router/controller/{name}")
            assert response.body == b"data: begun\r\n\r\n"
    assert trace == BRIEF * 3


async def test_handler_registered_later(trace: Trace) -> None:
    """A handler registered when the application exists already streams, and is checked as the others are."""

    @get("/wrong")
    async def wrong(stream: NamedDependency[bool]) -> None: ...

    async with serving() as (app, _):
        app.register(endless_and_brief(trace)[1])
        await request(app, "/brief")
        assert trace == BRIEF
        with pytest.raises(ImproperlyConfiguredException, match="stream"):
            app.register(wrong)


async def test_nested_dependencies(trace: Trace) -> None:
    """A dependency, and one of its own, can ask for the context; all get the same stream."""

    async def provide_pool(stream: StreamContext) -> Pool:
        stream.callback(trace.append, "pool closed")
        return Pool(stream.id)

    async def provide_client(pool: NamedDependency[Pool], stream: StreamContext) -> str:
        stream.callback(trace.append, "client closed")
        assert pool.name == stream.id
        return pool.name

    @get("/", dependencies={"client": Provide(provide_client)})
    async def handler(client: NamedDependency[str], stream: StreamContext) -> SafeServerSentEvent:
        assert client == stream.id
        return SafeServerSentEvent(endless(trace))

    async with serving(handler, dependencies={"pool": Provide(provide_pool)}) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            assert streams.statistics().opened == 1
        assert trace == ["body begins", "body ends", "client closed", "pool closed"]


async def test_dependencies_that_enter_contexts_side_by_side(trace: Trace) -> None:
    """Dependencies that Litestar resolves at the same time can each enter a context, all left last in first out."""

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        trace.append(f"{name} opens")
        yield name
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        trace.append(f"{name} closes")

    async def provide_one(stream: StreamContext) -> str:
        return await stream.enter_async_context(resource("one"))

    async def provide_two(stream: StreamContext) -> str:
        return await stream.enter_async_context(resource("two"))

    dependencies = {"one": Provide(provide_one), "two": Provide(provide_two)}

    @get("/", dependencies=dependencies)
    async def handler(one: NamedDependency[str], two: NamedDependency[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent([one, two])

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body == b"data: one\r\n\r\ndata: two\r\n\r\n"
        opened = [line.split()[0] for line in trace[:2]]
        assert trace[2:] == [f"{name} closes" for name in reversed(opened)]


@short_lived
async def test_generator_dependency(trace: Trace) -> None:
    """A generator dependency can use the context; Litestar ends it when the handler has returned, as ever."""

    async def provide(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        yield stream.id
        trace.append("dependency ends")

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str], stream: StreamContext) -> SafeServerSentEvent:
        assert value == stream.id
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert trace == ["dependency ends", *ENDLESS]


@short_lived
async def test_generator_dependency_sees_a_handler_that_raises(trace: Trace) -> None:
    """A generator dependency is given the handler's exception, and the stream ends as an error."""

    async def provide(stream: StreamContext) -> AsyncIterator[str]:
        cleaned(trace, stream)
        try:
            yield stream.id
        except LookupError:
            trace.append("dependency fails")
            raise

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str]) -> SafeServerSentEvent:
        raise LookupError

    async with serving(handler) as (app, streams):
        assert (await request(app)).status == 500
        assert trace == ["dependency fails", "cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_dependency_that_raises(trace: Trace) -> None:
    """A dependency that raises after it has registered cleanups has them run, and the handler is not called."""

    async def provide(stream: StreamContext) -> str:
        cleaned(trace, stream)
        raise NotAuthorizedException

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str]) -> SafeServerSentEvent:
        trace.append("called")
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        assert (await request(app)).status == 401
        assert trace == ["cleaned: error"]
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_invalid_parameter_next_to_a_context(trace: Trace) -> None:
    """A request that fails validation next to a context leaves no stream behind."""

    @get("/")
    async def handler(number: FromQuery[int], stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler) as (app, streams):
        assert (await request(app, "/?number=x")).status == 400
        assert streams.statistics().open == 0
        assert trace == []


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@only_asyncio
async def test_context_variables_reach_the_body() -> None:
    """What a handler, or a context that it enters, sets in a context variable is seen by the body."""

    @asynccontextmanager
    async def setting() -> AsyncIterator[None]:
        token = variable.set("set")
        try:
            yield
        finally:
            variable.reset(token)

    async def body() -> AsyncIterator[str]:
        yield variable.get()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.enter_async_context(setting())
        assert variable.get() == "set"
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, streams):
        assert (await request(app)).body == b"data: set\r\n\r\n"
        assert closed(streams) == {CloseReason.COMPLETED: 1}


@only_asyncio
async def test_context_entered_beside_a_handler_that_returns(trace: Trace) -> None:
    """Contexts that other tasks of a handler are still entering when it returns are entered and left, or refused."""
    go_on = asyncio.Event()

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[None]:
        await go_on.wait()
        trace.append(f"{name} opens")
        yield
        trace.append(f"{name} closes")

    tasks: list[asyncio.Task[None]] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        tasks.extend(asyncio.create_task(stream.enter_async_context(resource(name))) for name in ("one", "two"))
        await asyncio.sleep(0)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        async with connect(app) as connection:
            await connection.until(lambda: len(connection.sent) > 1)
            go_on.set()
            await connection.finished()
        done, pending = await asyncio.wait(tasks, timeout=WAIT)
        for task in pending:
            task.cancel()
        assert not pending
        assert all(task.exception() is None or isinstance(task.exception(), StreamClosedError) for task in done)
        assert sum("opens" in line for line in trace) == sum("closes" in line for line in trace)
