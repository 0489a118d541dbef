"""The page of the feed in a real browser: its worker is killed, and it shows every event once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect
from redis import Redis

from example_app.feed import TOPIC
from tests.example.processes import CHROMIUM, WAIT_MS, launched, read_feed
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")


@pytest.fixture(scope="module")
def shared(redis: RedisServer) -> Iterator[str]:
    """Two workers on one Redis; started first, since they have to be a few seconds old."""
    with launched(workers=2, redis_url=redis.url) as url:
        yield url


@pytest.fixture(scope="module")
def alone(shared: str) -> Iterator[str]:
    with launched() as url:
        yield url


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page that may complain of nothing but connections that were cut off."""
    page = browser.new_page()
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "net::ERR_" not in message.text:
            complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def visit(page: Page, url: str) -> None:
    page.goto(f"{url}/resume.html")
    expect(page.locator("#link")).to_have_text("live", timeout=WAIT_MS)


def received(page: Page, many: int) -> None:
    page.wait_for_function("many => parseInt(document.querySelector('#received').textContent) >= many", arg=many)


def shown(page: Page) -> list[str]:
    """Publisher and number of each event that the page has listed, the oldest first."""
    rows = page.locator("#arrived tr[data-key]").evaluate_all("rows => rows.map(row => row.dataset.key)")
    return [str(key) for key in reversed(rows)]


def stored(redis: RedisServer) -> list[str]:
    """The same of each event that Redis has, in order, as its own client reads it."""
    with Redis.from_url(redis.url, protocol=2) as client:
        entries: Any = client.xrange(f"{{sse-example}}:log:{TOPIC}")
    events = [json.loads(fields[b"data"]) for _, fields in entries if b"data" in fields]
    return [f"{event['worker']['id']}·{event['number']}" for event in events]


@pytest.mark.long
def test_one_worker_with_its_log_in_memory_resumes_too(page: Page, alone: str) -> None:
    """Without Redis the page says why its worker can't be killed; to hang up and come back loses nothing."""
    visit(page, alone)
    expect(page.locator("#storage")).to_contain_text("memory")
    expect(page.locator("#advice")).to_contain_text("EXAMPLE_REDIS_URL")
    expect(page.locator("#kill")).to_be_disabled()
    page.get_by_role("button", name="Publish a note").click()
    expect(page.locator("#arrived tr[data-kind=note]")).to_have_count(1, timeout=WAIT_MS)
    page.get_by_role("button", name="Hang up").click()
    for event in read_feed(alone):  # until something has been missed
        if event.type == "published":
            break
    page.get_by_role("button", name="Come back").click()
    verdict = page.locator(".chapter .verdict")
    expect(verdict).to_have_attribute("data-tone", "good", timeout=WAIT_MS)
    assert re.search(r"[1-9]\d* events? replayed, 0.missing, 0.doubled", verdict.inner_text())
    keys = shown(page)
    assert [int(key.partition("·")[2]) for key in keys] == [
        int(keys[0].partition("·")[2]) + index for index in range(len(keys))
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_feed_outlives_the_worker_that_the_page_kills(page: Page, shared: str, redis: RedisServer) -> None:
    """The page kills the worker it is connected to, resumes from the other one, and has every event once, in order."""
    visit(page, shared)
    kill = page.locator("#kill")
    expect(kill).to_be_enabled(timeout=WAIT_MS)
    pid = kill.inner_text().rpartition(" ")[2]
    kill.click()

    chapter = page.locator(".chapter")
    expect(chapter.get_by_role("heading")).to_have_text(f"Worker {pid} was killed", timeout=WAIT_MS)
    expect(chapter.locator("[data-how]")).to_contain_text("back on another worker")
    verdict = chapter.locator(".verdict")
    expect(verdict).to_have_attribute("data-tone", "good", timeout=WAIT_MS)
    assert re.search(r"Resumed after #\d+·\d+: [1-9]\d* events? replayed, 0.missing, 0.doubled", verdict.inner_text())
    expect(page.locator(".worker[data-state=killed]")).to_contain_text(pid)
    expect(page.locator(".worker[data-delivers]")).not_to_contain_text(pid)
    expect(page.locator("#storage")).to_contain_text("2 workers", timeout=WAIT_MS)  # a new one has come
    for name in ("missing", "doubled"):
        expect(page.locator(f"#{name}")).to_have_text("0")

    keys, truth = shown(page), stored(redis)
    begin = truth.index(keys[0])
    assert keys == truth[begin : begin + len(keys)]
    assert len(keys) == int(page.locator("#received").inner_text()) or len(shown(page)) > len(keys)
    delivered_by = {row.split()[0] for row in page.locator("#arrived td:last-child .chip").all_inner_texts()}
    assert len(delivered_by) == 2
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width

    with Redis.from_url(redis.url) as client:
        client.flushall()
    expect(page.locator(".chapter .verdict").first).to_contain_text("Reset:", timeout=WAIT_MS)
    before = int(page.locator("#received").inner_text())
    received(page, before + 2)  # it goes on

    page.goto(shared)
    expect(page.locator("#many")).to_contain_text("2 workers answer here", timeout=WAIT_MS)
