"""The recipes of those who append to an event log, on real Uvicorn and Redis processes, with real clients."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright
from redis import Redis

from tests.bounds import WAIT
from tests.docs.processes import PLAIN, ServerProcess, running, stream
from tests.node import install_node_packages
from tests.redis_server import RedisServer

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "docs" / "examples"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def server(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
    environment = {"REDIS_URL": redis_server.url, "DATABASE": str(tmp_path / "database")}
    with running(f"{request.param}:app", EXAMPLES, without_models=True, **environment) as server:
        yield server


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [name], indirect=True)


# A job that ends


def seen_by_node(address: str) -> list[tuple[str, Any]]:
    """What an ``EventSource`` sees until it is told not to come again."""
    install_node_packages()
    node = ["node", str(HERE / "clients" / "until_closed.mjs"), address]
    lines = subprocess.run(node, check=True, capture_output=True, text=True, timeout=WAIT).stdout.splitlines()
    return [(seen["what"], json.loads(seen["data"] or "null")) for seen in map(json.loads, lines)]


@example("finished_job")
def test_an_event_source_stops_when_the_job_is_done(server: ServerProcess, redis: Redis) -> None:
    """Whether it was there from the beginning, comes later, or when nothing is stored of the job any more."""
    name = httpx.post(f"{server.url}/jobs", verify=PLAIN).json()["id"]
    percents = [("progress", {"percent": percent}) for percent in range(0, 101, 10)]
    whole = [*percents, ("finished", {"topic": f"job {name}"}), ("closed", None)]
    assert seen_by_node(f"{server.url}/jobs/{name}") == whole
    assert seen_by_node(f"{server.url}/jobs/{name}") == whole
    with stream(server, f"/jobs/{name}") as (_, events):
        ids = [event.id for event in events]
    assert redis.delete(f"{{sse}}:log:job {name}")
    assert seen_by_node(f"{server.url}/jobs/{name}") == [("closed", None)]
    for last in ids:
        answer = httpx.get(f"{server.url}/jobs/{name}", headers={"Last-Event-ID": last}, verify=PLAIN)
        assert answer.status_code == 204
    assert httpx.get(f"{server.url}/jobs/unknown", verify=PLAIN).status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@example("finished_job")
def test_a_browser_stops_when_the_job_is_done(server: ServerProcess) -> None:
    """It asks twice, and no more."""
    name = httpx.post(f"{server.url}/jobs", verify=PLAIN).json()["id"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser,
    ):
        page = browser.new_page()
        page.goto(f"{server.url}/jobs/unknown")  # for its origin
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        script = """address => new Promise((resolve) => {
            const events = new EventSource(address);
            events.onerror = () => { if (events.readyState === EventSource.CLOSED) resolve(events.readyState); };
        })"""
        assert page.evaluate(script, f"/jobs/{name}") == 2
        assert len(asked) == 2


# A page and its stream


def add(server: ServerProcess, text: str) -> None:
    httpx.post(f"{server.url}/comments", json={"text": text}, timeout=WAIT, verify=PLAIN).raise_for_status()


@example("snapshot_feed")
def test_a_page_and_its_stream_fit(server: ServerProcess) -> None:
    """Pages that are loaded while comments are added: each has every comment, by one of both."""
    many, loaded = 60, 12

    def load(_: int) -> set[int]:
        html = httpx.get(server.url, timeout=WAIT, verify=PLAIN).text
        shown = [int(number) for number in re.findall(r'<li id="(\d+)">', html)]
        (after,) = re.findall(r'data-after="([^"]*)"', html)
        assert len(shown) == len(set(shown))
        streamed: list[int] = []
        with stream(server, f"/comments?after={after}") as (_response, events):
            while len({*shown, *streamed}) < many:
                event = next(events)
                if event.event != "subscribed":
                    streamed.append(event.json()["number"])
        assert len(streamed) == len(set(streamed))
        return {*shown, *streamed}

    with ThreadPoolExecutor(2) as adding, ThreadPoolExecutor(loaded) as loading:
        added = [adding.submit(add, server, f"{number}") for number in range(many)]
        pages = [*loading.map(load, range(loaded))]
        for each in added:
            each.result()
    assert pages == [set(range(1, many + 1))] * loaded


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@example("snapshot_feed")
def test_a_browser_shows_each_comment_once(server: ServerProcess) -> None:
    """While they are added, and after the worker was killed and started again."""
    many = 30
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser,
        ThreadPoolExecutor(1) as adding,
    ):
        page = browser.new_page()
        added = [adding.submit(add, server, f"comment {number}") for number in range(many)]
        added[5].result()
        page.goto(server.url)
        items = page.get_by_role("listitem")
        comments = [f"comment {number}" for number in range(many)]
        expect(items).to_have_text(comments, timeout=WAIT * 1000)
        for each in added:
            each.result()
        server.start_again()
        add(server, "another")
        expect(items).to_have_text([*comments, "another"], timeout=WAIT * 1000)
