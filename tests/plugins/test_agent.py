"""The streams of litestar-mcp, adopted."""

from __future__ import annotations

import warnings
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from litestar import Litestar
from litestar.di import Provide

from litestar_safe_sse import CloseReason, SafeSSEConfig, SafeSSEPlugin
from tests.litestar.clients import connect, lifespan

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Click, at its import
    from litestar_mcp.agent import AgentChatController, AgentRuntime, AgentStreamFrame

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Endless(AgentRuntime):
    """An agent that says one thing, and then thinks."""

    def __init__(self, trace: list[str]) -> None:
        self.stream_buffer = 1
        self.trace = trace

    async def produce(self, turn: Any, send: Any) -> None:  # type: ignore[override]
        try:
            await send.send(AgentStreamFrame(event_type="delta", turn_id="turn", text="hello"))
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.trace.append("agent stopped")


@pytest.mark.filterwarnings("ignore::litestar.exceptions.base_exceptions.LitestarDeprecationWarning")
async def test_turn_of_an_agent_ends_with_its_client() -> None:
    """The agent is stopped when nobody listens any more, and the stream is one of ours."""
    trace: list[str] = []

    async def provide_runtime() -> AgentRuntime:
        return Endless(trace)

    plugin = SafeSSEPlugin(SafeSSEConfig(ping_interval=None), adopt=True)
    app = Litestar(
        [AgentChatController],
        plugins=[plugin],
        dependencies={"runtime": Provide(provide_runtime)},
        openapi_config=None,
        logging_config=None,
    )
    headers = [("content-type", "application/json")]
    async with lifespan(app):
        turn = connect(app, "/agent/chat", method="POST", headers=headers, chunks=[b'{"message": "hi"}'])
        async with turn as connection:
            await connection.until_body(b"hello")
            assert len(plugin.streams) == 1
        assert trace == ["agent stopped"]
        assert dict(plugin.streams.statistics().closed) == {CloseReason.CLIENT_DISCONNECTED: 1}
