"""Clients that open an ``EventSource``, and tell what happens to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.example.processes import chromium

CLOSED = 2
"""The ``readyState`` of an ``EventSource`` that has given up."""


class Client(Protocol):
    """A client that has opened an ``EventSource``."""

    def seen(self) -> list[dict[str, Any]]:
        """Returns what has happened to it, in order: ``open``, ``error`` or ``message``, each with its state."""
        ...


class Chromium:
    """A page in Chromium."""

    def __init__(self, page: Any, address: str, path: str) -> None:
        self._page = page
        page.goto(f"{address}/page")
        page.evaluate(
            """(path) => {
                window.seen = [];
                const source = new EventSource(path);
                const tell = (what, more) => window.seen.push({what, state: source.readyState, ...more});
                source.onopen = () => tell("open");
                source.onerror = () => tell("error");
                source.onmessage = (event) => tell("message", {data: event.data});
            }""",
            path,
        )

    def seen(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._page.evaluate("window.seen")
        return found


class Npm:
    """npm's ``eventsource`` in Node."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def seen(self) -> list[dict[str, Any]]:
        whole, _, _ = self._output.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


@contextlib.contextmanager
def in_chromium(address: str, path: str, directory: Path) -> Iterator[Client]:
    """A page in Chromium, for the length of a block."""
    with chromium(directory / "chromium") as browser:
        yield Chromium(browser.new_page(), address, path)


@contextlib.contextmanager
def in_node(address: str, path: str, directory: Path) -> Iterator[Client]:
    """A process of Node, for the length of a block."""
    directory.mkdir(exist_ok=True)
    script, output = Path(__file__).with_name("reconnecting.mjs"), directory / "seen"
    with output.open("wb") as file, subprocess.Popen(["node", script, f"{address}{path}"], stdout=file) as process:
        try:
            yield Npm(output)
        finally:
            process.terminate()
