"""The ledger's book-keeping and the endpoints around the streams, in process."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from litestar import Litestar
from litestar.testing import TestClient

import example_app
from example_app import ledger as ledger_module
from example_app.app import create_app
from example_app.bodies import KINDS, Event, Kind, Mailbox
from example_app.ledger import Held, Ledger, Resource
from litestar_safe_sse import CloseReason
from litestar_safe_sse.testing import open_stream
from tests.asking import ask
from tests.bounds import WAIT

HOST = {"Host": "127.0.0.1"}
STATIC = Path(example_app.__file__).parent / "static"


@pytest.fixture
def client() -> Iterator[TestClient[Litestar]]:
    with TestClient(create_app(), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LEAK_AFTER", 0.0)


def test_open_resource_is_counted_until_it_is_released() -> None:
    """A resource is in the ledger from its opening to its release, and not a moment longer."""

    async def run() -> None:
        ledger = Ledger()
        resource = ledger.issue("job", "safe")
        assert len(ledger) == 0
        async with resource:
            assert ledger.find(resource.number) is resource
            assert ledger.snapshot().kinds["job"] == {"safe": Held(open=1), "litestar": Held()}
        assert len(ledger) == 0
        assert ledger.snapshot().kinds == {}

    anyio.run(run)


def test_interrupted_release_is_a_leak(impatient: None) -> None:
    """A release that is cancelled before it is through leaves the resource open: leaked, once its client has gone."""

    async def run() -> None:
        ledger = Ledger()
        resource = ledger.issue("job", "litestar")
        with anyio.CancelScope() as scope:
            async with resource:
                resource.leave()
                scope.cancel()
        assert ledger.snapshot().kinds["job"]["litestar"] == Held(open=1, leaked=1)
        [row] = ledger.snapshot().ended
        assert (row.state, row.reason, row.cleanup_ms, row.leaked_seconds) == ("leaked", None, None, 0)

    anyio.run(run)


def test_resource_whose_client_is_still_there_has_not_leaked(impatient: None) -> None:
    """However long a resource is open, it counts as leaked only after its client has left."""

    async def run() -> None:
        ledger = Ledger()
        async with ledger.issue("job", "litestar"):
            assert ledger.snapshot().kinds["job"]["litestar"] == Held(open=1, leaked=0)

    anyio.run(run)


def test_time_to_cleanup_runs_from_the_first_word_of_leaving() -> None:
    """Of several reports that a client has left, the earliest counts, and none counts after the release."""

    async def run() -> None:
        ledger = Ledger()
        resource = ledger.issue("job", "safe")
        async with resource:
            resource.leave()
            first = resource.left_at
            await anyio.sleep(0.002)
            resource.leave()
            assert resource.left_at == first
        ledger.closed(resource, "CLIENT_DISCONNECTED")
        resource.leave()
        [row] = ledger.snapshot().ended
        assert (row.state, row.reason) == ("released", "CLIENT_DISCONNECTED")
        assert row.cleanup_ms is not None
        assert row.cleanup_ms >= 5

    anyio.run(run)


def test_blocking_bodies_release_from_a_thread() -> None:
    """A resource opened and released in another thread is counted like any other."""
    ledger = Ledger()
    resource = ledger.issue("report", "safe")
    opened, finish = threading.Event(), threading.Event()

    def hold() -> None:
        with resource:
            opened.set()
            finish.wait(WAIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert opened.wait(WAIT)
    assert len(ledger) == 1
    finish.set()
    thread.join(WAIT)
    assert len(ledger) == 0


def test_reset_writes_off_only_what_has_leaked(impatient: None) -> None:
    """Resetting drops leaked resources for good, and leaves those alone whose clients are still there."""

    async def run() -> None:
        ledger = Ledger()
        leaked, kept = ledger.issue("job", "litestar"), ledger.issue("job", "litestar")
        async with kept:
            async with leaked:
                leaked.leave()
                await anyio.sleep(0.001)
                assert ledger.reset() == 1
                assert len(ledger) == 1
            assert ledger.snapshot().ended == []
        assert len(ledger) == 0

    anyio.run(run)


def test_unheard_tokens_are_billed_up_to_the_limit() -> None:
    """An upstream bills nobody's tokens from the leaving on, until it is released or has said all it may say."""
    ledger = Ledger()
    resource = ledger.issue("answer", "litestar", tokens_per_second=10)
    resource.opened_at = 100.0
    assert resource.unheard_tokens(110.0) == 0
    resource.left_at = 105.0
    assert resource.unheard_tokens(110.0) == 50
    assert resource.unheard_tokens(100_000.0) == resource.token_limit - 50


def test_history_is_bounded_and_without_crowds() -> None:
    """The list of streams that have ended keeps the latest few, newest first, and no member of a crowd."""
    ledger = Ledger()
    for _ in range(50):
        with ledger.issue("report", "safe"):
            pass
    with ledger.issue("report", "safe", crowd=True):
        pass
    assert [row.number for row in ledger.snapshot().ended] == list(range(50, 38, -1))


def test_mailbox_delivers_to_all_and_forgets_those_who_left() -> None:
    """Each subscriber gets each notification once; a full or closed mailbox holds nobody up."""
    mailbox = Mailbox()
    with mailbox.subscribe() as one, mailbox.subscribe() as other:
        assert mailbox.publish("hello") == 2
        assert one.get_nowait() == other.get_nowait() == "hello"
        for _ in range(100):
            mailbox.publish("again")
        assert one.qsize() == 16
    assert mailbox.publish("anybody?") == 0


def test_page_and_its_parts_are_served(client: TestClient[Litestar]) -> None:
    """The page, its script and its style come from this server, and may load from nowhere else."""
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert """http-equiv="Content-Security-Policy" content="default-src 'self'\"""" in page.text
    for part in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(part).status_code == 200


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    """No static file names another host."""
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+", path.read_text("utf-8")) == []


def test_kinds_are_told_to_the_page(client: TestClient[Litestar]) -> None:
    """The page learns of every kind from the server."""
    assert [kind["name"] for kind in client.get("/kinds").json()] == list(KINDS)


@pytest.mark.parametrize(("via", "reason"), [("safe", "COMPLETED"), ("litestar", None)])
def test_stream_that_ends_by_itself_is_listed(
    client: TestClient[Litestar], monkeypatch: pytest.MonkeyPatch, via: str, reason: str | None
) -> None:
    """A finished stream has given its resource back, and is listed with its reason, unless it came with a crowd."""

    async def body(resource: Resource, _: Mailbox) -> AsyncIterator[Event]:
        async with resource:
            yield {"event": "greeting", "data": "hello"}

    monkeypatch.setitem(KINDS, "short", Kind("short", "Short", "", "", body))
    for path in (f"/streams/{via}/short", f"/streams/{via}/short?crowd"):
        response = client.get(path)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "data: hello" in response.text
    ledger = client.app.state.ledger
    assert len(ledger) == 0
    [row] = ledger.snapshot().ended
    assert (str(row.number), row.via, row.reason, row.state) == ("1", via, reason, "released")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_leaves_gives_the_resource_back(kind: str) -> None:
    """A stream of any kind holds one resource while it is open, and none once its client has left."""
    app = create_app()
    ledger: Ledger = app.state.ledger
    async with open_stream(app, "GET", f"/streams/safe/{kind}", headers=HOST, timeout=WAIT) as stream:
        if kind == "notifications":
            while await ask(app, "POST", "/notifications", **HOST) == (200, {"delivered": 0}):  # noqa: ASYNC110
                await anyio.sleep(0.001)  # until its body has subscribed
        assert (await stream.next()).data
        assert len(ledger) == 1
        await stream.disconnect()
        assert (stream.close_reason, stream.cleanups) == (CloseReason.CLIENT_DISCONNECTED, [])
    assert len(ledger) == 0
    [row] = ledger.snapshot().ended
    assert (row.via, row.reason, row.state) == ("safe", "CLIENT_DISCONNECTED", "released")


@pytest.mark.anyio
async def test_stream_that_is_revoked_gives_the_resource_back() -> None:
    """The order names it by its number; its response has a proper end."""
    app = create_app()
    ledger: Ledger = app.state.ledger
    async with open_stream(app, "GET", "/streams/safe/job", headers=HOST, timeout=WAIT) as stream:
        assert (await stream.next()).data
        order = f"/streams/{stream.headers['X-Stream']}/revoke"
        assert await ask(app, "POST", order, **HOST) == (204, None)
        await stream.read()
        assert stream.complete
    assert stream.close_reason is CloseReason.REVOKED
    assert len(ledger) == 0


def test_server_that_holds_too_much_says_so(client: TestClient[Litestar], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the ledger is full, streams and crowds are refused in words that say what to do."""
    monkeypatch.setattr("example_app.app.HOLD_AT_MOST", 0)
    for response in (client.get("/streams/safe/job"), client.post("/crowds/safe/job")):
        assert response.status_code in (409, 503)
        assert "Reset first" in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/streams/safe/nonsense", 404),
        ("GET", "/streams/litestar/nonsense", 404),
        ("POST", "/crowds/safe/nonsense", 404),
        ("POST", "/crowds/nonsense/job", 404),
        ("POST", "/streams/1/revoke", 404),
        ("POST", "/streams/1/left", 204),
        ("POST", "/reset", 200),
        ("POST", "/notifications", 200),
    ],
)
def test_requests_for_what_is_not_there(client: TestClient[Litestar], method: str, path: str, status: int) -> None:
    """A kind, a side or a stream that does not exist is answered as such; housekeeping is always possible."""
    assert client.request(method, path).status_code == status
