"""Logging as applications configure it, and what is logged of streams."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from litestar import Litestar, get
from structlog.testing import LogCapture

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin
from tests.litestar.apps import CONFIGURES_LOGGING
from tests.litestar.clients import lifespan

if TYPE_CHECKING:
    from litestar.logging import LoggingConfig, StructLoggingConfig

    from litestar_safe_sse import StreamContext
    from litestar_safe_sse._core.registry import StreamRegistry


CONFIG = SafeSSEConfig(ping_interval=None, cleanup_timeout=0.05, shutdown_grace=0.05)


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


def standard(records: Records, level: str = "DEBUG") -> LoggingConfig:
    """Litestar's configuration of the standard library's logging."""
    from litestar.logging import LoggingConfig

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
        **({"logging_config": logging_config} if CONFIGURES_LOGGING else {}),
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


async def endless() -> AsyncIterator[str]:
    yield "begun"
    await anyio.sleep_forever()


def fail() -> None:
    raise LookupError("the pool is gone")


def structured(wrapper_class: Any) -> tuple[StructLoggingConfig, LogCapture]:
    from litestar.logging import StructLoggingConfig

    capture = LogCapture()
    config = StructLoggingConfig(
        processors=[capture],
        wrapper_class=wrapper_class,
        cache_logger_on_first_use=False,
        standard_lib_logging_config=None,
    )
    return config, capture
