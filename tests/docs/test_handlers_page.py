"""The examples of the page on ``@sse``, on a real Uvicorn, and with the client that a generator makes."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.bounds import WAIT
from tests.docs.processes import UvicornProcess, stream
from tests.docs.test_examples import example, server  # noqa: F401


@example("job_events")
def test_progress_is_typed(server: UvicornProcess) -> None:  # noqa: F811
    """Each event has the type that its Struct has as a tag."""
    with stream(server, "/jobs/1") as (_, events):
        seen = [(event.event, json.loads(event.data)) for event in events]
    assert [kind for kind, _ in seen] == ["progress"] * 4 + ["done"]
    assert seen[1] == ("progress", {"type": "progress", "percent": 25})
    assert seen[-1] == ("done", {"type": "done", "result": "finished"})


@example("job_events")
def test_job_that_is_not_there(server: UvicornProcess) -> None:  # noqa: F811
    """Is answered 404, by the generator."""
    response = httpx.get(f"{server.url}/jobs/2", timeout=WAIT)
    assert (response.status_code, response.json()["detail"]) == (404, "There is no job 2.")


@example("chat_events")
def test_answer_to_a_question(server: UvicornProcess) -> None:  # noqa: F811
    """Its tokens are text, its end is JSON, and the model is closed."""
    response = httpx.post(f"{server.url}/chat", json={"text": "live on"}, timeout=WAIT)
    assert response.status_code == 200
    assert response.text.replace("\r\n", "|") == (
        'event: token|data: evil||event: token|data: no||event: usage|data: {"tokens":2}||'
    )
    server.wait_for_line("model closed")


@pytest.mark.parametrize(("body", "status"), [({"text": ""}, 422), ({}, 400)])
@example("chat_events")
def test_question_that_is_refused(server: UvicornProcess, body: dict[str, str], status: int) -> None:  # noqa: F811
    """By the model, or by the type of the body."""
    assert httpx.post(f"{server.url}/chat", json=body, timeout=WAIT).status_code == status


@example("called_back")
def test_readings_that_are_called_back(server: UvicornProcess) -> None:  # noqa: F811
    """They come behind what was yielded first, and the sensor is closed when the client leaves."""
    with stream(server, "/readings") as (response, events):
        assert next(events).event == "started"
        assert [json.loads(next(events).data)["celsius"] for _ in range(3)] == [20.0, 20.1, 20.2]
        response.close()
    server.wait_for_line("sensor closed")
