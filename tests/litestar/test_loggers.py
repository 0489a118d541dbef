"""Whose logger is used, and that one which fails holds up nothing."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import structlog
from litestar import Litestar
from litestar.logging import StructLoggingConfig
from litestar.logging.config import BaseLoggingConfig

from litestar_safe_sse import SafeSSEPlugin
from tests.bounds import WAIT
from tests.litestar.clients import get as request
from tests.litestar.logs import CONFIG, Records, fail, serving, standard, streaming, structured

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.anyio


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
    exception_logging_handler: Any = None

    def configure(self) -> Any:
        return lambda name=None: BrokenLogger()

    @staticmethod
    def set_level(logger: Any, level: int) -> None: ...


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
    thread.join(WAIT)
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
