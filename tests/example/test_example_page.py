"""The page in a real browser, against a real server."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

from example_app.bodies import KINDS
from tests.bounds import START, WAIT
from tests.docs.processes import WITHOUT_MODELS
from tests.example.processes import CHROMIUM, WAIT_MS
from tests.ports import free_port
from tests.servers.kinds import long_if
from tests.signals import default_signals

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")


@contextlib.contextmanager
def serving(port: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["example_app.app:app", "--port", str(port), "--log-level", "warning"]
    command = [sys.executable, "-c", WITHOUT_MODELS, "uvicorn", *arguments]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=default_signals) as process:
        try:
            deadline = time.monotonic() + START
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, "the server ended at its start"
                assert time.monotonic() < deadline, "the server did not listen in time"
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    with serving(port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def tolerated() -> set[str]:
    """What the page may write to the console; a test adds to it."""
    return set()


@pytest.fixture
def page(browser: BrowserContext, url: str, tolerated: set[str]) -> Iterator[Page]:
    """The page, live and at zero. Whatever else it writes to the console or loads from elsewhere fails the test."""
    page = browser.new_page()
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(url):
            complaints.append(f"loads {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", on_request)
    visit(page, url)
    page.request.post(f"{url}/reset")
    expect(held(page, "safe")).to_have_text("0")
    expect(held(page, "litestar")).to_have_text("0")
    yield page
    page.close()
    assert [complaint for complaint in complaints if not any(text in complaint for text in tolerated)] == []


def visit(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#link")).to_have_text("live", timeout=WAIT_MS)


def held(page: Page, via: str) -> Locator:
    return page.locator(f".side[data-via={via}] [data-held]")


def open_stream(page: Page, kind: str, via: str = "safe") -> Locator:
    """Open a stream, and return its slot once the server says which number it has."""
    before = page.locator(".slot[data-state=open]").count()
    row = page.locator(f".kind[data-kind={kind}]")
    row.locator(f"input[value={via}]").check()
    row.get_by_role("button", name="Open").click()
    expect(page.locator(".slot[data-state=open]")).to_have_count(before + 1, timeout=WAIT_MS)
    slot = page.locator(".slot[data-state=open]", has=page.get_by_role("heading", name=KINDS[kind].title)).last
    name = slot.get_by_role("heading").inner_text()
    return page.locator(".slot", has=page.get_by_role("heading", name=name, exact=True))


GIVEN_BACK = re.compile("Given back (after|as it ended)")


def ended_row(page: Page, slot: Locator) -> Locator:
    name = slot.get_by_role("heading").inner_text()
    return page.locator("#ended tbody tr", has=page.get_by_text(name, exact=True))


SEEN_BY_OTHERS = ("answer", "dashboard")
"""Kinds that other tests open, and that are closed as ``notifications`` and ``job`` are."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=long_if(kind in SEEN_BY_OTHERS)) for kind in KINDS])
def test_closing_a_stream_gives_its_resource_back(page: Page, kind: str) -> None:
    """A stream of any kind holds one resource while it is open, and none once the page has closed it."""
    slot = open_stream(page, kind)
    expect(held(page, "safe")).to_have_text("1", timeout=WAIT_MS)
    if kind == "notifications":
        slot.get_by_role("button", name="Notify").click()
    expect(slot.locator(".wire")).to_contain_text("data: ", timeout=WAIT_MS)
    slot.get_by_role("button", name="Close").click()
    expect(held(page, "safe")).to_have_text("0", timeout=WAIT_MS)
    expect(slot.locator("[data-outcome]")).to_contain_text(GIVEN_BACK, timeout=WAIT_MS)
    expect(ended_row(page, slot)).to_contain_text("CLIENT_DISCONNECTED", timeout=WAIT_MS)


def test_events_arrive_while_the_stream_is_open(page: Page) -> None:
    """The log shows fields and heartbeats as they are on the wire, and its count of events grows."""
    answer = open_stream(page, "answer")
    waiting = open_stream(page, "notifications")
    expect(answer.locator(".wire")).to_contain_text("event: token", timeout=WAIT_MS)
    page.wait_for_function(
        "slot => parseInt(slot.textContent) >= 5", arg=answer.locator("[data-count]").element_handle()
    )
    expect(waiting.locator(".wire .comment").first).to_be_visible(timeout=WAIT_MS)
    expect(waiting.locator("[data-count]")).to_have_text("0 events")


def test_four_streams_fill_the_page_and_close_all_frees_it(page: Page) -> None:
    """With four streams open no more can be opened; closing all gives all four resources back."""
    for kind in ("notifications", "answer", "dashboard", "export"):
        open_stream(page, kind)
    expect(held(page, "safe")).to_have_text("4", timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Open Job progress")).to_be_disabled()
    page.get_by_role("button", name="Close all").click()
    expect(held(page, "safe")).to_have_text("0", timeout=WAIT_MS)
    expect(page.locator("#ended .reason", has_text="CLIENT_DISCONNECTED")).to_have_count(4, timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Open Job progress")).to_be_enabled()


@pytest.mark.parametrize("kind", ["notifications", "export"])
def test_server_revokes_a_stream(page: Page, tolerated: set[str], kind: str) -> None:
    """A stream revoked from the server's side ends in the page, as REVOKED, with its resource given back."""
    if kind == "export":  # what is being sent when the right to it ends is taken back with its connection
        tolerated.add("net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    slot = open_stream(page, kind)
    expect(held(page, "safe")).to_have_text("1", timeout=WAIT_MS)
    slot.get_by_role("button", name="Revoke").click()
    expect(slot.locator("[data-outcome]")).to_contain_text("REVOKED", timeout=WAIT_MS)
    expect(held(page, "safe")).to_have_text("0", timeout=WAIT_MS)


def test_closed_tab_leaves_nothing_behind(page: Page, browser: BrowserContext, url: str) -> None:
    """A tab that is closed without a word gives back all that its streams held."""
    other = browser.new_page()
    visit(other, url)
    open_stream(other, "notifications")
    open_stream(other, "answer")
    expect(held(page, "safe")).to_have_text("2", timeout=WAIT_MS)
    other.close()
    expect(held(page, "safe")).to_have_text("0", timeout=WAIT_MS)


def test_switch_to_litestars_own_shows_the_leak(page: Page) -> None:
    """The same body sent by Litestar's own response stays lit as leaked after its close, until it is reset."""
    slot = open_stream(page, "answer", via="litestar")
    expect(slot.get_by_role("button", name="Revoke")).to_be_disabled()
    expect(held(page, "litestar")).to_have_text("1", timeout=WAIT_MS)
    slot.get_by_role("button", name="Close").click()
    side = page.locator(".side[data-via=litestar]")
    expect(side.locator("[data-leaked]")).to_have_text("1 leaked", timeout=WAIT_MS)
    expect(side.locator(".dots .leaked")).to_have_count(1)
    expect(ended_row(page, slot)).to_contain_text("leaked")
    expect(page.locator(".kind[data-kind=answer]")).to_contain_text("billed while nobody listens")
    side.get_by_role("button", name="Reset").click()
    expect(held(page, "litestar")).to_have_text("0", timeout=WAIT_MS)


def test_crowd_of_a_hundred(page: Page) -> None:
    """A hundred visitors who hang up at once leave nothing on the plugin's side, and all they held on Litestar's."""
    page.get_by_role("button", name="Send 100 visitors to each").click()
    safe, litestar = page.locator(".side[data-via=safe]"), page.locator(".side[data-via=litestar]")
    # The crowd stays for less than a second: looked at on every frame, it is not missed.
    page.wait_for_function("gauge => gauge.textContent === '100'", arg=held(page, "safe").element_handle())
    expect(safe.locator("[data-result]")).to_contain_text("All given back within", timeout=WAIT_MS)
    expect(held(page, "safe")).to_have_text("0", timeout=WAIT_MS)
    expect(litestar.locator("[data-result]")).to_contain_text("100 of 100 still held", timeout=WAIT_MS)
    expect(litestar.locator("[data-leaked]")).to_have_text("100 leaked", timeout=WAIT_MS)


@pytest.mark.parametrize(
    "width", [pytest.param(width, marks=long_if(width in (390, 768))) for width in (320, 390, 768, 1280)]
)
def test_page_fits_its_width(page: Page, width: int) -> None:
    """At no width does the page scroll sideways, streams included."""
    page.set_viewport_size({"width": width, "height": 800})
    open_stream(page, "export").get_by_role("button", name="Close").click()
    expect(page.locator("#ended")).to_be_visible(timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_server_stops_with_streams_open_and_the_page_reconnects(browser: BrowserContext) -> None:
    """SIGTERM ends the server though streams are open, and the page finds its successor by itself."""
    port = free_port()
    page = browser.new_page()
    with contextlib.closing(page):
        with serving(port) as process:
            visit(page, f"http://127.0.0.1:{port}")
            slots = [open_stream(page, kind) for kind in ("notifications", "answer", "dashboard", "job")]
            expect(held(page, "safe")).to_have_text("4", timeout=WAIT_MS)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=WAIT)
        for slot in slots:
            expect(slot).to_have_attribute("data-state", "closed", timeout=WAIT_MS)
        expect(page.locator("#link")).to_have_text("reconnecting")
        with serving(port):
            expect(page.locator("#link")).to_have_text("live", timeout=WAIT_MS)
            expect(held(page, "safe")).to_have_text("0")


def test_page_of_another_site_is_not_obeyed(browser: BrowserContext, url: str) -> None:
    """What it sends is refused before anything is done, though the browser would not let it read an answer."""
    page = browser.new_page()
    page.goto(f"{url.replace('127.0.0.1', 'localhost')}/kinds")  # an origin of its own, whose requests are let through
    for path, method in [("/reset", "POST"), ("/notifications", "POST"), ("/streams/safe/job", "GET")]:
        with page.expect_response(f"{url}{path}") as response:
            page.evaluate("([url, method]) => void fetch(url, {method, mode: 'no-cors'})", [f"{url}{path}", method])
        assert response.value.status == 403
    page.close()
