from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import structlog
from litestar import Litestar, get
from litestar.exceptions import LitestarException
from litestar.logging import LoggingConfig, StructLoggingConfig
from litestar.logging.config import BaseLoggingConfig
from structlog.testing import LogCapture

from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin, StreamState
from tests.litestar.clients import LIMIT, connect, lifespan
from tests.litestar.clients import get as request

if TYPE_CHECKING:
    from litestar.types import ExceptionLoggingHandler, GetLogger

    from litestar_safe_sse import StreamContext
    from litestar_safe_sse._core.registry import StreamRegistry

pytestmark = pytest.mark.anyio

CONFIG = SafeSSEConfig(ping_interval=None, cleanup_timeout=0.05, shutdown_grace=0.05)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Records(logging.Handler):
    """Keeps what is logged of streams."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("SSE stream"):
            self.records.append(record)

    def lines(self, level: int) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno == level]


@pytest.fixture
def records() -> Iterator[Records]:
    """What is logged; the logging set up by the test is taken down again."""
    root, ours = logging.getLogger(), logging.getLogger("litestar")
    before = root.level, root.handlers[:], ours.level, ours.handlers[:], ours.propagate
    yield Records()
    root.level, root.handlers[:], ours.level, ours.handlers[:], ours.propagate = before
    structlog.reset_defaults()


def standard(records: Records, level: str = "DEBUG") -> LoggingConfig:
    """Litestar's configuration of the standard library's logging."""
    return LoggingConfig(
        root={"level": "WARNING", "handlers": []},
        handlers={"queue_listener": {"()": lambda: records}},
        loggers={"litestar": {"level": level, "handlers": ["queue_listener"], "propagate": False}},
    )


@asynccontextmanager
async def serving(
    handler: Any, logging_config: Any, *, config: SafeSSEConfig = CONFIG
) -> AsyncIterator[tuple[Litestar, StreamRegistry]]:
    plugin = SafeSSEPlugin(config)
    app = Litestar(
        [handler],
        plugins=[plugin],
        logging_config=logging_config,
        openapi_config=None,
        debug=True,  # without it, Litestar sets its logger's level to INFO
    )
    async with lifespan(app):
        yield app, plugin.streams


def streaming(*cleanups: Callable[[], Any], content: Callable[[], Any] = lambda: ["one", "two"]) -> Any:
    """A handler of a stream with some cleanups."""

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        for cleanup in cleanups:
            stream.callback(cleanup)
        return SafeServerSentEvent(content())

    return a_handler


async def until_left_behind(connection: Any) -> None:
    """The client leaves, and waits until the application has given up what does not end."""
    connection.leave()
    await connection.finished()


# One line a stream


async def test_a_stream_is_one_line_at_debug(records: Records) -> None:
    """A stream is logged once, when it has ended: its handler, its reason, its events."""
    async with serving(streaming(), standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.DEBUG)
        assert "a_handler" in line
        assert "completed" in line
        assert "2 events" in line
        await request(app)
        assert len(records.lines(logging.DEBUG)) == 2
        assert len(records.records) == 2


async def test_a_line_has_the_streams_id_and_reason(records: Records) -> None:
    """The line has the identifier that the handler sees, and the reason that the cleanups see."""
    ids: list[str] = []

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        ids.append(stream.id)
        return SafeServerSentEvent(endless())

    async with serving(a_handler, standard(records)) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        (line,) = records.lines(logging.DEBUG)
        assert ids[0] in line
        assert str(CloseReason.CLIENT_DISCONNECTED) in line


async def endless() -> AsyncIterator[str]:
    yield "begun"
    await anyio.sleep_forever()


async def test_nothing_is_logged_above_debug_for_ordinary_streams(records: Records) -> None:
    """Where debug is off, ordinary streams are silent, those of clients that left included."""
    async with serving(streaming(content=endless), standard(records, "INFO")) as (app, _):
        logging.getLogger("litestar").setLevel(logging.INFO)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert records.records == []


async def test_stream_that_no_response_took_is_logged_too(records: Records) -> None:
    """A stream whose handler failed is one line, too."""

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        raise LookupError

    async with serving(a_handler, standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.DEBUG)
        assert "a_handler" in line
        assert "error" in line


# Warnings


def fail() -> None:
    raise LookupError("the pool is gone")


async def test_cleanup_that_failed_is_a_warning(records: Records) -> None:
    """A cleanup that failed is one warning, which names the handler, the cleanup and the exception."""
    async with serving(streaming(fail), standard(records)) as (app, _):
        response = await request(app)
        assert response.complete
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "fail" in line
        assert "LookupError('the pool is gone')" in line
        assert len(records.lines(logging.DEBUG)) == 1


async def test_cleanups_that_failed_are_reported_together(records: Records) -> None:
    """Several failures of one stream are one warning, and keep no other cleanup from running."""
    ran: list[str] = []

    def fail_too() -> None:
        raise ValueError("the other too")

    async with serving(streaming(fail, lambda: ran.append("between"), fail_too), standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.WARNING)
        assert "2 cleanups failed" in line
        assert "the pool is gone" in line
        assert "the other too" in line
        assert ran == ["between"]


async def hang() -> None:
    await anyio.sleep_forever()


async def test_cleanup_that_timed_out_is_a_warning(records: Records) -> None:
    """A cleanup that does not end in time is cancelled, and is a warning that names it."""
    async with serving(streaming(hang), standard(records)) as (app, streams):
        await request(app)
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "hang" in line
        assert "TimeoutError" in line
        assert streams.statistics().open == 0


async def test_cleanup_that_refuses_to_end_is_a_warning(records: Records) -> None:
    """A cleanup that will not end though cancelled is left behind, and is a warning that names it."""
    release = anyio.Event()
    ran: list[str] = []

    async def refuse() -> None:
        while not release.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await release.wait()
            except BaseException:
                continue

    async with serving(streaming(lambda: ran.append("the rest"), refuse), standard(records)) as (app, streams):
        try:
            await request(app)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "refuse" in line
            assert "left behind" in line
            assert ran == ["the rest"]
            assert streams.statistics().open == 0
        finally:
            release.set()
            await anyio.lowlevel.checkpoint()


async def test_body_that_would_not_end_is_a_warning(records: Records) -> None:
    """A body that will not end though cancelled is left behind, and is a warning that names the handler."""
    release = anyio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "begun"
        while not release.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await release.wait()
            except BaseException:
                continue

    async with serving(streaming(content=stubborn), standard(records)) as (app, streams):
        try:
            async with connect(app) as connection:
                await connection.until_body(b"begun")
                await until_left_behind(connection)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "the body" in line
            assert "left behind" in line
            assert streams.statistics().open == 0
        finally:
            release.set()
            await anyio.lowlevel.checkpoint()


async def test_blocked_thread_is_a_warning(records: Records) -> None:
    """A sync body that blocks its thread for good is left behind, and is a warning that says so by name."""
    release = threading.Event()

    def blocked() -> Iterator[str]:
        yield "begun"
        release.wait(LIMIT)

    async with serving(streaming(content=blocked), standard(records)) as (app, streams):
        try:
            async with connect(app) as connection:
                await connection.until_body(b"begun")
                await until_left_behind(connection)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "thread" in line
            assert streams.statistics().open == 0
        finally:
            release.set()
            for thread in threading.enumerate():
                if thread.name.startswith("SSE body"):
                    await anyio.to_thread.run_sync(thread.join, LIMIT)


async def test_body_that_fails_while_it_ends_is_a_warning(records: Records) -> None:
    """A body that raises in its ``finally`` after a stop is a warning: nobody else would hear of it."""

    async def failing() -> AsyncIterator[str]:
        try:
            yield "begun"
            await anyio.sleep_forever()
        finally:
            fail()

    async with serving(streaming(content=failing), standard(records)) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "the pool is gone" in line


async def test_body_that_fails_is_raised_and_not_logged(records: Records) -> None:
    """A body that fails by itself is raised to the server, which logs it; there is no second report."""

    async def failing() -> AsyncIterator[str]:
        yield "begun"
        fail()

    async with serving(streaming(content=failing), standard(records)) as (app, _):
        async with connect(app) as connection:
            assert isinstance(await connection.finished(), LitestarException)
        assert records.lines(logging.WARNING) == []
        (line,) = records.lines(logging.DEBUG)
        assert "error" in line


# Whose logger


async def test_standard_logger_without_a_logging_config(caplog: pytest.LogCaptureFixture) -> None:
    """Where the application has no logging configuration, the logger ``litestar_safe_sse`` is told."""
    with caplog.at_level(logging.DEBUG, "litestar_safe_sse"):
        async with serving(streaming(fail), None) as (app, _):
            await request(app)
    found = [
        (record.name, record.levelno)
        for record in caplog.records
        if record.getMessage().startswith("SSE stream") and "a_handler" in record.getMessage()
    ]
    assert found == [("litestar_safe_sse", logging.WARNING), ("litestar_safe_sse", logging.DEBUG)]


async def test_logger_of_the_application_without_a_lifespan(records: Records) -> None:
    """On a server that runs no lifespan, the application's logger is told all the same."""
    plugin = SafeSSEPlugin(CONFIG)
    app = Litestar(
        [streaming(fail)], plugins=[plugin], logging_config=standard(records), openapi_config=None, debug=True
    )
    await request(app)
    assert len(records.lines(logging.WARNING)) == 1
    assert len(records.lines(logging.DEBUG)) == 1


def structured(wrapper_class: Any) -> tuple[StructLoggingConfig, LogCapture]:
    capture = LogCapture()
    config = StructLoggingConfig(
        processors=[capture],
        wrapper_class=wrapper_class,
        cache_logger_on_first_use=False,
        standard_lib_logging_config=None,
    )
    return config, capture


def wrappers() -> list[Any]:
    return [structlog.make_filtering_bound_logger(logging.DEBUG), structlog.stdlib.BoundLogger]


@pytest.mark.parametrize("wrapper", [0, 1], ids=["filtering", "stdlib"])
async def test_structlog(records: Records, wrapper: int) -> None:
    """With structlog, the same lines come as finished events, whatever its wrapper class makes of arguments."""
    config, capture = structured(wrappers()[wrapper])
    async with serving(streaming(fail), config) as (app, _):
        await request(app)
    entries = [entry for entry in capture.entries if entry["event"].startswith("SSE stream")]
    assert [entry["log_level"] for entry in entries] == ["warning", "debug"]
    assert all("a_handler" in entry["event"] for entry in entries)
    assert "the pool is gone" in entries[0]["event"]
    assert "completed" in entries[1]["event"]


async def test_structlog_as_litestar_configures_it(records: Records) -> None:
    """With Litestar's own processors, a warning is a line of JSON that names the handler."""
    buffer = io.BytesIO()
    config = StructLoggingConfig(
        logger_factory=structlog.BytesLoggerFactory(file=buffer), cache_logger_on_first_use=False
    )
    async with serving(streaming(fail), config) as (app, _):
        await request(app)
    entries = [json.loads(line) for line in buffer.getvalue().splitlines() if b"SSE stream" in line]
    (entry,) = [entry for entry in entries if entry["level"] == "warning"]
    assert "a_handler" in entry["event"]
    assert "the pool is gone" in entry["event"]


class BrokenLogger:
    """A logger whose sink goes away once there are streams."""

    def __getattr__(self, name: str) -> Any:
        def log(message: str, *args: Any, **kwargs: Any) -> None:
            if message.startswith("SSE stream"):
                raise OSError("no space left on device")

        return log


class BrokenLoggingConfig(BaseLoggingConfig):
    log_exceptions = "never"
    disable_stack_trace: set[Any] = set()  # noqa: RUF012
    exception_logging_handler: ExceptionLoggingHandler | None = None

    def configure(self) -> GetLogger:
        return lambda name=None: BrokenLogger()  # type: ignore[return-value]

    def set_level(self, logger: Any, level: int) -> None: ...


def in_a_thread(work: Callable[[], Awaitable[None]], backend: str) -> None:
    """Runs a test in a thread of its own: what never ends there, not even by a cancellation, is left behind."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(work, backend=backend)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * LIMIT)
    assert not thread.is_alive(), "the application never returned"
    assert failures == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_logger_that_raises_holds_up_nothing(backend: str) -> None:
    """A logger that raises does not keep a stream from ending, nor the application from shutting down."""

    async def work() -> None:
        async with serving(streaming(fail), BrokenLoggingConfig()) as (app, streams):
            response = await request(app)
            assert response.complete
            assert streams.statistics().open == 0

    in_a_thread(work, backend)


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_failure_that_cannot_be_shown_holds_up_nothing(records: Records, backend: str) -> None:
    """A cleanup's exception without a working ``repr`` does not keep the stream from ending."""

    def unspeakable() -> None:
        raise UnspeakableError

    async def work() -> None:
        config, _ = structured(wrappers()[0])
        async with serving(streaming(unspeakable), config) as (app, streams):
            response = await request(app)
            assert response.complete
            assert streams.statistics().open == 0

    in_a_thread(work, backend)


# Values to assert on


async def test_statistics_of_a_stream() -> None:
    """A stream's statistics are a value that tells what it is doing, at each stage of its life."""
    contexts: list[StreamContext] = []
    go_on = anyio.Event()

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        contexts.append(stream)
        stream.callback(lambda: None)
        statistics = stream.statistics()
        assert statistics.state is StreamState.NEW
        assert statistics.close_reason is None
        assert statistics.cleanups == 1
        assert statistics.events == statistics.bytes_pending == statistics.heartbeats == 0

        async def body() -> AsyncIterator[str]:
            yield "one"
            yield "two"
            await go_on.wait()

        return SafeServerSentEvent(body(), ping_interval=0.01)

    async with serving(a_handler, None) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b": ping")
            (stream,) = contexts
            statistics = stream.statistics()
            assert statistics.id == stream.id
            assert "a_handler" in statistics.handler
            assert statistics.state is StreamState.OPEN
            assert statistics.events == 2 + statistics.heartbeats
            assert statistics.heartbeats >= 1
            assert statistics.bytes_pending == 0
            assert 0 < statistics.age < LIMIT
            assert [live.statistics().id for live in streams] == [stream.id]
            go_on.set()
            await connection.finished()
        statistics = stream.statistics()
        assert statistics.state is StreamState.CLOSED
        assert statistics.close_reason is CloseReason.COMPLETED
        assert statistics.cleanups == 0
        assert list(streams) == []


async def test_statistics_of_the_registry() -> None:
    """The registry's statistics are a value: open, opened, refused, ended by reason, draining."""
    async with serving(streaming(content=endless), None) as (app, streams):
        empty = streams.statistics()
        assert (empty.open, empty.opened, empty.refused, empty.closed, empty.draining) == (0, 0, 0, {}, False)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            assert (streams.statistics().open, streams.statistics().opened) == (1, 1)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
            streams.begin_drain()
            assert streams.statistics().draining
            await connection.finished()
        assert (await request(app)).status == 503
        full = streams.statistics()
        assert (full.open, full.opened, full.refused) == (0, 2, 1)
        assert full.closed == {CloseReason.CLIENT_DISCONNECTED: 1, CloseReason.SHUTDOWN: 1}
    assert not streams.statistics().draining
    assert empty.opened == 0
