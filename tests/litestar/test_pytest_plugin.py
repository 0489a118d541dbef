"""The plugin of pytest: its fixture, and its check for what tests leave open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from litestar import Litestar

from litestar_safe_sse import SafeSSEPlugin, sse
from litestar_safe_sse._pytest import StreamOpener
from tests.bounds import START, WAIT
from tests.docs.processes import WITHOUT_MODELS

APPLICATION = """
from collections.abc import AsyncIterator
import anyio, pytest
from litestar import Litestar, get
from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEPlugin, sse_websocket

@sse_websocket("/ws")
async def endless_ws() -> AsyncIterator[str]:
    yield "first"
    await anyio.sleep_forever()

@get("/endless")
async def endless() -> SafeServerSentEvent:
    async def body() -> AsyncIterator[str]:
        yield "first"
        await anyio.sleep_forever()
    return SafeServerSentEvent(body())

app = Litestar([endless, endless_ws], plugins=[SafeSSEPlugin()])
"""

LEAVES = (
    APPLICATION
    + """
import asyncio
from litestar_safe_sse._core.stream import StreamNames
from litestar_safe_sse.sources import MemoryEventLog

LEFT = []

def test_that_leaves_a_stream():
    async def main():
        plugin = SafeSSEPlugin()
        LEFT.append(plugin.streams.admit(StreamNames.of("feed")))
        plugin.streams.stop()
    asyncio.run(main())

def test_that_leaves_a_subscription():
    LEFT.append(MemoryEventLog().subscribe("news"))

{mark}
def test_that_leaves_nothing(sse):
    with sse(app, "GET", "/endless") as stream:
        assert stream.next().data == "first"
"""
)

USES = (
    APPLICATION
    + """
{mark}
async def test_fixture(sse):
    async with sse(app, "GET", "/endless") as stream:
        assert (await stream.next()).data == "first"
        await stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED

def test_sync_fixture(sse):
    with sse(app, "GET", "/endless") as stream:
        assert stream.next().data == "first"

{mark}
async def test_websocket(sse):
    async with sse.websocket(app, "/ws") as stream:
        assert (await stream.next()).data == "first"

def test_sync_websocket(sse):
    with sse.websocket(app, "/ws") as stream:
        assert stream.next().data == "first"
"""
)


def run(path: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a file of tests as a user would, with our plugin, and of all the others here with those that are named."""
    (path / "test_it.py").write_text(source)
    command = [sys.executable, "-c", WITHOUT_MODELS, "pytest", "-p", "no:cacheprovider"]
    command += ["-p", "pytest_litestar_safe_sse", f"--rootdir={path}", "-c", os.devnull]
    command += ["--strict-markers", *options, str(path)]
    alone = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**os.environ, **alone, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)


def test_loading_the_plugin_imports_nothing_of_litestar() -> None:
    """pytest loads it in every run, also in those of projects that happen to have it installed."""
    script = "import sys, pytest_litestar_safe_sse; assert not {'litestar', 'litestar_safe_sse'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)


@pytest.mark.parametrize(
    ("mark", "options", "passed"),
    [
        ("@pytest.mark.anyio", ("-p", "anyio"), 6),  # on asyncio and on trio
        pytest.param("@pytest.mark.asyncio", ("-p", "anyio", "-p", "pytest_asyncio.plugin"), 4, marks=pytest.mark.long),
        ("", ("-p", "anyio", "-p", "pytest_asyncio.plugin", "--asyncio-mode=auto"), 4),
    ],
)
def test_the_fixture_works_with_either_plugin(tmp_path: Path, mark: str, options: tuple[str, ...], passed: int) -> None:
    """AnyIO's, on both event loops, and pytest-asyncio's in both of its modes."""
    done = run(tmp_path, USES.replace("{mark}", mark), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout


@pytest.mark.parametrize("opened", ["GET /endless", "WebSocket /endless"])
def test_a_block_that_was_not_left_is_named(opened: str) -> None:
    """By its request, be it over HTTP or a WebSocket."""

    @sse("/endless", websocket="/endless")
    async def endless() -> AsyncIterator[str]:
        await anyio.sleep_forever()
        yield "never"

    app, opener = Litestar([endless], plugins=[SafeSSEPlugin()]), StreamOpener()
    opening: Any = opener(app, "GET", "/endless") if "GET" in opened else opener.websocket(app, "/endless")
    with opening, pytest.raises(AssertionError, match=f"has not left the block of {opened}"):
        opener.check()
    opener.check()


def test_what_is_left_open_is_named_on_request(tmp_path: Path) -> None:
    """A stream by its handler, and a subscription by its topics; a test that leaves nothing passes."""
    done = run(tmp_path, LEAVES.replace("{mark}", ""), "--sse-leaks")
    assert "3 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "of feed, which is new" in done.stdout
    assert "LogSubscription of news" in done.stdout


def test_nothing_is_checked_unless_asked_for(tmp_path: Path) -> None:
    """A marker asks for one test, or keeps one out."""
    done = run(tmp_path, LEAVES.replace("{mark}", "@pytest.mark.sse_leaks"))
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout
    source = LEAVES.replace("{mark}", "").replace("def test_that", "@pytest.mark.sse_leaks(False)\ndef test_that")
    done = run(tmp_path, source, "--sse-leaks")
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout
