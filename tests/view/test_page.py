"""The page in a real browser, and the list in a terminal, of a real server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.bounds import START, WAIT
from tests.docs.processes import PLAIN
from tests.example.processes import CHROMIUM
from tests.proxies import balancer
from tests.servers.kinds import KINDS
from tests.servers.processes import running
from tests.view.app import AUTHORIZATION

PATH = "/_sse/streams"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("view")
    with running(KINDS["uvicorn-h1-httptools-uvloop"], directory, app="tests.view.app:app") as server:
        yield f"http://127.0.0.1:{server.port}"


@contextlib.contextmanager
def opened(url: str, path: str, who: str, **keys: str) -> Iterator[Iterator[str]]:
    """A stream whose first event has come, by lines."""
    with httpx.stream("GET", f"{url}{path}", params={"who": who, **keys}, timeout=WAIT, verify=PLAIN) as response:
        lines = response.iter_lines()
        assert next(lines) == "data: first"
        yield lines


@pytest.fixture
def page(browser: BrowserContext, url: str) -> Iterator[Page]:
    """The page. Whatever it writes to the console or loads from elsewhere fails the test."""
    page = browser.new_page()
    page.set_extra_http_headers({"Authorization": AUTHORIZATION})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
    page.goto(f"{url}{PATH}/page.html")
    expect(page.get_by_role("status")).to_have_text("live")
    yield page
    page.close()
    assert [complaint for complaint in complaints if not complaint.startswith("data:")] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
def test_streams_come_and_go_on_the_page(page: Page, url: str) -> None:
    """Without its being loaded again; what clients say of themselves is shown as text."""
    live, ended = page.locator("#live tr"), page.locator("#ended tr")
    with opened(url, "/jobs", "<b>ann</b>"):
        row = live.filter(has_text="/jobs")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("<b>ann</b>")
        expect(row).to_contain_text("open")
    expect(live.filter(has_text="/jobs")).to_have_count(0)
    expect(ended.filter(has_text="<b>ann</b>")).to_contain_text("client_disconnected")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
def test_buttons_close_streams(page: Page, url: str) -> None:
    """One, or all of a handler, which the clients see as a proper end."""
    live, ended = page.locator("#live tr"), page.locator("#ended tr")
    with opened(url, "/jobs", "one") as one, opened(url, "/news", "two"), opened(url, "/news", "three"):
        live.filter(has_text="one").get_by_role("button", name="Close", exact=True).click()
        assert set(one) == {""}
        live.filter(has_text="two").get_by_role("button", name="Close all", exact=True).click()
        for who in ("one", "two", "three"):
            expect(ended.filter(has_text=who)).to_contain_text("closed")
            expect(live.filter(has_text=who)).to_have_count(0)
    expect(page.get_by_role("status")).to_have_text("live")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
def test_a_button_closes_the_streams_of_a_key(page: Page, url: str) -> None:
    """Whatever their handler; the key is shown as text, and that of another rule is another."""
    live, ended = page.locator("#live tr"), page.locator("#ended tr")
    with (
        opened(url, "/jobs", "four", user="<i>red</i>") as four,
        opened(url, "/news", "five", user="<i>red</i>") as five,
        opened(url, "/news", "six", team="<i>red</i>"),
    ):
        row = live.filter(has_text="four")
        expect(row).to_contain_text("<i>red</i>")
        row.get_by_role("button", name="Close all of <i>red</i>").click()
        for who in ("four", "five"):
            expect(ended.filter(has_text=who)).to_contain_text("closed")
            expect(live.filter(has_text=who)).to_have_count(0)
        assert set(four) == set(five) == {""}
        expect(live.filter(has_text="six")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("live")


HEADER = ("--header", f"Authorization: {AUTHORIZATION}")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "litestar_safe_sse.cli", "streams", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=START)


def test_streams_are_listed_in_a_terminal(url: str) -> None:
    """By the same view, and as JSON for programs."""
    with opened(url, "/jobs", "ann", user="red"):
        shown = run(url, *HEADER)
        [process] = json.loads(run(f"{url}{PATH}", *HEADER, "--json").stdout)
    assert shown.returncode == 0
    assert "/jobs" in shown.stdout
    [stream] = [stream for stream in process["streams"] if stream["path"] == "/jobs"]
    assert (stream["who"], stream["keys"]) == ("ann", [{"by": 0, "key": "red"}])
    assert "red" in shown.stdout


def test_every_process_behind_a_balancer_is_asked(tmp_path: Path) -> None:
    """Each knows its own streams only, and is told of once."""
    kind = KINDS["uvicorn-h1-httptools-uvloop"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        running(kind, tmp_path / "one", app="tests.view.app:app") as one,
        running(kind, tmp_path / "two", app="tests.view.app:app") as two,
        balancer(one.port, two.port, directory=tmp_path / "haproxy") as port,
        opened(f"http://127.0.0.1:{one.port}", "/jobs", "ann"),
        opened(f"http://127.0.0.1:{two.port}", "/news", "bob"),
    ):
        listed = json.loads(run(f"http://127.0.0.1:{port}", *HEADER, "--json").stdout)
        pids = {record["pid"] for server in (one, two) for record in server.records.named("startup")}
    assert len(pids) == 2
    assert [process["process"] for process in listed] == sorted(pids)
    assert sorted([stream["who"] for stream in process["streams"]] for process in listed) == [["ann"], ["bob"]]


def test_every_worker_of_a_server_is_met(tmp_path: Path) -> None:
    """Which of them answers is for the kernel to say, so it may take more than one command."""
    met: dict[int, list[str]] = {}
    with running(KINDS["uvicorn-h1-httptools-uvloop"], tmp_path, app="tests.view.app:app", workers=2) as server:
        url = f"http://127.0.0.1:{server.port}"
        deadline = time.monotonic() + WAIT
        with opened(url, "/jobs", "ann"):
            while len(met) < 2 and time.monotonic() < deadline:
                for process in json.loads(run(url, *HEADER, "--json").stdout):
                    met[process["process"]] = [stream["who"] for stream in process["streams"]]
        pids = {record["pid"] for record in server.records.named("startup")}
    assert met.keys() == pids
    assert sorted(met.values()) == [[], ["ann"]]


@pytest.mark.parametrize(
    ("path", "header", "says"),
    [
        ("", "X: y", "its guards refuse (401)"),
        ("/jobs?who=x", "X: y", "is no view of streams"),
        ("/none", "X: y", "404"),
    ],
)
def test_what_is_no_view_is_told_in_a_line(url: str, path: str, header: str, says: str) -> None:
    """And what to do."""
    told = run(f"{url}{path}", "--header", header)
    assert told.returncode == 2
    [line] = told.stderr.splitlines()
    assert says in line
