"""The feed that resumes: its events, its orders to die, and how its servers are started. In process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from example_app import __main__ as launcher
from example_app import feed as feed_module
from example_app.app import create_app
from example_app.feed import Feed, Hello, Published, Worker
from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import MemoryEventLog, Reset
from tests.bounds import START, WAIT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client() -> Iterator[TestClient[Litestar]]:
    with TestClient(create_app(), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "TICK", 0.01)
    monkeypatch.setattr(feed_module, "RETRY", 0.001)
    monkeypatch.setattr(feed_module, "ANSWER_FIRST", 0.0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(WAIT):
            await test()

    asyncio.run(bounded())


def decode(message: SSEMessage, type: type[Any]) -> Any:
    data = message.data
    return msgspec.json.decode(data, type=type) if isinstance(data, str) else data


async def take(feed: Feed, many: int, after: str | None = None) -> tuple[Hello, list[Published], str]:
    """The first events of a stream: its greeting, what was published, and the last ID."""
    events = feed.events(after)
    hello = decode(await events.__anext__(), Hello)
    published: list[Published] = []
    last = after or ""
    async for message in events:
        last = str(message.id or last)
        if message.event == "published":
            published.append(decode(message, Published))
            if len(published) == many:
                break
    await events.aclose()  # type: ignore[attr-defined]
    return hello, published, last


async def alive(feed: Feed, many: int) -> None:
    while len(feed.alive()) < many:  # noqa: ASYNC110
        await anyio.sleep(0.001)


@pytest.mark.usefixtures("quick")
def test_stream_goes_on_after_the_last_event_of_another_worker() -> None:
    """Whichever worker delivers, a stream that resumes begins with the event that comes next, and misses none."""

    async def test() -> None:
        log = MemoryEventLog()
        one, other = Feed(log, "redis"), Feed(log, "redis")
        await one.start()
        try:
            hello, first, last = await take(one, 3)
            assert hello.worker == one.worker
            await log_has_grown(log)
            hello, rest, _ = await take(other, 5, last)
            assert hello.worker == other.worker
            begin = first[0].number
            assert [event.number for event in first + rest] == list(range(begin, begin + 8))
            assert {event.worker for event in first + rest} == {one.worker}
        finally:
            await one.aclose()

    run(test)


async def log_has_grown(log: MemoryEventLog) -> None:
    async with log.subscribe(feed_module.TOPIC) as subscription:
        seen = 0
        async for message in subscription:
            seen += message.event == "published"
            if seen == 2:
                return


@pytest.mark.usefixtures("quick")
def test_place_that_is_not_in_the_log_is_answered_by_a_reset() -> None:
    """A page that comes back with an ID that the log does not know is told so before anything else."""

    async def test() -> None:
        events = Feed(MemoryEventLog(), "memory").events("an ID of some other log")
        assert (await events.__anext__()).event == "hello"
        message = await events.__anext__()
        assert message.event == "reset"
        assert decode(message, Reset) == Reset({feed_module.TOPIC: "unknown"}, "oldest")
        await events.aclose()  # type: ignore[attr-defined]

    run(test)


@pytest.mark.usefixtures("quick")
def test_event_whose_answer_was_lost_is_published_once() -> None:
    """A log that stored an event and could not say so is asked again, and has it once, in its place."""

    class Forgetful(MemoryEventLog):
        lost = 0

        async def append(self, topic: str, message: object, *, idempotency_key: str | None = None) -> str:
            id = await super().append(topic, message, idempotency_key=idempotency_key)
            if self.lost < 3:
                self.lost += 1
                raise SourceUnavailableError("the answer was lost")
            return id

    async def test() -> None:
        log = Forgetful()
        feed = Feed(log, "redis")
        await feed.start()
        try:
            feed.order("note")
            while log.lost < 3:  # noqa: ASYNC110
                await anyio.sleep(0.001)
            subscription = log.subscribe(feed_module.TOPIC, start="oldest")
            numbers = []
            async for message in subscription:
                if message.event == "published":
                    numbers.append(decode(message, Published).number)
                    if len(numbers) == 6:
                        break
            assert numbers == [1, 2, 3, 4, 5, 6]
        finally:
            await feed.aclose()

    run(test)


@pytest.mark.usefixtures("quick")
def test_worker_that_is_named_dies_and_no_other() -> None:
    """The order to die goes through the log; the worker that it names ends itself."""

    async def test() -> None:
        log, died = MemoryEventLog(), asyncio.Event()
        survivor, victim = Feed(log, "redis", end=unwanted), Feed(log, "redis", end=died.set)
        await survivor.start()
        await victim.start()
        try:
            await alive(survivor, 2)
            survivor.order("kill", victim.worker)
            await died.wait()
            while victim.worker.id in survivor.alive():  # noqa: ASYNC110
                await anyio.sleep(0.001)
            assert set(survivor.alive()) == {survivor.worker.id}
        finally:
            await survivor.aclose()
            await victim.aclose()

    run(test)


@pytest.mark.usefixtures("quick")
def test_two_workers_that_name_each_other_leave_one_alive() -> None:
    """Kills are obeyed in the order of the log, and never by the last worker."""

    async def test() -> None:
        log = MemoryEventLog()
        died: list[str] = []
        feeds = [Feed(log, "redis", end=partial(died.append, name)) for name in ("one", "other")]
        one, other = feeds
        await one.start()
        await other.start()
        try:
            for feed in feeds:
                await alive(feed, 2)
            one.order("kill", other.worker)
            other.order("kill", one.worker)
            while not all(len(feed._killed) == 2 for feed in feeds):  # noqa: ASYNC110
                await anyio.sleep(0.001)
            await anyio.wait_all_tasks_blocked()  # whoever obeys has done it
            assert len(died) == 1
        finally:
            await one.aclose()
            await other.aclose()

    run(test)


def unwanted() -> None:
    raise AssertionError("a worker that nobody named has ended itself")


def test_log_in_memory_dies_with_its_worker(client: TestClient[Litestar]) -> None:
    """Without a log that outlives it, the only worker can't be killed."""
    response = client.post(f"/feed/workers/{client.app.state.feed.worker.id}/kill")
    assert response.status_code == 409
    assert "memory" in response.json()["detail"]


def test_kill_needs_another_worker_that_is_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a worker that is known is killed, not the last one, and not one that has just been started."""
    app = create_app()
    feed: Feed = app.state.feed
    monkeypatch.setattr(feed, "storage", "redis")
    ordered: list[Any] = []
    monkeypatch.setattr(feed, "order", lambda *order: ordered.append(order))
    now = feed_module.now()
    old, young = Worker("old", 1, now - 60_000), Worker("young", 2, now)
    present: dict[str, Worker] = {}
    monkeypatch.setattr(feed, "alive", lambda: present)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/feed/workers/old/kill").status_code == 404
        present["old"] = old
        assert "only worker" in client.post("/feed/workers/old/kill").json()["detail"]
        present["young"] = young
        assert "just started" in client.post("/feed/workers/young/kill").json()["detail"]
        assert ordered == []
        assert client.post("/feed/workers/old/kill").status_code == 202
    assert ordered == [("kill", old)]


def test_notes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log can't be reached, a few notes wait for it, and more are refused."""

    async def unreachable(*_: object, **__: object) -> str:
        raise SourceUnavailableError("away")

    app = create_app()
    monkeypatch.setattr(app.state.feed.log, "append", unreachable)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answers = [client.post("/feed/notes").status_code for _ in range(20)]
    assert answers[:10] == [202] * 10
    assert answers[-1] == 503


def test_app_runs_without_redis_py() -> None:
    """The example needs redis-py only if it is told to use Redis, and then it says what to install."""
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from example_app.app import create_app\n"
        "from litestar_safe_sse.exceptions import MissingExtraError\n"
        "create_app()\n"
        "try: create_app('redis://localhost')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=START)
    assert found.returncode == 0, found.stderr
    assert "pip install" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2"], "EXAMPLE_REDIS_URL"),
        (["--workers", "0"], "1 or more"),
        (["--server", "granian"], "pip install granian"),
    ],
)
def test_what_cannot_be_started_is_said(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that won't do are answered with what to do, before anything is started."""
    monkeypatch.delenv("EXAMPLE_REDIS_URL", raising=False)
    monkeypatch.setattr(launcher, "find_spec", lambda name: None if name == "granian" else find_spec(name))
    with pytest.raises(SystemExit):
        launcher.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a socket can't be shared like this on Windows")
def test_workers_that_cannot_start_are_given_up() -> None:
    """A worker that ends at once is not started again and again."""
    program = (
        "import sys; from example_app.workers import keep_workers\n"
        "keep_workers(lambda socket: [sys.executable, '-c', ''], '127.0.0.1', 0, 2)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=START)
    assert found.returncode == 1
    assert "as soon as it was started" in found.stderr
