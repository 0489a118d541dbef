"""Each example of the documentation, mostly on a real Uvicorn, with clients that stay, leave and are stopped."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from litestar_safe_sse.testing import open_stream, open_stream_sync
from tests.bounds import WAIT
from tests.docs.conftest import Load
from tests.docs.processes import UvicornProcess, leave, reset, running, stream

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
EXAMPLES = DOCS / "examples"

aborts = pytest.mark.parametrize("abort", [leave, reset])
Abort = Callable[[httpx.Response], None]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[UvicornProcess]:
    with running(f"{request.param}:app", EXAMPLES) as server:
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
    tested = set(re.findall(r'^@example(?:_in_postgres)?\("(\w+)"\)|= load\("(\w+)"', tests, re.MULTILINE))
    tested = {name for names in tested for name in names if name}
    assert shown == files == tested | {"llm_tokens"}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_no_example_needs_what_is_deprecated(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any release of Litestar it runs without a warning of something for which there is another way."""
    monkeypatch.setenv("TOKEN_SECRET", "x" * 32)
    load(name)


@aborts
@example("quickstart")
def test_connection_is_closed_when_the_client_leaves(server: UvicornProcess, abort: Abort) -> None:
    """What the handler opened for the stream is closed, its awaits included."""
    with stream(server, "/readings") as (response, events):
        assert next(events).event == "reading"
        assert "connection closed" not in server.lines
        abort(response)
    server.wait_for_line("connection closed")
    assert server.lines.count("connected") == server.lines.count("connection closed") == 1


@example("quickstart")
def test_connections_are_closed_when_the_server_stops(server: UvicornProcess) -> None:
    """At SIGTERM every stream is ended, and the server exits."""
    with stream(server, "/readings") as (_, first), stream(server, "/readings") as (_, second):
        assert next(first).event == next(second).event == "reading"
        server.terminate()
    assert server.lines.count("connected") == server.lines.count("connection closed") == 2


@contextlib.contextmanager
def chat() -> Iterator[tuple[UvicornProcess, UvicornProcess]]:
    with (
        running("fake_model:app", Path(__file__).parent) as model,
        running("llm_tokens:app", EXAMPLES, UPSTREAM=f"{model.url}/completions") as server,
    ):
        yield server, model


def test_tokens_are_relayed_to_the_end() -> None:
    """All tokens come, then the event that says so."""
    with chat() as (server, _), stream(server, "/chat?prompt=short") as (_, events):
        assert [(event.event, event.data) for event in events] == [
            *[("token", f"token {n}") for n in range(3)],
            ("done", ""),
        ]


@aborts
def test_model_is_hung_up_on_when_the_client_leaves(abort: Abort) -> None:
    """Nobody pays for tokens that nobody reads."""
    with chat() as (server, model), stream(server, "/chat?prompt=endless") as (response, events):
        assert next(events).data == "token 0"
        abort(response)
        model.wait_for_line("hung up")


def test_model_is_hung_up_on_when_the_server_stops() -> None:
    """The stream ends before the client that it uses is closed."""
    with chat() as (server, model), stream(server, "/chat?prompt=endless") as (_, events):
        assert next(events).data == "token 0"
        server.terminate()
        model.wait_for_line("hung up")


def test_refusal_of_the_model_is_a_proper_response() -> None:
    """What fails before the stream begins has a status."""
    with chat() as (server, _):
        assert httpx.get(f"{server.url}/chat?prompt=refused").status_code == 502


@aborts
@example("job_progress")
def test_job_goes_on_without_its_client_and_is_resumed(server: UvicornProcess, abort: Abort) -> None:
    """A client that comes back sees the rest of the job's progress, and what it has seen is not sent again."""
    path = f"/jobs/{httpx.post(f'{server.url}/jobs').json()['id']}"
    with stream(server, path) as (response, events):
        seen = next(event for event in events if event.json()["percent"] > 0).id
        abort(response)
    with stream(server, path, last_event_id=seen) as (_, events):
        rest = [event.json()["percent"] for event in events]
    assert rest == sorted(set(rest))
    assert rest[0] > int(seen)
    assert rest[-1] == 100
    assert httpx.get(server.url + path, headers={"Last-Event-ID": "100"}).status_code == 204
    assert httpx.get(f"{server.url}/jobs/unknown").status_code == 404


def test_whole_answer_says_so(load: Load) -> None:
    """An answer that is whole ends by the event that says so."""
    app = load("whole_answer").app
    with open_stream_sync(app, "GET", "/ingredients/bread", timeout=WAIT) as stream:
        assert [event.type for event in stream] == ["ingredient"] * 3 + ["done"]
        assert stream.complete


@example("whole_answer")
def test_broken_answer_says_so(server: UvicornProcess) -> None:
    """An answer that breaks off ends by the event that tells of it, and properly, and the server logs the error."""
    with stream(server, "/ingredients/soup") as (_, events):
        assert [(event.event, event.data) for event in events] == [
            ("ingredient", "water"),
            ("problem", '{"title":"The answer broke off."}'),
        ]
    server.wait_for_line("LookupError: the salt is gone")
    server.close()
    server.lines.clear()  # its traceback is no accident


@aborts
@example("notifications")
def test_notification_reaches_every_page_that_is_open(server: UvicornProcess, abort: Abort) -> None:
    """Each page of a user gets it; one that has been closed is no longer there."""
    path = "/notifications/ada"

    def pages(text: str) -> int:
        return int(httpx.post(server.url + path, json={"text": text}).json()["pages"])

    with stream(server, path) as (_, stays):
        with stream(server, path) as (response, leaves):
            assert pages("hello") == 2
            assert next(stays).data == next(leaves).data == "hello"
            abort(response)
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
def test_pages_are_told_when_the_server_restarts(server: UvicornProcess) -> None:
    """A body that asks may say farewell at a shutdown."""
    with stream(server, "/notifications/ada") as (_, events):
        httpx.post(f"{server.url}/notifications/ada", json={"text": "hello"})
        assert next(events).data == "hello"
        server.terminate()
        assert [(event.event, event.retry) for event in events] == [("restarting", 500)]


@aborts
@example("dashboard")
def test_dashboard_shows_the_newest_reading(server: UvicornProcess, abort: Abort) -> None:
    """Readings come in order, and a viewer who has left is no longer counted."""
    with stream(server, "/dashboard") as (_, stays):
        with stream(server, "/dashboard") as (response, leaves):
            assert next(leaves).event == "reading"
            assert next(event for event in stays if event.json()["viewers"] == 2)
            abort(response)
        readings = []
        for event in stays:
            readings.append(event.json())
            if readings[-1]["viewers"] == 1:
                break
        numbers = [reading["number"] for reading in readings]
        assert numbers == sorted(set(numbers))


def test_dashboard_has_pages_come_back_for_which_there_is_no_room(tmp_path: Path) -> None:
    """A page beyond the limit is told to come back, and has readings when another one has left."""
    source = (EXAMPLES / "dashboard.py").read_text()
    assert source.count("max_streams=1000") == 1
    (tmp_path / "small.py").write_text(source.replace("max_streams=1000", "max_streams=1"))
    with running("small:app", tmp_path) as server:

        def read_as_a_page() -> str:
            """What an ``EventSource`` is sent first."""
            headers = {"Accept": "text/event-stream"}
            with httpx.stream("GET", f"{server.url}/dashboard", headers=headers) as response:
                assert response.status_code == 200
                return next(response.iter_lines())

        with stream(server, "/dashboard") as (response, events):
            assert next(events).event == "reading"
            assert re.fullmatch(r"retry: \d+", read_as_a_page())
            leave(response)
        server.until(lambda: "retry" not in read_as_a_page())


@aborts
@example("blocking_rows")
def test_blocking_driver_is_closed_by_its_own_thread(server: UvicornProcess, abort: Abort) -> None:
    """sqlite3 refuses to be closed by any other thread."""
    with stream(server, "/rows") as (response, events):
        rows = [json.loads(next(events).data) for _ in range(1000)]
        assert rows[-1] == {"number": 1000, "square": 1_000_000}
        abort(response)
    server.wait_for_line("closing the connection")
    assert "ProgrammingError" not in server.output
