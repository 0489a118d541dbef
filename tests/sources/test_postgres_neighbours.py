"""Calls of a log in PostgreSQL that go together, of which one can't be carried out: the others are, as if alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Any

import anyio
import asyncpg
import pytest

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import (
    InvalidFieldError,
    SourceRefusedError,
    SourceUnavailableError,
    TopicFinishedError,
)
from litestar_safe_sse.sources._stored import APPEND_MANY
from litestar_safe_sse.sources.event_log import History
from litestar_safe_sse.sources.postgres.connections import Connector, PostgresConnections
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from litestar_safe_sse.sources.testing import MakeLog
from tests.bounds import SHORT, WAIT
from tests.postgres_server import PostgresServer
from tests.sources.clients import eventually
from tests.sources.logs import logs_in
from tests.sources.subscriptions import data, take

pytestmark = pytest.mark.anyio

NULL = "a\0b"
"""What anybody can ask for, by a path such as ``/feed/a%00b``."""


@pytest.fixture
async def make_log(shared_postgres: PostgresServer) -> AsyncIterator[MakeLog]:
    async with logs_in(shared_postgres) as make:
        yield make


@pytest.fixture
def log(make_log: MakeLog) -> Any:
    return make_log()


@pytest.fixture
async def client(shared_postgres: PostgresServer) -> AsyncIterator[Any]:
    """A connection of its own."""
    connection = await asyncpg.connect(shared_postgres.url)
    yield connection
    await connection.close()


@asynccontextmanager
async def holding(client: Any, log: PostgresEventLog, topic: str) -> AsyncIterator[None]:
    """Has a transaction hold a topic, by an event, which is stored in the end."""
    async with client.transaction():
        await log.append(topic, "held", connection=client)
        yield


async def is_waiting(server: PostgresServer) -> bool:
    """Whether a command of somebody's waits for a lock."""
    connection = await asyncpg.connect(server.url)
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
    finally:
        await connection.close()


# Where to begin


CALLS: dict[str, Callable[[PostgresEventLog], Awaitable[Any]]] = {
    "append": lambda log: log.append(NULL, "x"),
    "append_many": lambda log: log.append_many(NULL, ["x"]),
    "finish": lambda log: log.finish(NULL),
    "delete": lambda log: log.delete(NULL),
    "read": lambda log: log.read(NULL),
    "position": lambda log: log.position("news", NULL),
    "is_finished": lambda log: log.is_finished("news", NULL),
    "presence": lambda log: log.presence(NULL),
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_refuses_a_topic_that_can_t_be_stored(make_log: MakeLog, name: str) -> None:
    """It names what is wrong, and what would be right."""
    log: Any = make_log(presence=lambda connection: connection)
    with pytest.raises(InvalidFieldError, match="without null characters") as caught:
        await CALLS[name](log)
    assert caught.value.field == "topic"


async def test_a_topic_that_can_t_be_stored_keeps_nobody_from_his(make_log: MakeLog) -> None:
    """Who asks for it in the same moment is refused when he asks; the others begin, and are seen to be there."""
    log, other = (make_log(presence=lambda connection: connection) for _ in range(2))
    ann: Any = SimpleNamespace(request="ann")
    await log.append("news", "x")
    streams = [log.subscribe("news", start="oldest", stream=ann) for _ in range(5)]
    taken = [asyncio.ensure_future(take(stream, 1)) for stream in streams]
    with pytest.raises(InvalidFieldError, match="without null characters"):
        log.subscribe("news", NULL, stream=ann)
    for messages in await asyncio.gather(*taken):
        assert data(messages) == ["x"]

    async def all_are_there() -> bool:
        return (await other.presence("news")).members == {"ann": 5}

    await eventually(all_are_there)
    for stream in streams:
        await stream.aclose()


async def test_a_history_that_raises_fails_who_asked_for_its_topic(make_log: MakeLog) -> None:
    """And nobody who begins in the same moment; nobody is left waiting."""

    def history(topic: str) -> History | None:
        if topic == "bad":
            raise LookupError(topic)
        return None

    log = make_log(history=history)
    await log.append("good", "x")
    bad, *good = (log.subscribe(topic, start="oldest") for topic in ("bad", *5 * ["good"]))
    taken = [asyncio.ensure_future(take(stream, 1)) for stream in (good[0], bad, *good[1:])]
    appended = [asyncio.ensure_future(log.append(topic, "y")) for topic in ("bad", "good", "bad")]
    with anyio.fail_after(WAIT):
        first, failure, *rest = await asyncio.gather(*taken, return_exceptions=True)
        outcomes = await asyncio.gather(*appended, return_exceptions=True)
    assert isinstance(failure, LookupError)
    for messages in (first, *rest):
        assert isinstance(messages, list)
        assert data(messages) == ["x"]
    assert [type(outcome) for outcome in outcomes] == [LookupError, str, LookupError]
    for stream in good:
        await stream.aclose()


# Appends


async def test_what_waits_behind_an_append_to_a_finished_topic_is_answered(log: Any) -> None:
    """Its end is what it was, and a key that is known stays known."""
    known = await log.append("a", "x", idempotency_key="known")
    end = await log.finish("a")
    calls = [
        log.append("a", "late"),
        log.finish("a"),
        log.append("a", "x", idempotency_key="known"),
        log.append("a", ""),
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[1:3] == [end, known]
    assert [type(outcomes[number]) for number in (0, 3)] == [TopicFinishedError] * 2


async def test_what_goes_together_with_a_refused_append_is_stored(log: Any, client: Any) -> None:
    """Of many that share a transaction, one breaks a rule of the database's: the others are stored, in their order."""
    await client.execute("ALTER TABLE sse_log_events ADD CHECK (data <> 'forbidden')")
    items = [f"{number}" if number % 20 else "forbidden" for number in range(100)]
    appends = [log.append("a", item) for item in items]
    outcomes = await asyncio.gather(*appends, log.append_many("a", ["forbidden", "with it"]), return_exceptions=True)
    for item, outcome in zip([*items, "forbidden"], outcomes, strict=True):
        assert isinstance(outcome, SourceRefusedError if item == "forbidden" else str)
    stored = await log.read("a", limit=APPEND_MANY)
    assert data(stored) == [item for item in items if item != "forbidden"]
    assert [message.id for message in stored] == [outcome for outcome in outcomes if isinstance(outcome, str)]


async def test_a_number_that_can_t_be_stored_is_refused_by_its_name(log: Any) -> None:
    """The largest that can is stored."""
    with pytest.raises(InvalidFieldError) as caught:
        await log.append("a", SSEMessage("x", retry=2**63))
    assert caught.value.field == "retry"
    await log.append("a", SSEMessage("x", retry=2**63 - 1))
    assert [message.retry for message in await log.read("a")] == [2**63 - 1]


async def test_an_append_has_its_own_time(log: Any, client: Any, shared_postgres: PostgresServer) -> None:
    """One that is called while another waits in vain is not given up with that."""
    log._connector.reply_timeout = 2.0
    await log.append("b", "connects")
    async with holding(client, log, "a"):
        first = asyncio.ensure_future(log.append("a", "first"))
        await eventually(lambda: is_waiting(shared_postgres))
        log._connector.reply_timeout = WAIT
        late = [asyncio.ensure_future(log.append("a", f"{number}")) for number in range(3)]
        with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
            await first
    await asyncio.gather(*late)
    assert data(await log.read("a")) == ["held", "0", "1", "2"]


async def test_postgres_gives_up_an_append_in_the_time_that_it_has_left(
    log: Any, client: Any, shared_postgres: PostgresServer
) -> None:
    """Then it is known that it is not stored: also if it had to wait for another one before it was sent."""
    log._connector.reply_timeout = 1.5
    await log.append("b", "connects")
    async with holding(client, log, "a"):
        first = asyncio.ensure_future(log.append("a", "first"))
        await eventually(lambda: is_waiting(shared_postgres))
        log._connector.reply_timeout = 5.0
        second = asyncio.ensure_future(log.append("a", "second"))
        with anyio.fail_after(WAIT):
            with pytest.raises(SourceUnavailableError):
                await first
            with pytest.raises(SourceUnavailableError, match="statement timeout"):
                await second
    log._connector.reply_timeout = WAIT
    await log.append("a", "after")
    assert data(await log.read("a")) == ["held", "after"]


async def test_what_has_no_time_left_is_not_sent(own_postgres: PostgresServer) -> None:
    """Behind an append to a server that hangs: it is known of the others that they are not stored."""
    log = PostgresEventLog(own_postgres.url)
    try:
        await log.create_tables()
        await log.append("a", "before")
        log._connector.reply_timeout = SHORT
        own_postgres.pause()
        appends = [log.append("a", f"{number}", idempotency_key=f"{number}") for number in range(20)]
        with anyio.fail_after(WAIT):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == 20 * [SourceUnavailableError]
        own_postgres.resume()
        log._connector.reply_timeout = WAIT
        await log.append("a", "after")
        stored = data(await log.read("a"))
        assert [item for item in stored if item != "0"] == ["before", "after"]
    finally:
        await log.aclose()


async def test_a_connection_that_comes_too_late_serves_the_next(shared_postgres: PostgresServer) -> None:
    """Who waited for it was told in time; it is not given up halfway, to be opened once more."""
    opened = 0
    may_connect = asyncio.Event()

    async def connect() -> Any:
        nonlocal opened
        opened += 1
        await may_connect.wait()
        return await asyncpg.connect(shared_postgres.url)

    connector = Connector(connect)
    connector.reply_timeout = WAIT
    connections = PostgresConnections(connector, 1)
    try:
        with anyio.fail_after(WAIT / 2), pytest.raises(SourceUnavailableError):
            await connections.submit("SELECT 1 AS one", until=monotonic() + SHORT)
        following = connections.submit("SELECT 2 AS two")
        may_connect.set()
        assert [row["two"] for row in await following] == [2]
        assert opened == 1
    finally:
        await connections.aclose()
