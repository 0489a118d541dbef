"""The example of the page on WebSockets: on a real Uvicorn, with a program and with a page in Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from litestar_safe_sse import CloseReason
from litestar_safe_sse._core.websocket import CLOSE_CODES
from tests.bounds import WAIT
from tests.docs.processes import UvicornProcess, stream
from tests.docs.test_examples import example, server  # noqa: F401

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PAGE = Path(__file__).parents[2] / "docs" / "websocket.md"


@example("live_scores")
def test_scores_are_the_same_by_both_ways(server: UvicornProcess) -> None:  # noqa: F811
    """From where the client has left off, and closed when it leaves."""
    with stream(server, "/scores?last_event_id=4") as (_, events):
        event = next(events)
        assert (event.event, event.id, json.loads(event.data)) == ("score", "5", {"type": "score", "goals": 5})
    with connect(f"{server.url.replace('http', 'ws')}/scores/ws?last_event_id=4") as socket:
        assert json.loads(socket.recv(WAIT)) == {"retry": 100}
        assert json.loads(socket.recv(WAIT)) == {"event": "score", "id": "5", "data": {"type": "score", "goals": 5}}
    server.until(lambda: server.lines.count("closed: client_disconnected") == 2)


@example("live_scores")
def test_page_of_another_site_is_refused(server: UvicornProcess) -> None:  # noqa: F811
    """By its Origin; a program has none."""
    url = f"{server.url.replace('http', 'ws')}/scores/ws"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, origin=Origin("https://elsewhere.example"))
    assert httpx.get(f"{server.url}/scores?last_event_id=none", timeout=WAIT).status_code == 400


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@example("live_scores")
def test_page_comes_back_to_a_server_that_was_restarted(server: UvicornProcess) -> None:  # noqa: F811
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
    server.wait_for_line("closed: client_disconnected")


def test_table_of_codes_is_that_of_the_code() -> None:
    """Each reason is told by the code that the page says."""
    rows = re.findall(r"^\| (\d{4}) \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    told = {CloseReason[name]: int(code) for code, why in rows for name in re.findall(r"`([A-Z_]+)`", why)}
    assert told == CLOSE_CODES
