"""The page that compares: the same three endpoints by four libraries, each of which does what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from tests.bounds import START, WAIT
from tests.docs.processes import PLAIN, ServerProcess, on_uvicorn

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "comparison"
PAGE = (ROOT / "docs" / "comparison.md").read_text()
TABLE = (ROOT / "docs" / "_reports" / "comparison.md").read_text()
OTHERS = ("litestar", "sse_starlette", "fastapi")
LIBRARIES = ("ours", *OTHERS)

each_library = pytest.mark.parametrize("library", LIBRARIES)


@contextmanager
def serving(app: str) -> Iterator[httpx.Client]:
    """An application on a real Uvicorn; how the others end is not looked at here."""
    server = ServerProcess(*on_uvicorn(f"{app}:app", EXAMPLES, without_models="fastapi" not in app), {})
    try:
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=WAIT, verify=PLAIN) as client:
            yield client
    finally:
        server.close()


@contextmanager
def stream(client: httpx.Client, method: str, path: str, **options: object) -> Iterator[Iterator[ServerSentEvent]]:
    with client.stream(method, path, **options) as response:  # type: ignore[arg-type]
        assert response.status_code == 200
        yield EventSource(response).iter_sse()


@each_library
def test_job_progress(library: str) -> None:
    """Every step is told, then the end; a job that there is not is a 404."""
    with serving(f"job_{library}") as client:
        with stream(client, "GET", "/jobs/1") as events:
            told = [(event.event, event.data) for event in events]
        assert [name for name, _ in told] == ["progress"] * 3 + ["done"]
        assert [json.loads(data) for _, data in told[:3]] == [{"step": step} for step in (1, 2, 3)]
        assert client.get("/jobs/7").status_code == 404


@each_library
def test_tokens(library: str) -> None:
    """Every token is relayed, then the end; a refusal of the model is a 502."""
    with serving(f"llm_{library}") as client:
        with stream(client, "POST", "/chat", json={"text": "short"}) as events:
            assert [event.data for event in events] == ["token 0", "token 1", "token 2", "[DONE]"]
        assert client.post("/chat", json={"text": ""}).status_code == 502


@each_library
def test_feed(library: str) -> None:
    """All orders are told with their IDs, and a client that comes back has the rest."""
    with serving(f"feed_{library}") as client:
        with stream(client, "GET", "/orders") as events:
            told = [(event.id, json.loads(event.data)) for event in islice(events, 3)]
        assert told == [("1", {"item": "tea"}), ("2", {"item": "milk"}), ("3", {"item": "jam"})]
        with stream(client, "GET", "/orders", headers={"Last-Event-ID": "2"}) as events:
            assert next(events).id == "3"


def lines_of(example: str) -> int:
    """How many lines a file has, without those that are empty."""
    return sum(bool(line.strip()) for line in (EXAMPLES / f"{example}.py").read_text().splitlines())


@pytest.mark.parametrize("endpoint", ["job", "llm", "feed"])
def test_ours_is_the_shortest(endpoint: str) -> None:
    """And the page says how long each is."""
    lengths = {library: lines_of(f"{endpoint}_{library}") for library in LIBRARIES}
    assert lengths["ours"] < min(lengths[library] for library in OTHERS)
    (row,) = re.findall(rf"^\| `{endpoint}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert [int(cell) for cell in row.split(" | ")] == [lengths[library] for library in (*OTHERS, "ours")]


def test_every_file_is_shown() -> None:
    """None is left over, and none is shown that is not run."""
    shown = re.findall(r"^`{3,}\{literalinclude\} examples/comparison/(\w+)\.py$", PAGE, re.MULTILINE)
    assert sorted(shown) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert set(shown) == {
        "shared",
        *(f"{endpoint}_{name}" for endpoint in ("job", "llm", "feed") for name in LIBRARIES),
    }


def test_table_is_that_of_the_command() -> None:
    """It names the command that made it, has each library, and nothing of ours was lost."""
    assert "Made by `python -m benchmarks.comparison`" in TABLE
    assert "_reports/comparison.md" in PAGE
    rows = re.findall(r"^\| ([\w' -]+) \| (\w+) \| (.*) \|$", TABLE, re.MULTILINE)
    assert {(library, server) for library, server, _ in rows} == {
        (library, server)
        for library in ("Litestar's own", "sse-starlette", "FastAPI", "this package")
        for server in ("Uvicorn", "Granian")
    }
    for library, _, cells in rows:
        lost = cells.split(" | ")
        assert len(lost) == 6
        assert (set(lost) == {"0 of 20"}) is (library == "this package")


def test_command_measures() -> None:
    """Run again, it finds of ours that nothing is lost."""
    command = ["-m", "benchmarks.comparison", "--libraries", "ours", "--servers", "uvicorn", "--streams", "3"]
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=START * 6
    )
    assert f"| this package | Uvicorn | {' | '.join(['0 of 3'] * 6)} |" in run.stdout, run.stderr
