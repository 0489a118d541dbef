"""The README does what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from httpx_sse import EventSource

from litestar_safe_sse.testing import open_stream_sync
from tests.bounds import WAIT
from tests.docs.conftest import Load
from tests.docs.processes import PLAIN, leave, reset, running, stream
from tests.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICKSTART, GENERATOR, SOURCES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_quickstart_is_short() -> None:
    """Fifteen lines are enough, empty ones included."""
    assert len(QUICKSTART.splitlines()) <= 15


@pytest.mark.parametrize("abort", [leave, reset])
def test_quickstart_cleans_up_when_its_client_aborts(tmp_path: Path, abort: Callable[[httpx.Response], None]) -> None:
    """The quickstart runs as it stands, and its `finally` finishes after the client has gone."""
    (tmp_path / "quickstart.py").write_text(QUICKSTART)
    with running("quickstart:app", tmp_path) as server:
        with httpx.Client(verify=PLAIN) as client, client.stream("GET", f"{server.url}/ticks") as response:
            events = EventSource(response).iter_sse()
            assert next(events).data == "tick"
            assert "closed" not in server.output
            abort(response)
        server.wait_for("closed: client_disconnected")


def test_quickstart_cleans_up_when_the_server_is_stopped(tmp_path: Path) -> None:
    """SIGTERM ends the open stream, its `finally` finishes, and the process exits."""
    (tmp_path / "quickstart.py").write_text(QUICKSTART)
    with running("quickstart:app", tmp_path) as server:
        with httpx.Client(verify=PLAIN) as client, client.stream("GET", f"{server.url}/ticks") as response:
            events = EventSource(response).iter_sse()
            assert next(events).data == "tick"
            server.terminate()
            assert list(events) == []
        assert "closed: shutdown" in server.output


def test_generator_is_a_handler(load: Load, tmp_path: Path) -> None:
    """It runs as it stands, its events have a type, and what it raises ahead of the first is an error."""
    (tmp_path / "chat.py").write_text(GENERATOR)
    app = load(str(tmp_path / "chat")).app
    with open_stream_sync(app, "POST", "/chat", json={"ask": "why me"}, timeout=WAIT) as stream:
        events = [(event.type, event.json()["text"]) for event in stream]
    assert (stream.status, events) == (200, [("token", "why"), ("token", "me")])
    with open_stream_sync(app, "POST", "/chat", json={}, timeout=WAIT) as response:
        assert response.status == 500


def test_feed_is_resumed_by_another_worker(tmp_path: Path, redis_server: RedisServer) -> None:
    """The section on sources runs as it stands, but for the address of Redis."""
    assert "redis://localhost" in SOURCES
    (tmp_path / "feed.py").write_text(SOURCES.replace("redis://localhost", redis_server.url))
    with running("feed:app", tmp_path) as first, running("feed:app", tmp_path) as second:
        with stream(first, "/news") as (_, events):
            last = next(events).id
            httpx.post(f"{second.url}/news", json="one", verify=PLAIN)
            assert next(events).data == "one"
        with stream(second, "/news", last) as (_, events):
            assert next(events).data == "one"


@pytest.mark.parametrize("script", ["example", "test"])
def test_command_is_a_script_of_this_repository(script: str) -> None:
    """The two commands exist, and can be run."""
    assert f"\n./scripts/{script}\n" in README
    assert (ROOT / "scripts" / script).stat().st_mode & 0o111


def test_ci_runs_the_command_that_readers_are_given() -> None:
    """What passes in CI is what the README says."""
    assert "\n./scripts/test\n" in (ROOT / ".ci" / "run").read_text()


def test_paths_named_in_the_readme_exist() -> None:
    """No link of the README leads nowhere."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
