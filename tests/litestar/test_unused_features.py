"""A stream costs what it uses: of features that it was not asked for it runs no line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from litestar import get

import litestar_safe_sse
from litestar_safe_sse import PerKey, SafeServerSentEvent, SafeSSEConfig, StreamContext, sse
from tests.bounds import NEVER
from tests.litestar.apps import CONFIG, serving
from tests.litestar.clients import get as request

PACKAGE = Path(litestar_safe_sse.__file__).parent
FEATURES = {
    "_adopt.py",
    "_content.py",
    "_core/access.py",
    "_core/admission.py",
    "_core/slices.py",
    "_core/websocket.py",
    "_events.py",
    "_measuring.py",
    "_refusal.py",
    "_tracing.py",
    "_typed.py",
    "context.py",
    "dependencies.py",
    "handlers.py",
    "metrics.py",
    "view.py",
    "websocket.py",
}
"""The modules of what a stream may be asked for."""


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    yield


async def allow(connection: object) -> bool:
    return True


async def events() -> AsyncIterator[str]:
    yield "one"
    yield "two"


@get("/")
async def plain() -> SafeServerSentEvent:
    return SafeServerSentEvent(events())


@get("/")
async def with_resource(stream: StreamContext) -> SafeServerSentEvent:
    await stream.enter_async_context(resource())
    return SafeServerSentEvent(events())


@get("/")
async def sliced(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(stream.iterate(events()))


@sse("/")
async def generator() -> AsyncIterator[str]:
    yield "one"


async def features_run(handler: Any, config: SafeSSEConfig) -> set[str]:
    """Returns which features' modules run in the second stream of an application."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        files.add(frame.f_code.co_filename)

    async with serving(handler, config=config) as (app, _):
        await request(app, "/")
        sys.setprofile(note)
        try:
            response = await request(app, "/")
        finally:
            sys.setprofile(None)
    assert b"data: one" in response.body
    return FEATURES & {
        Path(file).relative_to(PACKAGE).as_posix() for file in files if Path(file).is_relative_to(PACKAGE)
    }


@pytest.mark.parametrize(
    ("handler", "settings", "used"),
    [
        pytest.param(plain, {}, set(), id="none"),
        pytest.param(with_resource, {}, {"context.py", "dependencies.py"}, id="context"),
        pytest.param(sliced, {}, {"context.py", "dependencies.py", "_core/slices.py"}, id="iterate"),
        pytest.param(generator, {}, {"handlers.py"}, id="decorator"),
        pytest.param(plain, {"max_streams": 2}, set(), id="max_streams"),
        pytest.param(plain, {"admission": PerKey(lambda _: 1, 2)}, {"_core/admission.py"}, id="admission"),
        pytest.param(plain, {"max_lifetime": NEVER}, set(), id="max_lifetime"),
        pytest.param(plain, {"reauthorize": allow}, {"_core/access.py", "_refusal.py"}, id="reauthorize"),
    ],
)
@pytest.mark.anyio
async def test_a_stream_runs_no_line_of_features_it_does_not_use(
    handler: Any, settings: dict[str, Any], used: set[str]
) -> None:
    """Whichever it does use, it runs of the others nothing."""
    assert await features_run(handler, replace(CONFIG, **settings)) == used
