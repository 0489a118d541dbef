"""The client of OpenAI's, at an application that streams by the same protocol."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.docs.processes import running
from tests.plugins.completions import WORDS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
    from openai import OpenAI


@pytest.mark.parametrize("model", ["plain", "numbered"])
def test_client_sees_what_the_body_yields_and_nothing_else(model: str) -> None:
    """It takes an empty line behind a heartbeat, an ID or a reconnection time for an event, and fails at it."""
    with (
        running("completions:app", Path(__file__).parent) as server,
        OpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "bread"}], stream=True
        )
        assert tuple(chunk.choices[0].delta.content for chunk in answer) == WORDS
