"""A real Chromium, and the example application on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from playwright.sync_api import BrowserContext, sync_playwright

from tests.bounds import START, WAIT
from tests.ports import free_port
from tests.signals import default_signals

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for path in ("/usr/bin/chromium", shutil.which("chromium")) if path and Path(path).exists()), None
)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = WAIT * 1000


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            directory,
            executable_path=CHROMIUM,
            args=CHROMIUM_ARGUMENTS,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(WAIT_MS)
        yield context
        context.close()


@contextlib.contextmanager
def launched(server: str = "uvicorn", *, workers: int = 1, redis_url: str = "") -> Iterator[str]:
    """``python -m example_app`` for the length of a block; yields its address, and prints its output."""
    port = free_port()
    arguments = ["--server", server, "--workers", str(workers), "--port", str(port)]
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            [sys.executable, "-m", "example_app", *arguments],
            cwd=ROOT,
            env={**os.environ, "EXAMPLE_REDIS_URL": redis_url},
            stdout=output,
            stderr=output,
            preexec_fn=default_signals,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START
            while not answers(f"{url}/kinds"):
                assert process.poll() is None, f"{server} ended at its start"
                assert time.monotonic() < deadline, f"{server} did not answer within {START} s"
                time.sleep(0.05)
            yield url
        finally:
            everyone = [*psutil.Process(process.pid).children(recursive=True), process]
            process.terminate()
            try:
                process.wait(WAIT)
            finally:
                for one in everyone:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                output.seek(0)
                print(output.read().decode(errors="replace"))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=WAIT) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def _answer(request: urllib.request.Request) -> HTTPResponse:
    """Asks again, as browsers do, when the connection is lost: at Granian it may wait for the worker that is killed."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=WAIT)
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
        else:
            return response


class Event(NamedTuple):
    type: str
    id: str
    data: dict[str, Any]


def read_feed(url: str, last_event_id: str = "") -> Generator[Event, None, None]:
    """The events of the feed, until the connection is lost or the iterator is closed."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with _answer(urllib.request.Request(f"{url}/feed/events", headers=headers)) as response:
        fields: dict[str, str] = {}
        with contextlib.suppress(ConnectionError, HTTPException):
            for line in response:
                name, _, value = line.decode().strip().partition(": ")
                if not name:
                    if "data" in fields:
                        yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
                    fields = {}
                else:
                    fields[name] = value
