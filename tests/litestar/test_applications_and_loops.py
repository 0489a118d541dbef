"""Several applications, several event loops, several lives: none knows of another, and nothing is left."""

from __future__ import annotations

import gc
import inspect
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from litestar import Litestar, asgi, get
from litestar.exceptions import ImproperlyConfiguredException
from litestar.stores.memory import MemoryStore
from litestar.types import Receive, Scope, Send

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin
from tests.bounds import WAIT
from tests.litestar.apps import PLAIN, endless_and_brief, make_app, serving, serving_defaults
from tests.litestar.bodies import ENDLESS, Trace, endless
from tests.litestar.clients import connect, lifespan
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_two_applications_do_not_know_of_each_other(trace: Trace) -> None:
    """Streams of one application are not in the registry of another, and survive its shutdown."""
    one, streams_of_one = make_app(*endless_and_brief([]))
    two, streams_of_two = make_app(*endless_and_brief(trace))
    async with lifespan(two), connect(two, "/endless") as connection:
        await connection.until_body(b"begun")
        async with lifespan(one), connect(one, "/endless") as other:
            await other.until_body(b"begun")
            assert (len(streams_of_one), len(streams_of_two)) == (1, 1)
        assert (len(streams_of_one), len(streams_of_two)) == (0, 1)
        assert trace == ["body begins"]
    assert trace == ENDLESS


COPY_SCOPE: list[dict[str, bool]] = [{}]
if "copy_scope" in inspect.signature(asgi).parameters:
    COPY_SCOPE = [{"copy_scope": True}, {"copy_scope": False}]


@pytest.mark.parametrize("copy_scope", COPY_SCOPE)
async def test_application_mounted_in_another(trace: Trace, copy_scope: dict[str, Any]) -> None:
    """An application mounted in another one keeps its streams in its own registry."""
    inner, inner_streams = make_app(*endless_and_brief(trace))

    @asgi("/inner", is_mount=True, **copy_scope)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async with lifespan(inner), serving_defaults([]) as (outer, outer_streams):
        outer.register(mount)
        async with connect(outer, "/inner/endless") as connection:
            await connection.until_body(b"begun")
            assert (len(inner_streams), len(outer_streams)) == (1, 0)
        assert trace == ENDLESS
        await request(outer, "/brief")
        assert outer_streams.statistics().opened == 1
        assert inner_streams.statistics().opened == 1


@pytest.mark.parametrize("copy_scope", COPY_SCOPE)
async def test_mounted_application_without_a_plugin(trace: Trace, copy_scope: dict[str, Any]) -> None:
    """The streams of an application without the plugin, mounted in one that has it, are that one's to end."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    inner = Litestar([handler], **PLAIN)

    @asgi("/inner", is_mount=True, **copy_scope)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async with serving(mount) as (outer, streams):
        async with connect(outer, "/inner/") as connection:
            await connection.until_body(b"begun")
            assert len(streams) == 1
            await streams.aclose_all()
            await connection.finished()
        assert connection.complete
        assert trace == ["body begins", "body ends"]


def test_two_plugins_in_one_application_are_refused() -> None:
    """An application takes one plugin; a second one is refused when the application is made."""
    with pytest.raises(ImproperlyConfiguredException, match="SafeSSEPlugin more than once; leave one of them"):
        Litestar([], plugins=[SafeSSEPlugin(), SafeSSEPlugin()])


def test_event_loops_in_threads(trace: Trace) -> None:
    """Streams of one application in several event loops at once are counted together, and each ends in its own."""
    app, streams = make_app(*endless_and_brief(trace))
    all_open = threading.Barrier(4)
    failures: list[BaseException] = []

    async def stream_once() -> None:
        async with connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            await anyio.to_thread.run_sync(all_open.wait, WAIT)
            assert len(streams) == 3
            await anyio.to_thread.run_sync(all_open.wait, WAIT)

    def work(backend: str) -> None:
        try:
            anyio.run(stream_once, backend=backend)
        except BaseException as exc:
            failures.append(exc)
            all_open.abort()

    threads = [threading.Thread(target=work, args=(backend,)) for backend in ("asyncio", "asyncio", "trio")]
    for thread in threads:
        thread.start()
    all_open.wait(WAIT)
    all_open.wait(WAIT)
    for thread in threads:
        thread.join(WAIT)
    assert failures == []
    assert sorted(trace) == sorted(ENDLESS * 3)
    assert len(streams) == 0


@pytest.fixture
def _python_handles_sigint() -> Iterator[None]:
    """Whatever the applications of other tests have put in front."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


def handlers_in_chain() -> int:
    """How many handlers of ^C call one another."""
    handler: Any = signal.getsignal(signal.SIGINT)
    count = 0
    while handler is not None and hasattr(handler, "previous"):
        handler, count = handler.previous, count + 1
    return count


@pytest.mark.usefixtures("_python_handles_sigint")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loops_one_after_another_leave_nothing(trace: Trace, backend: str) -> None:
    """Without a lifespan, as on Daphne, loop after loop leaves no growing list of loops and signal handlers."""
    app, streams = make_app(*endless_and_brief(trace))
    for _ in range(5):
        anyio.run(request, app, "/brief", backend=backend)
    assert handlers_in_chain() <= 1
    assert len(streams._loops) <= 1


def count_applications() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Litestar) for thing in gc.get_objects())


@pytest.mark.usefixtures("_python_handles_sigint")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_applications_one_after_another_leave_nothing(backend: str) -> None:
    """Applications that are made for one loop each, as tests do, and served without a lifespan, are let go."""

    @get("/brief")
    async def brief() -> str:
        return "brief"

    at_first = count_applications()
    for _ in range(5):
        anyio.run(request, Litestar([brief]), "/brief", backend=backend)
    without = count_applications()
    for _ in range(5):
        anyio.run(request, make_app(*endless_and_brief([]))[0], "/brief", backend=backend)

    assert handlers_in_chain() <= 1
    kept_by_litestar = without - at_first  # all of them, in its older releases
    assert count_applications() - without <= kept_by_litestar + 1


@pytest.mark.usefixtures("_python_handles_sigint")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_application_lives_several_times(trace: Trace, backend: str) -> None:
    """An application that is started and shut down again and again streams each time, and leaves nothing."""
    app, streams = make_app(*endless_and_brief(trace))
    before = signal.getsignal(signal.SIGINT), list(app._lifespan_managers)

    async def live() -> None:
        async with lifespan(app) as life, connect(app, "/endless") as connection:
            await connection.until_body(b"begun")
            await life.shutdown()
            await connection.finished()

    for _ in range(3):
        anyio.run(live, backend=backend)
    assert trace == ["body begins", "body ends", "cleaned: shutdown"] * 3
    assert (signal.getsignal(signal.SIGINT), list(app._lifespan_managers)) == before
    assert len(streams._loops) == 0


@pytest.mark.parametrize("position", ["lifespan", "store", "on_startup"])
async def test_start_that_fails_leaves_nothing(position: str) -> None:
    """An application that fails to start, wherever, has taken out what the plugin had hooked in."""

    @asynccontextmanager
    async def failing(app: Litestar) -> AsyncIterator[None]:
        raise LookupError
        yield

    class FailingStore(MemoryStore):
        async def __aenter__(self) -> None:
            raise LookupError

    def fail() -> None:
        raise LookupError

    options: dict[str, dict[str, Any]] = {
        "lifespan": {"lifespan": [failing]},
        "store": {"stores": {"failing": FailingStore()}},
        "on_startup": {"on_startup": [fail]},
    }
    app, streams = make_app(**options[position])
    before = signal.getsignal(signal.SIGINT), list(app._lifespan_managers)
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017, PT011 - an exception group on the newest Litestar only
            async with app.lifespan():
                pass
    assert (signal.getsignal(signal.SIGINT), list(app._lifespan_managers)) == before
    assert len(streams._loops) == 0
