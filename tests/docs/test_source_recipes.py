"""Each recipe of a source, with a real Redis and mostly real Uvicorns: clients leave, Redis goes away, workers end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx_sse import ServerSentEvent
from playwright.sync_api import expect, sync_playwright
from redis import Redis

from litestar_safe_sse import CloseReason
from litestar_safe_sse.testing import Event, OpenStream, open_stream
from tests.asking import ask, take
from tests.bounds import WAIT
from tests.docs.conftest import Load
from tests.docs.processes import PLAIN, ServerProcess, leave, reset, running, stream
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

aborts = pytest.mark.parametrize("abort", [leave, reset])
Abort = Callable[[httpx.Response], None]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def recipe(load: Load, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a recipe, which finds its Redis, into the test's process."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    return load


@pytest.fixture
def server(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[ServerProcess]:
    with running(f"{request.param}:app", EXAMPLES, without_models=True, REDIS_URL=redis_server.url) as server:
        yield server


@pytest.fixture
def servers(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two workers."""
    environment = {"REDIS_URL": redis_server.url, "CLAIM_AFTER": "1"}
    with (
        running(f"{request.param}:app", EXAMPLES, without_models=True, **environment) as first,
        running(f"{request.param}:app", EXAMPLES, without_models=True, **environment) as second,
    ):
        yield first, second


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [name], indirect=True)


def on_two_workers(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("servers", [name], indirect=True)


def post(server: ServerProcess, path: str, data: object, **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, json=data, headers=headers, timeout=WAIT, verify=PLAIN)


def numbers(events: Iterator[ServerSentEvent], count: int) -> list[int]:
    return [event.json()["n"] for event in islice(events, count)]


async def until(condition: Callable[[], object]) -> None:
    """Waits for a state of Redis, or of a source."""
    with anyio.fail_after(WAIT):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


# A BLPOP feed


@pytest.mark.anyio
async def test_job_of_a_client_that_has_left_goes_to_the_next(recipe: Load, redis: Redis) -> None:
    """Each job goes to one client; who leaves with one that has just come gives it back."""
    feed = recipe("blpop_feed")
    async with (
        open_stream(feed.app, "GET", "/jobs", timeout=WAIT) as first,
        open_stream(feed.app, "GET", "/jobs", timeout=WAIT) as second,
    ):
        await until(lambda: feed.jobs.statistics().waiting == 2)
        redis.rpush("jobs", '{"n":1}', '{"n":2}')
        [one], [other] = await take(first, 1), await take(second, 1)
        assert {one["n"], other["n"]} == {1, 2}
        await first.disconnect()
        assert await take(second, 1) == [one]


@example("blpop_feed")
def test_job_of_a_client_that_was_killed_goes_to_the_next(server: ServerProcess, redis: Redis) -> None:
    """The same on a server."""
    with stream(server, "/jobs") as (response, first), stream(server, "/jobs") as (_, second):
        redis.rpush("jobs", '{"n":1}', '{"n":2}')
        seen = {**dict.fromkeys(numbers(first, 1), "first"), **dict.fromkeys(numbers(second, 1), "second")}
        assert seen.keys() == {1, 2}
        reset(response)
        assert {seen[n] for n in numbers(second, 1)} == {"first"}


@example("blpop_feed")
def test_list_outlives_redis_and_the_worker(server: ServerProcess, redis: Redis, redis_server: RedisServer) -> None:
    """Streams go on when Redis is back; what nobody waits for after a shutdown is in the list."""
    with stream(server, "/jobs") as (_, events):
        post(server, "/jobs", {"n": 1})
        assert numbers(events, 1) == [1]
        redis_server.restart(kill=True)
        redis.rpush("jobs", '{"n":2}')
        assert numbers(events, 1) == [2]
        server.terminate()
        assert list(events) == []
    redis.rpush("jobs", '{"n":3}')
    assert redis.lrange("jobs", 0, -1) == ['{"n":3}']


# Pub/Sub


@pytest.mark.anyio
async def test_price_is_shown_then_its_changes(recipe: Load, redis: Redis) -> None:
    """To everybody who watches; when the last one has left, Redis sends nothing more."""
    app = recipe("pubsub_feed").app

    async def set_price(price: float) -> None:
        assert (await ask(app, "PUT", "/prices", {"symbol": "X", "price": price}))[0] in (200, 204)

    async def shown(*streams: OpenStream) -> list[float]:
        return [price["price"] for stream in streams for price in await take(stream, 1)]

    async with app.lifespan():
        await set_price(1)
        async with (
            open_stream(app, "GET", "/prices/X", timeout=WAIT) as stays,
            open_stream(app, "GET", "/prices", timeout=WAIT) as board,
        ):
            assert await shown(stays) == [1]
            async with open_stream(app, "GET", "/prices/X", timeout=WAIT) as leaves:
                assert await shown(leaves) == [1]
                await until(lambda: redis.pubsub_numpat() == 1)
                await set_price(2)
                assert await shown(stays, leaves, board) == [2, 2, 2]
                await leaves.disconnect()
            await set_price(3)
            assert await shown(stays, board) == [3, 3]
        await until(lambda: redis.pubsub_numsub("price:X") == [("price:X", 0)] and redis.pubsub_numpat() == 0)


@example("pubsub_feed")
def test_price_is_shown_until_the_last_client_was_killed(server: ServerProcess, redis: Redis) -> None:
    """The same on a server."""

    def set_price(price: float) -> None:
        httpx.put(f"{server.url}/prices", json={"symbol": "X", "price": price}, verify=PLAIN).raise_for_status()

    set_price(1)
    with stream(server, "/prices/X") as (_, stays), stream(server, "/prices") as (_, board):
        assert next(stays).json()["price"] == 1
        with stream(server, "/prices/X") as (response, leaves):
            assert next(leaves).json()["price"] == 1
            server.until(lambda: redis.pubsub_numpat() == 1)
            set_price(2)
            for events in (stays, leaves, board):
                event = next(events)
                assert (event.event, event.json()) == ("price", {"symbol": "X", "price": 2})
            reset(response)
        set_price(3)
        assert next(stays).json()["price"] == next(board).json()["price"] == 3
    server.until(lambda: redis.pubsub_numsub("price:X") == [("price:X", 0)] and redis.pubsub_numpat() == 0)


@example("pubsub_feed")
def test_gap_of_an_outage_is_told_and_filled(server: ServerProcess, redis: Redis, redis_server: RedisServer) -> None:
    """The feed of one price is shown what it is now; the others are told."""
    httpx.put(f"{server.url}/prices", json={"symbol": "X", "price": 1}, verify=PLAIN)
    with stream(server, "/prices/X") as (_, one), stream(server, "/prices") as (_, board):
        assert next(one).json()["price"] == 1
        server.until(lambda: redis.pubsub_numpat() == 1)
        redis_server.restart(kill=True)
        event = next(one)
        assert (event.event, event.json()["price"]) == ("price", 1)
        event = next(board)
        assert event.event == "gap"
        assert event.json()["seconds"] > 0
        server.terminate()
        assert list(one) == list(board) == []


# Resume


def append(server: ServerProcess, *posts: int, topic: str = "all") -> None:
    for number in posts:
        post(server, f"/posts/{topic}", {"text": str(number)}).raise_for_status()


def texts(events: Iterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    found = list(islice((event for event in events if event.event != "subscribed"), count))
    assert {event.event for event in found} == {"post"}
    return found


def shown(events: list[ServerSentEvent]) -> list[int]:
    return [int(event.json()["text"]) for event in events]


@aborts
@on_two_workers("resumed_feed")
def test_feed_is_resumed_at_another_worker(servers: tuple[ServerProcess, ServerProcess], abort: Abort) -> None:
    """One ID resumes both topics, with nothing missing and nothing twice; other users' are not shown."""
    first, second = servers
    append(first, 1, 2)
    append(second, 10, topic="user ada")
    append(second, 20, topic="user bob")
    with stream(first, "/feed/ada") as (response, events):
        seen = texts(events, 3)
        assert sorted(shown(seen)) == [1, 2, 10]
        append(second, 3)
        seen += texts(events, 1)
        abort(response)
    append(first, 4)
    append(first, 11, topic="user ada")
    with stream(second, "/feed/ada", seen[-1].id) as (_, events):
        seen += texts(events, 2)
        append(first, 5)
        seen += texts(events, 1)
    assert [n for n in shown(seen) if n < 10] == [1, 2, 3, 4, 5]
    assert [n for n in shown(seen) if n >= 10] == [10, 11]


@on_two_workers("resumed_feed")
def test_feed_survives_its_worker_and_redis(
    servers: tuple[ServerProcess, ServerProcess], redis_server: RedisServer
) -> None:
    """One worker is killed and Redis restarted; a post that was refused is stored once by being sent again."""
    first, second = servers
    append(first, 1)
    with stream(first, "/feed/ada") as (_, events), stream(second, "/feed/ada") as (_, stays):
        seen, all_of_it = texts(events, 1), texts(stays, 1)
        first.process.kill()
        with contextlib.suppress(httpx.HTTPError):
            assert list(events) == []
        redis_server.kill()
        assert post(second, "/posts/all", {"text": "2"}, **{"Idempotency-Key": "two"}).status_code == 503
        redis_server.start_again()
        for _ in range(2):
            second.until(lambda: post(second, "/posts/all", {"text": "2"}, **{"Idempotency-Key": "two"}).is_success)
        append(second, 3)
        all_of_it += texts(stays, 2)
        with stream(second, "/feed/ada", seen[-1].id) as (_, events):
            seen += texts(events, 2)
        assert shown(seen) == shown(all_of_it) == [1, 2, 3]
        second.terminate()
        assert list(stays) == []


async def next_text(stream: OpenStream) -> Event:
    """Passes over what tells where a client is, and returns the next post."""
    while (event := await stream.next()).type == "subscribed":
        pass
    assert event.type == "post"
    return event


@pytest.mark.anyio
async def test_client_is_told_when_the_log_was_lost(recipe: Load, redis: Redis) -> None:
    """A reset comes first, then all that is stored."""
    app = recipe("resumed_feed").app
    async with app.lifespan():
        assert (await ask(app, "POST", "/posts/all", {"text": "1"}))[0] == 201
        async with open_stream(app, "GET", "/feed/ada", timeout=WAIT) as feed:
            last = (await next_text(feed)).id
        redis.flushall()
        assert (await ask(app, "POST", "/posts/all", {"text": "2"}))[0] == 201
        async with open_stream(app, "GET", "/feed/ada", last_event_id=last, timeout=WAIT) as feed:
            event = await feed.next()
            lost = {"topics": {"all": "unknown", "user ada": "unknown"}, "resumed": "oldest"}
            assert (event.type, event.json()) == ("reset", lost)
            assert (await next_text(feed)).json()["text"] == "2"


@pytest.mark.anyio
async def test_feed_in_memory_is_resumed_at_its_worker(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a worker that is new says that it knows nothing."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    app = load("resumed_feed").app
    async with app.lifespan():
        assert (await ask(app, "POST", "/posts/all", {"text": "1"}))[0] == 201
        async with open_stream(app, "GET", "/feed/ada", timeout=WAIT) as feed:
            last = (await next_text(feed)).id
            await feed.disconnect()
        assert (await ask(app, "POST", "/posts/all", {"text": "2"}))[0] == 201
        async with open_stream(app, "GET", "/feed/ada", last_event_id=last, timeout=WAIT) as feed:
            assert (await next_text(feed)).json()["text"] == "2"
            await feed.shutdown()
            assert [event async for event in feed] == []
            assert feed.complete
        assert feed.close_reason is CloseReason.SHUTDOWN
    another = load("resumed_feed").app
    async with open_stream(another, "GET", "/feed/ada", last_event_id=last, timeout=WAIT) as feed:
        assert (await feed.next()).type == "reset"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one")
@example("resumed_feed")
def test_browser_shows_the_feed_whatever_happens(server: ServerProcess, redis: Redis) -> None:
    """The page's own script: the worker is killed, then the log is lost."""
    append(server, 1)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser,
    ):
        page = browser.new_page()
        page.goto(f"{server.url}/ada")
        items = page.get_by_role("listitem")
        expect(items).to_have_text(["1"], timeout=WAIT * 1000)
        append(server, 2)
        expect(items).to_have_text(["1", "2"], timeout=WAIT * 1000)
        server.start_again()
        append(server, 3)
        expect(items).to_have_text(["1", "2", "3"], timeout=WAIT * 1000)
        redis.flushall()
        append(server, 4)
        expect(items).to_have_text(["4"], timeout=WAIT * 1000)


# An acknowledged queue


@pytest.mark.anyio
async def test_job_that_was_not_acknowledged_comes_again(recipe: Load, redis: Redis) -> None:
    """At any worker, under the same ID; what was acknowledged is gone."""
    first, second = recipe("acknowledged_queue").app, recipe("acknowledged_queue").app
    async with first.lifespan(), second.lifespan():
        await ask(first, "POST", "/jobs", {"n": 1})
        async with open_stream(first, "GET", "/jobs", timeout=WAIT) as jobs:
            job = await jobs.next()
            assert (job.type, job.json()) == ("job", {"n": 1})
            await jobs.disconnect()
        async with open_stream(second, "GET", "/jobs", timeout=WAIT) as jobs:
            again = await jobs.next()
            assert (again.type, again.id, again.json()) == ("job again", job.id, {"n": 1})
            with anyio.fail_after(WAIT):
                while await ask(second, "GET", "/jobs/count") != (200, {"open": 0, "dead": 0}):  # noqa: ASYNC110
                    await anyio.sleep(0.01)


@on_two_workers("acknowledged_queue")
def test_job_of_a_client_that_was_killed_comes_again(servers: tuple[ServerProcess, ServerProcess]) -> None:
    """The same on two servers."""
    first, second = servers
    post(first, "/jobs", {"n": 1})
    with stream(first, "/jobs") as (response, events):
        job = next(events)
        assert (job.event, job.json()) == ("job", {"n": 1})
        reset(response)
    with stream(second, "/jobs") as (_, events):
        again = next(events)
        assert (again.event, again.id, again.json()) == ("job again", job.id, {"n": 1})
        second.until(lambda: httpx.get(f"{second.url}/jobs/count", verify=PLAIN).json() == {"open": 0, "dead": 0})


@on_two_workers("acknowledged_queue")
def test_job_survives_its_worker_and_redis(
    servers: tuple[ServerProcess, ServerProcess], redis: Redis, redis_server: RedisServer
) -> None:
    """A worker is killed with a job, and another one delivers it; Redis is restarted, and the queue goes on."""
    first, second = servers
    post(second, "/jobs", {"n": 1})
    with stream(first, "/jobs") as (_, events):
        job = next(events)
        first.process.kill()
    with stream(second, "/jobs") as (_, events):
        assert next(events).id == job.id
        redis_server.restart(kill=True)
        second.until(lambda: post(second, "/jobs", {"n": 2}).is_success)
        event = next(events)
        assert (event.event, event.json()) == ("job", {"n": 2})
        second.terminate()
        assert list(events) == []
    assert redis.xlen("{sse}:group:jobs") == 0


@pytest.mark.anyio
async def test_job_that_nobody_can_handle_is_put_aside(recipe: Load, redis: Redis) -> None:
    """After five deliveries, with what is known of it."""
    app = recipe("acknowledged_queue").app
    async with app.lifespan():
        await ask(app, "POST", "/jobs", {"n": 1})
        for _ in range(5):
            async with open_stream(app, "GET", "/jobs", timeout=WAIT) as jobs:
                assert await take(jobs, 1) == [{"n": 1}]
                await jobs.disconnect()
        async with open_stream(app, "GET", "/jobs", timeout=WAIT):
            with anyio.fail_after(WAIT):
                while await ask(app, "GET", "/jobs/count") != (200, {"open": 0, "dead": 1}):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
    letters: Any = redis.xrange("{sse}:group:jobs:dead")
    ((_, letter),) = letters
    assert (letter["deliveries"], json.loads(letter["data"])) == ("5", {"n": 1})


# Litestar's channels


def listeners(redis: Redis) -> int:
    return int(redis.pubsub_numsub("news")[0][1])


@pytest.mark.anyio
async def test_channel_is_left_with_its_last_listener(recipe: Load, redis: Redis) -> None:
    """All who listen are sent what is published, and nobody is left behind."""
    feed = recipe("channels_feed")
    app = feed.app
    async with app.lifespan():
        async with open_stream(app, "GET", "/channels/news", timeout=WAIT) as stays:
            async with open_stream(app, "GET", "/channels/news", timeout=WAIT) as leaves:
                await until(lambda: feed.source.statistics().subscribers == 2 and listeners(redis) == 1)
                await ask(app, "POST", "/channels/news", {"n": "1"})
                assert await take(stays, 1) == await take(leaves, 1) == [{"n": "1"}]
                await leaves.disconnect()
            await ask(app, "POST", "/channels/news", {"n": "2"})
            assert await take(stays, 1) == [{"n": "2"}]
        await until(lambda: listeners(redis) == 0)
        assert (await ask(app, "GET", "/channels/unknown"))[0] == 404


@example("channels_feed")
def test_channel_is_left_when_its_last_listener_was_killed(server: ServerProcess, redis: Redis) -> None:
    """The same on a server."""
    with stream(server, "/channels/news") as (_, stays):
        with stream(server, "/channels/news") as (response, leaves):
            server.until(lambda: listeners(redis) == 1)
            post(server, "/channels/news", {"n": "1"})
            for events in (stays, leaves):
                event = next(events)
                assert (event.event, event.json()) == ("message", {"n": "1"})
            reset(response)
        post(server, "/channels/news", {"n": "2"})
        assert next(stays).json() == {"n": "2"}
    server.until(lambda: listeners(redis) == 0)
    assert httpx.get(f"{server.url}/channels/unknown", verify=PLAIN).status_code == 404


@example("channels_feed")
def test_channels_outlive_redis(server: ServerProcess, redis: Redis, redis_server: RedisServer) -> None:
    """Streams stay open, and what is published when Redis is back is sent; the worker ends when it is told to."""
    with stream(server, "/channels/news") as (_, events):
        server.until(lambda: listeners(redis) == 1)
        redis_server.kill()
        redis_server.start_again()
        server.until(lambda: listeners(redis) == 1)
        post(server, "/channels/news", {"n": "1"})
        assert next(events).json() == {"n": "1"}
        server.terminate()
        assert list(events) == []


# PostgreSQL


@pytest.fixture
def shops(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[list[ServerProcess]]:
    """Two workers."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running(f"{request.param}:app", EXAMPLES, without_models=True, POSTGRES_URL=postgres_server.url)
            )
            for _ in range(2)
        ]


def example_in_postgres(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shops", [name], indirect=True)


@example_in_postgres("orders_feed")
def test_order_is_told_of_if_it_was_committed(shops: list[ServerProcess], postgres_server: PostgresServer) -> None:
    """By another worker, and after PostgreSQL was killed; what was rolled back is not."""
    first, second = shops
    with stream(second, "/orders") as (_, events):
        assert next(events).event == "subscribed"
        assert post(first, "/orders", {"item": "chair"}).json() == {"order": 1}
        assert next(events).json() == {"order": 1, "item": "chair"}
        postgres_server.kill()
        postgres_server.start_again()
        second.until(lambda: "reads from PostgreSQL again" in second.output)
        assert post(second, "/orders", {"item": "chair"}).status_code == 201
        assert post(first, "/orders", {"item": "chair"}).status_code == 409
        assert next(events).json()["item"] == "chair"
        first.terminate()
        second.terminate()
        assert list(events) == []
