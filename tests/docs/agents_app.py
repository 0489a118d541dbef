"""Agents of other libraries, whose events are sent as they have encoded them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ag_ui.core import BaseEvent, RunAgentInput, RunFinishedEvent, RunStartedEvent
from ag_ui.core import TextMessageContentEvent as Content
from ag_ui.core import TextMessageEndEvent as End
from ag_ui.core import TextMessageStartEvent as Start
from litestar import Litestar, Request, post
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui.vercel_ai import VercelAIAdapter

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, sse

agent = Agent(TestModel(custom_output_text="hello from a model"))


@post("/vercel")
async def vercel(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
    run_input = VercelAIAdapter.build_run_input(await request.body())
    adapter = VercelAIAdapter(agent, run_input)
    return SafeServerSentEvent(
        adapter.encode_stream(adapter.run_stream()), headers={"x-vercel-ai-ui-message-stream": "v1"}
    )


@sse("/ag-ui", method="POST")
async def ag_ui(request: Request[Any, Any, Any]) -> AsyncIterator[BaseEvent]:
    run = RunAgentInput.model_validate_json(await request.body())
    yield RunStartedEvent(thread_id=run.thread_id, run_id=run.run_id)
    yield Start(message_id="m", role="assistant")
    for word in ("hello ", "from ", "an ", "agent"):
        yield Content(message_id="m", delta=word)
    yield End(message_id="m")
    yield RunFinishedEvent(thread_id=run.thread_id, run_id=run.run_id)


app = Litestar([vercel, ag_ui], plugins=[SafeSSEPlugin()])
