"""The example of the page on WebSockets: with a program, and on a real Uvicorn with a page in Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from litestar_safe_sse import CloseReason
from litestar_safe_sse._core.websocket import CLOSE_CODES
from litestar_safe_sse.testing import open_stream_sync, open_websocket_sync
from tests.bounds import WAIT
from tests.docs.conftest import Load
from tests.docs.processes import ServerProcess
from tests.docs.test_examples import example, server  # noqa: F401

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PAGE = Path(__file__).parents[2] / "docs" / "websocket.md"


def test_scores_are_the_same_by_both_ways(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """From where the client has left off, and closed when it leaves."""
    app = load("live_scores").app
    with open_stream_sync(app, "GET", "/scores?last_event_id=4", timeout=WAIT) as stream:
        event = stream.next()
        assert (event.type, event.id, event.json()) == ("score", "5", {"type": "score", "goals": 5})
    with open_websocket_sync(app, "/scores/ws", last_event_id="4", timeout=WAIT) as socket:
        assert socket.next() == event
        assert [json.loads(message) for message in socket.messages[:2]] == [
            {"retry": 100},
            {"event": "score", "id": "5", "data": {"type": "score", "goals": 5}},
        ]
    assert capsys.readouterr().out.splitlines() == ["closed: client_disconnected"] * 2


def test_page_of_another_site_is_refused(load: Load) -> None:
    """By its Origin; a program has none."""
    app = load("live_scores").app
    with open_websocket_sync(app, "/scores/ws", headers={"Origin": "https://elsewhere.example"}) as socket:
        assert socket.status == 403
    with open_stream_sync(app, "GET", "/scores?last_event_id=none") as response:
        assert response.status == 400


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@example("live_scores")
def test_page_comes_back_to_a_server_that_was_restarted(server: ServerProcess) -> None:  # noqa: F811
    """Where it was told to stop, and where it was killed: each score comes once, in order."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser,
    ):
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(
            "() => { window.seen = []; window.stop = follow('/scores/ws', (_, score) => seen.push(score.goals)) }"
        )
        count = 0
        for stop in (server.terminate, server.close):
            page.wait_for_function("n => seen.length > n", arg=count + 2, timeout=1000 * WAIT)
            stop()
            count = page.evaluate("seen.length")
            server.start_again()
        page.wait_for_function("n => seen.length > n", arg=count + 2, timeout=1000 * WAIT)
        page.evaluate("stop()")
        seen = page.evaluate("seen")
    assert seen == list(range(1, len(seen) + 1))
    server.wait_for("closed: client_disconnected")


def test_table_of_codes_is_that_of_the_code() -> None:
    """Each reason is told by the code that the page says."""
    rows = re.findall(r"^\| (\d{4}) \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    told = {CloseReason[name]: int(code) for code, why in rows for name in re.findall(r"`([A-Z_]+)`", why)}
    assert told == CLOSE_CODES
