"""The examples of the page on ``@sse``, and on a real Uvicorn with the client that a generator makes."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from litestar_safe_sse import sse
from litestar_safe_sse.handlers import PREFETCH
from litestar_safe_sse.testing import open_stream_sync
from tests.bounds import START, WAIT
from tests.docs.conftest import Load
from tests.docs.processes import PLAIN, ServerProcess, running
from tests.docs.test_examples import EXAMPLES, example, server  # noqa: F401


def test_the_table_has_all_options_of_the_decorator() -> None:
    """Its own by name, and how many seconds the headers wait unless told otherwise."""
    page = (EXAMPLES.parent / "handlers.md").read_text()
    own = [name for name in inspect.signature(sse).parameters if name != "options"]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", page, re.MULTILINE))
    assert {name: rows.get(name) for name in own} == {
        "path": "None",
        "method": '"GET"',
        "prefetch": str(PREFETCH),
        "validate": "in debug mode",
        "websocket": "None",
    }


def test_progress_is_typed(load: Load) -> None:
    """Each event has the type that its Struct has as a tag."""
    app = load("job_events").app
    with open_stream_sync(app, "GET", "/jobs/1", timeout=WAIT) as stream:
        seen = [(event.type, event.json()) for event in stream]
    assert [kind for kind, _ in seen] == ["progress"] * 4 + ["done"]
    assert seen[1] == ("progress", {"type": "progress", "percent": 25})
    assert seen[-1] == ("done", {"type": "done", "result": "finished"})


def test_job_that_is_not_there(load: Load) -> None:
    """Is answered 404, by the generator."""
    app = load("job_events").app
    with open_stream_sync(app, "GET", "/jobs/2", timeout=WAIT) as response:
        assert (response.status, json.loads(response.read())["detail"]) == (404, "There is no job 2.")


def test_answer_to_a_question(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tokens are text, its end is JSON, and the model is closed."""
    app = load("chat_events").app
    with open_stream_sync(app, "POST", "/chat", json={"text": "live on"}, timeout=WAIT) as response:
        assert response.status == 200
        assert response.read().decode().replace("\r\n", "|") == (
            'event: token|data: evil||event: token|data: no||event: usage|data: {"tokens":2}||'
        )
    assert capsys.readouterr().out.splitlines() == ["model closed"]


@pytest.mark.parametrize(("body", "status"), [({"text": ""}, 422), ({}, 400)])
def test_question_that_is_refused(load: Load, body: dict[str, str], status: int) -> None:
    """By the model, or by the type of the body."""
    app = load("chat_events").app
    with open_stream_sync(app, "POST", "/chat", json=body, timeout=WAIT) as response:
        assert response.status == status


def test_readings_that_are_called_back(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """They come behind what was yielded first, and the sensor is closed when the client leaves."""
    app = load("called_back").app
    with open_stream_sync(app, "GET", "/readings", timeout=WAIT) as stream:
        assert stream.next().type == "started"
        assert [stream.next().json()["celsius"] for _ in range(3)] == [20.0, 20.1, 20.2]
        stream.disconnect()
    assert capsys.readouterr().out.splitlines() == ["sensor closed"]


# Clients of other authors

NODE_MODULES = Path(__file__).parents[1] / "node_modules"
CLIENTS = Path(__file__).parent / "clients"


def node(*command: str, cwd: Path) -> str:
    """What a program prints that Node.js runs."""
    done = subprocess.run(["node", *command], cwd=cwd, capture_output=True, text=True, timeout=START, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@example("job_events")
def test_generated_client_knows_the_types_of_events(server: ServerProcess, tmp_path: Path) -> None:  # noqa: F811
    """Made from the document that the server shows, it is checked by TypeScript, and reads the stream."""
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "openapi.json").write_text(
        httpx.get(f"{server.url}/schema/openapi.json", timeout=30, verify=PLAIN).text
    )
    shutil.copy(EXAMPLES / "job_client.ts", tmp_path)
    shutil.copy(CLIENTS / "main.ts", tmp_path)
    generator = str(NODE_MODULES / "@hey-api/openapi-ts/bin/run.js")
    node(generator, "-i", "openapi.json", "-o", "client", "-p", "@hey-api/client-fetch", cwd=tmp_path)
    compiler = str(NODE_MODULES / "typescript/bin/tsc")
    libraries = "es2022,dom,dom.iterable,dom.asynciterable"
    options = ("--strict", "--skipLibCheck", "--target", "es2022", "--module", "commonjs", "--lib", libraries)
    node(compiler, *options, "--moduleResolution", "node10", "--outDir", "out", "main.ts", cwd=tmp_path)
    assert node("out/main.js", server.url, cwd=tmp_path).split("\n") == ["0 %", "25 %", "50 %", "75 %", "finished", ""]


@pytest.mark.parametrize(
    ("client", "text"), [("vercel.mjs", "hello from a model"), ("ag_ui.mjs", "hello from an agent")]
)
def test_clients_of_agents_read_their_frames(client: str, text: str, tmp_path: Path) -> None:
    """npm's ``ai`` a stream of pydantic-ai, and ``@ag-ui/client`` one of AG-UI's events."""
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    shutil.copy(CLIENTS / client, tmp_path)
    with running("agents_app:app", Path(__file__).parent) as server:  # noqa: F811
        assert node(client, server.url, cwd=tmp_path).strip() == text
