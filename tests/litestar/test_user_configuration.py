"""What the user configured is kept, and what was not configured has its default."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException

from litestar_safe_sse import (
    InvalidFieldError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    StreamContext,
)
from tests.litestar.apps import ClassMiddleware, NamedDependency, Pool, collect, make_app, serving, serving_defaults
from tests.litestar.bodies import Trace
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_configuration_of_the_user_is_extended(trace: Trace) -> None:
    """The plugin keeps what the user configured, and does not touch the user's own lists."""
    dependencies = {"pool": Provide(lambda: Pool("mine"), sync_to_thread=False)}
    middleware = [ClassMiddleware]
    namespace = {"Mine": str}
    after_exception = [collect([])]
    on_startup = [lambda: trace.append("startup")]
    on_shutdown = [lambda: trace.append("shutdown")]

    @asynccontextmanager
    async def manager(app: Litestar) -> AsyncIterator[None]:
        trace.append("enter")
        yield
        trace.append("exit")

    lifespans = [manager]

    @get("/")
    async def handler(pool: NamedDependency[Pool], stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent([pool.name])

    async with serving(
        handler,
        dependencies=dependencies,
        middleware=middleware,
        signature_namespace=namespace,
        after_exception=after_exception,
        on_startup=on_startup,
        on_shutdown=on_shutdown,
        lifespan=lifespans,
    ) as (app, _):
        app.state.trace = trace
        assert (await request(app)).body == b"data: mine\r\n\r\n"
        assert app.signature_namespace["Mine"] is str
    assert trace == ["enter", "startup", "middleware", "exit", "shutdown"]
    assert list(dependencies) == ["pool"]
    assert middleware == [ClassMiddleware]
    assert list(namespace) == ["Mine"]
    assert len(after_exception) == len(on_startup) == len(on_shutdown) == len(lifespans) == 1


def test_dependency_of_the_user_with_our_name_is_refused() -> None:
    """An application that has a dependency ``stream`` already is told to rename it."""
    with pytest.raises(ImproperlyConfiguredException, match="rename it"):
        make_app(dependencies={"stream": Provide(lambda: 1, sync_to_thread=False)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ping_interval", r"must be given to the configuration: SafeSSEPlugin\(SafeSSEConfig\(ping_interval=...\)\)"),
        ("ping_intervall", r"must be .*, or a setting, as in SafeSSEPlugin.*; did you mean ping_interval\?"),
        ("adapt", r"must be a parameter of SafeSSEPlugin.*; did you mean adopt\?"),
        ("heartbeat", r"must be a parameter of SafeSSEPlugin.*: config, adopt, view, ping_interval, "),
    ],
)
def test_plugin_refuses_what_is_no_parameter_of_it(name: str, message: str) -> None:
    """And says where settings belong."""
    given: Any = {name: 3}
    with pytest.raises(InvalidFieldError, match=f"invalid {name}: {message}"):
        SafeSSEPlugin(**given)


def test_plugin_refuses_functions_that_cannot_be_called() -> None:
    """Once, at the start, and not with each stream."""
    for name in ("expires_at", "on_error"):
        given: Any = {name: lambda: None}
        with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be a function that can be called with "):
            SafeSSEPlugin(SafeSSEConfig(**given))


def test_plugin_without_a_config() -> None:
    """A plugin without a configuration has the defaults."""
    assert SafeSSEPlugin().config == SafeSSEConfig()


async def test_logger_is_the_standard_librarys_without_a_logging_config(caplog: pytest.LogCaptureFixture) -> None:
    """Where the application has no logging configuration, the standard library's logger hears of streams."""
    with caplog.at_level(logging.DEBUG, "litestar_safe_sse"):
        async with serving_defaults([]) as (app, _):
            await request(app, "/brief")
    assert any("closed: completed" in record.getMessage() for record in caplog.records)
