"""Each example of the documentation, mostly on a real Uvicorn, with clients that stay, leave and are stopped."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from litestar_safe_sse import CloseReason
from litestar_safe_sse.testing import OpenStream, open_stream, open_stream_sync
from tests.asking import ask
from tests.bounds import WAIT
from tests.docs.conftest import Load
from tests.docs.processes import PLAIN, ServerProcess, leave, reset, running, stream

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
EXAMPLES = DOCS / "examples"

aborts = pytest.mark.parametrize("abort", [leave, reset])
Abort = Callable[[httpx.Response], None]

in_process = pytest.mark.anyio


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with running(f"{request.param}:app", EXAMPLES, without_models=True) as server:
        yield server


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [name], indirect=True)


def test_every_example_is_shown_and_tested() -> None:
    """No example is left over, and none is shown that isn't run."""
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    shown = set(re.findall(r"^```\{literalinclude\} (?:\.\./)?examples/(\w+)\.py$", pages, re.MULTILINE))
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    tests = "".join(
        (HERE / name).read_text()
        for name in (
            *("test_examples.py", "test_source_recipes.py", "test_handlers_page.py", "test_websocket_page.py"),
            *("test_access_page.py", "test_producer_pages.py"),
        )
    )
    tested = set(re.findall(r'^@example(?:_in_postgres)?\("(\w+)"\)|= (?:load|recipe)\("(\w+)"', tests, re.MULTILINE))
    tested = {name for names in tested for name in names if name}
    assert shown == files == tested


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_no_example_needs_what_is_deprecated(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any release of Litestar it runs without a warning of something for which there is another way."""
    monkeypatch.setenv("TOKEN_SECRET", "x" * 32)
    load(name)


@aborts
@example("quickstart")
def test_connection_is_closed_when_the_client_leaves(server: ServerProcess, abort: Abort) -> None:
    """What the handler opened for the stream is closed, its awaits included."""
    with stream(server, "/readings") as (response, events):
        assert next(events).event == "reading"
        assert "connection closed" not in server.output
        abort(response)
    server.wait_for("connection closed")
    assert server.output.count("connected") == server.output.count("connection closed") == 1


@example("quickstart")
def test_connections_are_closed_when_the_server_stops(server: ServerProcess) -> None:
    """At SIGTERM every stream is ended, and the server exits."""
    with stream(server, "/readings") as (_, first), stream(server, "/readings") as (_, second):
        assert next(first).event == next(second).event == "reading"
        server.terminate()
    assert server.output.count("connected") == server.output.count("connection closed") == 2


@contextlib.contextmanager
def chat() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with (
        running("fake_model:app", HERE, without_models=True) as model,
        running("llm_tokens:app", EXAMPLES, without_models=True, UPSTREAM=f"{model.url}/completions") as server,
    ):
        yield server, model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A model for an application in the test's process."""
    with running("fake_model:app", HERE, without_models=True) as model:
        monkeypatch.setenv("UPSTREAM", f"{model.url}/completions")
        yield model


def test_tokens_are_relayed_to_the_end(load: Load, model: ServerProcess) -> None:
    """All tokens come, then the event that says so."""
    app = load("llm_tokens").app
    with open_stream_sync(app, "GET", "/chat?prompt=short", timeout=WAIT) as stream:
        assert [(event.type, event.data) for event in stream] == [
            *[("token", f"token {n}") for n in range(3)],
            ("done", ""),
        ]
        assert stream.complete
    model.wait_for("finished")


def test_model_is_hung_up_on_when_the_client_leaves(load: Load, model: ServerProcess) -> None:
    """Nobody pays for tokens that nobody reads."""
    with open_stream_sync(load("llm_tokens").app, "GET", "/chat?prompt=endless", timeout=WAIT) as stream:
        assert stream.next().data == "token 0"
        stream.disconnect()
        assert (stream.close_reason, stream.cleanups) == (CloseReason.CLIENT_DISCONNECTED, [])
        model.wait_for("hung up")


def test_model_is_hung_up_on_when_the_client_is_killed() -> None:
    """The same on a server."""
    with chat() as (server, model), stream(server, "/chat?prompt=endless") as (response, events):
        assert next(events).data == "token 0"
        reset(response)
        model.wait_for("hung up")


def test_model_is_hung_up_on_when_the_server_stops() -> None:
    """The stream ends before the client that it uses is closed."""
    with chat() as (server, model), stream(server, "/chat?prompt=endless") as (_, events):
        assert next(events).data == "token 0"
        server.terminate()
        model.wait_for("hung up")


def test_refusal_of_the_model_is_a_proper_response(load: Load, model: ServerProcess) -> None:
    """What fails before the stream begins has a status."""
    with open_stream_sync(load("llm_tokens").app, "GET", "/chat?prompt=refused", timeout=WAIT) as response:
        assert response.status == 502


@in_process
async def test_job_goes_on_without_its_client(load: Load) -> None:
    """A client that comes back sees the rest of the job's progress, and what it has seen is not sent again."""
    app = load("job_progress").app
    async with app.lifespan():
        _, job = await ask(app, "POST", "/jobs")
        path = f"/jobs/{job['id']}"
        async with open_stream(app, "GET", path, timeout=WAIT) as watching:
            while (seen := await watching.next()).json()["percent"] == 0:
                pass
            await watching.disconnect()
        assert (watching.close_reason, watching.cleanups) == (CloseReason.CLIENT_DISCONNECTED, [])
        async with open_stream(app, "GET", path, last_event_id=seen.id, timeout=WAIT) as watching:
            rest = [event.json()["percent"] async for event in watching]
        assert rest == sorted(set(rest))
        assert rest[0] > int(seen.id)
        assert rest[-1] == 100
        assert await ask(app, "GET", path, **{"Last-Event-ID": "100"}) == (204, None)
        assert (await ask(app, "GET", "/jobs/unknown"))[0] == 404


@example("job_progress")
def test_job_goes_on_without_a_client_that_was_killed(server: ServerProcess) -> None:
    """The same on a server, where a client that comes back does so over another connection."""
    path = f"/jobs/{httpx.post(f'{server.url}/jobs', verify=PLAIN).json()['id']}"
    with stream(server, path) as (response, events):
        seen = next(event for event in events if event.json()["percent"] > 0).id
        reset(response)
    with stream(server, path, last_event_id=seen) as (_, events):
        rest = [event.json()["percent"] for event in events]
    assert rest == sorted(set(rest))
    assert rest[0] > int(seen)
    assert rest[-1] == 100
    assert httpx.get(server.url + path, headers={"Last-Event-ID": "100"}, verify=PLAIN).status_code == 204
    assert httpx.get(f"{server.url}/jobs/unknown", verify=PLAIN).status_code == 404


def test_whole_answer_says_so(load: Load) -> None:
    """An answer that is whole ends by the event that says so."""
    app = load("whole_answer").app
    with open_stream_sync(app, "GET", "/ingredients/bread", timeout=WAIT) as stream:
        assert [event.type for event in stream] == ["ingredient"] * 3 + ["done"]
        assert stream.complete


@example("whole_answer")
def test_broken_answer_says_so(server: ServerProcess) -> None:
    """An answer that breaks off ends by the event that tells of it, and properly, and the server logs the error."""
    with stream(server, "/ingredients/soup") as (_, events):
        assert [(event.event, event.data) for event in events] == [
            ("ingredient", "water"),
            ("problem", '{"title":"The answer broke off."}'),
        ]
    server.wait_for("LookupError: the salt is gone")
    server.close()
    server.lines.clear()  # its traceback is no accident


@in_process
async def test_notification_reaches_every_page_that_is_open(load: Load) -> None:
    """Each page of a user gets it; one that has been closed is no longer there."""
    app, path = load("notifications").app, "/notifications/ada"
    async with open_stream(app, "GET", path, timeout=WAIT) as stays:
        async with open_stream(app, "GET", path, timeout=WAIT) as leaves:
            assert await ask(app, "POST", path, {"text": "hello"}) == (201, {"pages": 2})
            assert (await stays.next()).data == (await leaves.next()).data == "hello"
            await leaves.disconnect()
        assert await ask(app, "POST", path, {"text": "again"}) == (201, {"pages": 1})
        assert (await stays.next()).data == "again"


@example("notifications")
def test_notification_reaches_no_page_that_was_killed(server: ServerProcess) -> None:
    """The server learns of it, and the others get theirs."""
    path = "/notifications/ada"

    def pages(text: str) -> int:
        return int(httpx.post(server.url + path, json={"text": text}, verify=PLAIN).json()["pages"])

    with stream(server, path) as (_, stays):
        with stream(server, path) as (response, leaves):
            assert pages("hello") == 2
            assert next(stays).data == next(leaves).data == "hello"
            reset(response)
        server.until(lambda: pages("again") == 1)
        assert next(stays).data == "again"


@pytest.mark.anyio
async def test_logged_out_user_is_sent_nothing_more(load: Load) -> None:
    """The streams end at once, and those of others go on."""
    app = load("notifications").app
    async with (
        open_stream(app, "GET", "/notifications/ada", timeout=WAIT) as ada,
        open_stream(app, "GET", "/notifications/bob", timeout=WAIT) as bob,
    ):
        async with open_stream(app, "POST", "/logout/ada", timeout=WAIT) as answer:
            assert json.loads(await answer.read()) == {"pages": 1}
        assert [event async for event in ada] == []
        assert ada.complete
        async with open_stream(app, "POST", "/notifications/bob", json={"text": "hello"}, timeout=WAIT):
            assert (await bob.next()).data == "hello"


@example("notifications")
def test_pages_are_told_when_the_server_restarts(server: ServerProcess) -> None:
    """A body that asks may say farewell at a shutdown."""
    with stream(server, "/notifications/ada") as (_, events):
        httpx.post(f"{server.url}/notifications/ada", json={"text": "hello"}, verify=PLAIN)
        assert next(events).data == "hello"
        server.terminate()
        assert [(event.event, event.retry) for event in events] == [("restarting", 500)]


@in_process
async def test_dashboard_shows_the_newest_reading(load: Load) -> None:
    """Readings come in order, and a viewer who has left is no longer counted."""
    app = load("dashboard").app
    async with open_stream(app, "GET", "/dashboard", timeout=WAIT) as stays:
        async with open_stream(app, "GET", "/dashboard", timeout=WAIT) as leaves:
            assert (await leaves.next()).type == "reading"
            await until_viewers(stays, 2)
        numbers = [reading["number"] for reading in await until_viewers(stays, 1)]
        assert numbers == sorted(set(numbers))


async def until_viewers(stream: OpenStream, count: int) -> list[dict[str, Any]]:
    """Reads the dashboard until it has so many viewers."""
    readings: list[dict[str, Any]] = []
    while not readings or readings[-1]["viewers"] != count:
        readings.append((await stream.next()).json())
    return readings


@example("dashboard")
def test_dashboard_counts_no_viewer_that_was_killed(server: ServerProcess) -> None:
    """The server learns of it within a reading or two."""
    with stream(server, "/dashboard") as (_, stays):
        with stream(server, "/dashboard") as (response, leaves):
            assert next(leaves).event == "reading"
            assert next(event for event in stays if event.json()["viewers"] == 2)
            reset(response)
        readings = []
        for event in stays:
            readings.append(event.json())
            if readings[-1]["viewers"] == 1:
                break
        numbers = [reading["number"] for reading in readings]
        assert numbers == sorted(set(numbers))


@in_process
async def test_dashboard_has_pages_come_back_for_which_there_is_no_room(load: Load, tmp_path: Path) -> None:
    """A page beyond the limit is told to come back, and has readings when another one has left."""
    source = (EXAMPLES / "dashboard.py").read_text()
    assert source.count("max_streams=1000") == 1
    (tmp_path / "small.py").write_text(source.replace("max_streams=1000", "max_streams=1"))
    app = load(str(tmp_path / "small")).app
    async with open_stream(app, "GET", "/dashboard", timeout=WAIT) as one:
        assert (await one.next()).type == "reading"
        async with open_stream(app, "GET", "/dashboard", timeout=WAIT) as other:
            assert re.fullmatch(r"retry: \d+", (await other.read()).decode().strip())
            assert (other.status, other.complete) == (200, True)
        await one.disconnect()
        async with open_stream(app, "GET", "/dashboard", timeout=WAIT) as other:
            assert (await other.next()).type == "reading"


def test_blocking_driver_is_closed_when_the_client_leaves(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """By the thread that opened it: sqlite3 refuses any other."""
    app = load("blocking_rows").app
    with open_stream_sync(app, "GET", "/rows", timeout=WAIT) as stream:
        rows = [stream.next().json() for _ in range(1000)]
        assert rows[-1] == {"number": 1000, "square": 1_000_000}
        stream.disconnect()
        assert (stream.close_reason, stream.cleanups) == (CloseReason.CLIENT_DISCONNECTED, [])
    assert capsys.readouterr().out.splitlines() == ["closing the connection"]


@example("blocking_rows")
def test_blocking_driver_is_closed_when_the_client_is_killed(server: ServerProcess) -> None:
    """On a server, while rows are being sent."""
    with stream(server, "/rows") as (response, events):
        rows = [json.loads(next(events).data) for _ in range(1000)]
        assert rows[-1] == {"number": 1000, "square": 1_000_000}
        reset(response)
    server.wait_for("closing the connection")
    assert "ProgrammingError" not in server.output
