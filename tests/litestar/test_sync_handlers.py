"""Handlers that are no coroutine functions, in a thread or in the event loop's."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from litestar import get

from litestar_safe_sse import SafeServerSentEvent, StreamContext
from tests.litestar.apps import serving
from tests.litestar.bodies import Trace
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_context_that_a_sync_handler_enters_is_left_where_it_was_entered(
    trace: Trace, in_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It can reset the context variable that it has set, which the body sees."""

    @contextmanager
    def acting_for(name: str) -> Iterator[None]:
        token = tenant.set(name)
        yield
        tenant.reset(token)
        trace.append("left")

    @get("/", sync_to_thread=in_thread)
    def handler(stream: StreamContext) -> SafeServerSentEvent:
        stream.enter_context(acting_for("somebody"))
        return SafeServerSentEvent(tenant.get() for _ in range(1))

    async with serving(handler) as (app, _):
        response = await request(app, "/")
    assert b"data: somebody" in response.body
    assert trace == ["left"]
    assert "failed" not in caplog.text
