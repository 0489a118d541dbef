"""What only a log in PostgreSQL can meet: transactions, outages, lost data, missing tables, other processes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
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
from litestar_safe_sse.sources._cursor import Position, cursor, positions, record, tag
from litestar_safe_sse.sources.event_log import Reset
from litestar_safe_sse.sources.postgres.log import PostgresEventLog
from tests.bounds import WAIT
from tests.postgres_server import PostgresServer
from tests.sources.clients import eventually
from tests.sources.subscriptions import begin, data, ids, take, take_all, until

pytestmark = pytest.mark.anyio

heavy = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
"""Once is enough."""

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname IS NOT NULL"
"""Ends all connections but the one that says so."""

MakePostgresLog = Callable[..., PostgresEventLog]


@pytest.fixture
async def make_log() -> AsyncIterator[MakePostgresLog]:
    made: list[PostgresEventLog] = []

    def make(url: Any, **settings: Any) -> PostgresEventLog:
        made.append(PostgresEventLog(url, **settings))
        return made[-1]

    yield make
    for log in made:
        await log.aclose()


@pytest.fixture
def log(postgres_url: str, make_log: MakePostgresLog) -> PostgresEventLog:
    return make_log(postgres_url)


@pytest.fixture
async def client(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of its own."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def own_log(own_postgres: PostgresServer, make_log: MakePostgresLog) -> PostgresEventLog:
    log = make_log(own_postgres.url)
    await log.create_tables()
    return log


async def append_until_stored(log: PostgresEventLog, topic: str, item: str) -> str:
    """As a careful publisher does it."""
    with anyio.fail_after(WAIT):
        while True:
            try:
                return await log.append(topic, item, idempotency_key=item)
            except SourceUnavailableError:
                await asyncio.sleep(0.02)


# Transactions


async def test_an_append_belongs_to_the_transaction(log: PostgresEventLog, client: Any) -> None:
    """Nobody is sent it before the commit, nor after a rollback; the ID resumes after it."""
    await client.execute("CREATE TABLE orders (id int)")
    async with log.subscribe("a") as subscription:
        start = await begin(subscription)
        with suppress(ZeroDivisionError):
            async with client.transaction():
                await client.execute("INSERT INTO orders VALUES (1)")
                await log.append("a", "rolled back", connection=client)
                raise ZeroDivisionError
        async with client.transaction():
            await client.execute("INSERT INTO orders VALUES (2)")
            appended = await log.append("a", "committed", connection=client)
            async with log.subscribe("a", after=str(start.id)) as other:
                waiting = asyncio.ensure_future(take(other, 1))
                await until(lambda: log.statistics().subscribers == 2)
                assert not waiting.done()
                waiting.cancel()
        assert [row["id"] for row in await client.fetch("SELECT id FROM orders")] == [2]
        await log.append("a", "next")
        assert data(await take(subscription, 2)) == ["committed", "next"]
    async with log.subscribe("a", after=appended) as subscription:
        assert data(await take(subscription, 1)) == ["next"]


async def test_a_rollback_leaves_no_gap_in_the_numbers(log: PostgresEventLog, client: Any) -> None:
    """Of a topic that was there, and of one that the transaction would have made."""
    await log.append("there", "1")
    for topic in ("there", "new"):
        transaction = client.transaction()
        await transaction.start()
        await log.append(topic, "lost", connection=client, idempotency_key="k")
        await transaction.rollback()
        await log.append(topic, "2", idempotency_key="k")
    assert [row["seq"] for row in await client.fetch("SELECT seq FROM sse_log_events ORDER BY topic, seq")] == [1, 1, 2]


async def test_an_append_waits_for_the_one_before_it(
    log: PostgresEventLog, client: Any, make_log: MakePostgresLog, postgres_url: str
) -> None:
    """While that is in a transaction which is open; other topics go on, and so does the append itself in the end."""
    other = make_log(postgres_url)
    async with log.subscribe("a", "b") as subscription:
        await begin(subscription)
        transaction = client.transaction()
        await transaction.start()
        await log.append("a", "first", connection=client)
        later = [asyncio.ensure_future(one.append("a", "later")) for one in (log, other)]
        await log.append("b", "b")
        assert data(await take(subscription, 1)) == ["b"]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await eventually(lambda: _is(client.fetchval(waiting), 2))
        assert not any(append.done() for append in later)
        await transaction.commit()
        await asyncio.gather(*later)
        assert data(await take(subscription, 3)) == ["first", "later", "later"]


async def _is(value: Awaitable[Any], expected: Any) -> bool:
    return bool(await value == expected)


@heavy
async def test_no_event_becomes_visible_behind_a_later_one(log: PostgresEventLog, postgres_url: str) -> None:
    """Of transactions that take their time, and of which a third is rolled back: what is read has never a gap."""
    committed: list[str] = []
    got: list[str] = []
    done = anyio.Event()

    async def transact(seed: int) -> None:
        chance = random.Random(seed)
        connection = await asyncpg.connect(postgres_url)
        for number in range(20):
            transaction = connection.transaction()
            await transaction.start()
            await asyncio.sleep(chance.choice([0, 0.002]))
            await log.append("a", f"{seed} {number}", connection=connection)
            await asyncio.sleep(chance.choice([0, 0.002]))
            if chance.random() < 1 / 3:
                await transaction.rollback()
            else:
                committed.append(f"{seed} {number}")
                await transaction.commit()
        await connection.close()

    async def look() -> None:
        connection = await asyncpg.connect(postgres_url)
        while not done.is_set():
            rows = await connection.fetch("SELECT seq FROM sse_log_events WHERE topic = 'a' ORDER BY seq")
            assert [row["seq"] for row in rows] == [*range(1, len(rows) + 1)]
        await connection.close()

    with anyio.fail_after(WAIT):
        async with log.subscribe("a") as subscription, anyio.create_task_group() as tasks:
            await begin(subscription)
            tasks.start_soon(look)
            async with anyio.create_task_group() as writers:
                for seed in range(8):
                    writers.start_soon(transact, seed)
            got += data(await take(subscription, len(committed)))
            done.set()
    assert sorted(got) == sorted(committed)
    for seed in range(8):
        own = [item for item in got if item.startswith(f"{seed} ")]
        assert own == sorted(own, key=lambda item: int(item.split()[1]))


async def test_a_topic_that_is_being_made_begins_for_who_comes_now(log: PostgresEventLog, client: Any) -> None:
    """Its first events are in a transaction that began before, and that is committed later."""
    transaction = client.transaction()
    await transaction.start()
    await log.append("a", "1", connection=client)
    async with log.subscribe("a") as subscription:
        start = await begin(subscription)
        async with log.subscribe("a") as left:
            left_at = await begin(left)
        await log.append("a", "2", connection=client)
        await transaction.commit()
        assert data(await take(subscription, 2)) == ["1", "2"]
    for after in (str(start.id), str(left_at.id)):
        async with log.subscribe("a", after=after) as subscription:
            assert data(await take(subscription, 2)) == ["1", "2"]


async def test_what_goes_wrong_in_a_transaction_is_typed(log: PostgresEventLog, postgres_url: str) -> None:
    """Two that wait for each other: one is told, and can try again."""

    async def both(first: str, second: str, met: anyio.Event, other: anyio.Event) -> Any:
        connection = await asyncpg.connect(postgres_url)
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL deadlock_timeout = '10ms'")
                await log.append(first, "x", connection=connection)
                met.set()
                await other.wait()
                await log.append(second, "x", connection=connection)
        except SourceUnavailableError as error:
            return error
        finally:
            await connection.close()
        return None

    here, there = anyio.Event(), anyio.Event()
    with anyio.fail_after(WAIT):
        failures = await asyncio.gather(both("a", "b", here, there), both("b", "a", there, here))
    assert [type(failure) for failure in failures if failure] == [SourceUnavailableError]


@pytest.mark.parametrize("code", ["25P03", "25P04", "57014", "57P05", "40P01", "53100"])
async def test_what_passes_is_unavailable(code: str, log: PostgresEventLog, client: Any) -> None:
    """Such as the time-outs of a transaction, which are told here by a trigger: one is of PostgreSQL 17."""
    says = f"BEGIN RAISE EXCEPTION 'timeout' USING ERRCODE = '{code}'; END"
    await client.execute(f"CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $${says}$$")
    await client.execute("CREATE TRIGGER refuse BEFORE INSERT ON sse_log_events EXECUTE FUNCTION pg_temp.refuse()")
    with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError, match="at the moment"):
        await log.append("a", "refused")
    await client.execute("DROP TRIGGER refuse ON sse_log_events")
    await log.append("a", "taken")


async def test_appends_of_one_caller_stay_in_order(log: PostgresEventLog) -> None:
    """Those that are not waited for, and those whose caller has left, too; what coincides shares a transaction."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        appends = [asyncio.ensure_future(log.append("a", f"{number}")) for number in range(100)]
        await asyncio.sleep(0)
        got = await take(subscription, 100)
        assert data(got) == [f"{number}" for number in range(100)]
        assert ids(got) == await asyncio.gather(*appends)
        cancelled = asyncio.ensure_future(log.append("a", "left"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await log.append("a", "last")
        assert data(await take(subscription, 2)) == ["left", "last"]


async def test_other_programs_append_by_sql(log: PostgresEventLog, client: Any) -> None:
    """In whatever language, and in triggers."""
    await client.execute("""
        CREATE TABLE orders (id int);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM sse_log_append('orders', to_json(NEW)::text, 'order'); RETURN NEW; END $$;
        CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
    """)
    async with log.subscribe("orders") as subscription:
        await begin(subscription)
        await client.execute("INSERT INTO orders VALUES (1), (2)")
        got = await take(subscription, 2)
    assert [(message.event, message.data) for message in got] == [("order", '{"id":1}'), ("order", '{"id":2}')]


@pytest.mark.parametrize(
    "payload",
    ["hello", "", "t", "1 2", "1 2 t", "a b c t", "1  2 t", "9" * 5000 + " 1 2 t", "9" * 50 + " 1 2 t", "-1 -1 -1 t"],
    ids=lambda payload: payload[:10],
)
async def test_what_others_notify_is_not_heard(log: PostgresEventLog, client: Any, payload: str) -> None:
    """A channel is anybody's: what is no event of the log is passed over, and those that are arrive."""
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    async with log.subscribe("t") as subscription:
        await begin(subscription)
        for number in range(2):
            await until(lambda: log._fan_out().listens)
            await client.execute("SELECT pg_notify('sse_log', $1)", payload)
            await log.append("t", f"{number}")
            assert data(await take(subscription, 1)) == [f"{number}"]
    assert failed == []


async def test_large_names_and_large_events_arrive(log: PostgresEventLog) -> None:
    """A notification may have 8,000 bytes; it has the place, and not the event."""
    topic = "é" * 128
    async with log.subscribe(topic) as subscription:
        await begin(subscription)
        await log.append(topic, "x" * 1_000_000)
        assert len((await take(subscription, 1))[0].data) == 1_000_000


async def test_several_and_the_end_belong_to_the_transaction(log: PostgresEventLog, client: Any) -> None:
    """Rolled back, the topic goes on; committed, who is subscribed is sent them, and ends."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for outcome in ("rollback", "commit"):
            transaction = client.transaction()
            await transaction.start()
            await log.append_many("a", [f"{outcome} 1", f"{outcome} 2"], connection=client)
            await log.finish("a", connection=client)
            await getattr(transaction, outcome)()
        got = await take_all(subscription)
        assert data(got[:2]) == ["commit 1", "commit 2"]
        assert [message.event for message in got[2:]] == ["finished"]
    with pytest.raises(TopicFinishedError):
        async with client.transaction():
            await log.append("a", "late", connection=client)


async def test_a_history_that_was_deleted_is_no_silent_gap(log: PostgresEventLog) -> None:
    """Who subscribed before it, and comes back after it, learns that something is missing."""
    async with log.subscribe("a") as subscription:
        start = str((await begin(subscription)).id)
    await log.append("a", "deleted")
    await log.delete("a")
    async with log.subscribe("a") as subscription:
        later = str((await begin(subscription)).id)
    await log.append("a", "new")
    async with log.subscribe("a", after=start, on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new"]
    async with log.subscribe("a", after=later) as subscription:
        assert data(await take(subscription, 1)) == ["new"]


# PostgreSQL goes away


async def test_a_history_that_came_and_went_during_an_outage_is_no_silent_gap(
    log: PostgresEventLog, postgres_url: str, client: Any, make_log: MakePostgresLog
) -> None:
    """Of a topic that had no event before, and has none when the reader is back."""
    may_connect = asyncio.Event()
    may_connect.set()

    async def connect() -> Any:
        await may_connect.wait()
        return await asyncpg.connect(postgres_url)

    cut_off = make_log(connect)
    async with cut_off.subscribe("a") as subscription:
        await begin(subscription)
        waiting = asyncio.ensure_future(take(subscription, 2))
        await eventually(lambda: cut_off._fan_out().listens)
        may_connect.clear()
        await client.execute(CUT)
        await eventually(lambda: not cut_off._fan_out().listens)
        await log.append("a", "missed")
        await log.delete("a")
        may_connect.set()
        await eventually(lambda: cut_off.statistics().gaps)
        await log.append("a", "new")
        with anyio.fail_after(WAIT):
            assert data(await waiting) == [Reset({"a": "unknown"}, "oldest"), "new"]


async def test_who_begins_later_than_others_leaves_them_live(log: PostgresEventLog) -> None:
    """He has an ID from before theirs, of a topic without events, and has missed some of another one."""
    async with log.subscribe("busy", "silent") as early:
        before = str((await begin(early)).id)
    await log.append("busy", "missed")
    async with log.subscribe("silent") as live:
        await begin(live)
        topic = log._fan_out().topics["silent"]
        async with log.subscribe("busy", "silent", after=before) as late:
            assert data(await take(late, 1)) == ["missed"]
            assert log._fan_out().topics["silent"] is topic
            await log.append("silent", "x")
            assert data(await take(late, 1)) == data(await take(live, 1)) == ["x"]


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_nothing_is_missing_after_an_outage(
    own_postgres: PostgresServer, own_log: PostgresEventLog, kill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Subscriptions wait, appends fail with a typed error, and the log says it once; then all goes on."""
    log = own_log
    subscription = log.subscribe("a", "b")
    await begin(subscription)
    await log.append("a", "before")
    assert data(await take(subscription, 1)) == ["before"]
    await asyncio.to_thread(own_postgres.kill if kill else own_postgres.stop)
    with pytest.raises(SourceUnavailableError):
        await log.append("a", "while it is away")
    late = asyncio.ensure_future(take(log.subscribe("a", start="oldest"), 1))
    await until(lambda: any("waiting for PostgreSQL" in record.message for record in caplog.records))
    assert not late.done()
    await asyncio.to_thread(own_postgres.start_again)
    await append_until_stored(log, "a", "after")
    assert data(await take(subscription, 1)) == ["after"]
    assert data(await late) == ["before"]
    await log.append("b", "live")
    assert data(await take(subscription, 1)) == ["live"]
    await eventually(lambda: log.statistics().reconnects == 1)  # noticed beside what delivers events
    said = [record.message for record in caplog.records if record.name == "litestar_safe_sse"]
    assert len(said) == 2, said
    await subscription.aclose()


async def test_what_others_appended_during_a_pause_is_not_missed(
    log: PostgresEventLog, client: Any, make_log: MakePostgresLog, postgres_url: str
) -> None:
    """A reader whose connections break while others append finds all of it."""
    writer = make_log(postgres_url)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        for number in range(200):
            if number % 20 == 0:
                await client.execute(CUT)
            await append_until_stored(writer, "a", f"{number}")
        assert data(await take(subscription, 200)) == [f"{number}" for number in range(200)]


async def test_a_hanging_server_makes_append_fail(own_postgres: PostgresServer, own_log: PostgresEventLog) -> None:
    """After a bounded time; when it is back, subscribers get what was stored, once."""
    log = own_log
    log._connector.reply_timeout = 0.5
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "before")
        await take(subscription, 1)
        own_postgres.pause()
        with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
            await log.append("a", "maybe", idempotency_key="maybe")
        own_postgres.resume()
        log._connector.reply_timeout = WAIT
        await append_until_stored(log, "a", "maybe")
        await log.append("a", "next")
        assert data(await take(subscription, 2)) == ["maybe", "next"]


async def test_a_transaction_that_stays_open_makes_append_fail(log: PostgresEventLog, client: Any) -> None:
    """It is known that it is not stored: PostgreSQL gives up before we do."""
    log._connector.reply_timeout = 3.0
    await log.append("b", "connects")  # which would take part of that time
    async with client.transaction():
        await log.append("a", "open", connection=client)
        with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError):
            await log.append("a", "waits")
    log._connector.reply_timeout = WAIT
    await log.append("a", "after")
    async with log.subscribe("a", start="oldest") as subscription:
        assert data(await take(subscription, 2)) == ["open", "after"]


async def storm(
    server: PostgresServer, log: PostgresEventLog, make_log: MakePostgresLog, events: int, kills: int
) -> None:
    """Kills the server again and again, while some append, some are subscribed, and some come back all the time."""
    topics = [f"t{number}" for number in range(4)]
    writers = [make_log(server.url) for _ in range(2)]
    appended = 0

    async def write(writer: PostgresEventLog, own: list[str]) -> None:
        nonlocal appended
        for number in range(events):
            for topic in own:
                await append_until_stored(writer, topic, f"{topic} {number}")
                appended += 1

    async def read(seed: int, reader: PostgresEventLog) -> None:
        chance = random.Random(seed)
        seen = dict.fromkeys(topics, 0)
        last: str | None = None
        while sum(seen.values()) < events * len(topics):
            async with reader.subscribe(*topics, after=last, start="oldest") as subscription:
                for _ in range(chance.choice([1, 20, 10_000])):
                    message = await subscription.__anext__()
                    last = str(message.id)
                    if message.event == "subscribed":
                        continue
                    assert message.event is None, message
                    topic, _, number = message.data.partition(" ")
                    assert int(number) == seen[topic]
                    seen[topic] += 1
                    if sum(seen.values()) == events * len(topics):
                        break

    async def kill() -> None:
        for number in range(1, kills + 1):
            await eventually(lambda: appended >= number * events * len(topics) // (kills + 1))  # noqa: B023
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start_again)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        for number, writer in enumerate(writers):
            tasks.start_soon(write, writer, topics[number::2])
        for seed in range(20):
            tasks.start_soon(read, seed, [log, *writers][seed % 3])


@heavy
async def test_a_storm_of_kills_loses_and_doubles_nothing(
    own_postgres: PostgresServer, own_log: PostgresEventLog, make_log: MakePostgresLog
) -> None:
    """Each event comes once, in order, and without a reset."""
    with anyio.fail_after(WAIT):
        await storm(own_postgres, own_log, make_log, events=60, kills=2)


@heavy
@pytest.mark.long
async def test_a_long_storm_of_kills_loses_and_doubles_nothing(
    own_postgres: PostgresServer, own_log: PostgresEventLog, make_log: MakePostgresLog
) -> None:
    """As a short one does."""
    with anyio.fail_after(10 * WAIT):
        await storm(own_postgres, own_log, make_log, events=1500, kills=12)


# PostgreSQL loses data


async def test_emptied_tables_are_told_to_live_subscribers(log: PostgresEventLog, client: Any) -> None:
    """With the first event of the new history; then they get it whole."""
    async with log.subscribe("a") as subscription, log.subscribe("a", on_reset="latest") as latest:
        await begin(subscription)
        await begin(latest)
        appended = await log.append("a", "old")
        await take(subscription, 1)
        await take(latest, 1)
        await client.execute("TRUNCATE sse_log_topics, sse_log_events")
        await log.append("a", "new")
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new"]
        assert data(await take(latest, 1)) == [Reset({"a": "unknown"}, "latest")]
        await log.append("a", "next")
        assert data(await take(subscription, 1)) == data(await take(latest, 1)) == ["next"]
    async with log.subscribe("a", after=appended, on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new"]


@pytest.mark.parametrize("more", [2, 5, 10])
async def test_a_lost_tail_is_no_silent_gap(log: PostgresEventLog, client: Any, more: int) -> None:
    """What a fail-over loses: the last 5 events are gone, others take their numbers, and who had seen them is told."""
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        appended = [await log.append("a", f"{number}") for number in range(20)]
        await take(subscription, 20)
        await client.execute("""
            DELETE FROM sse_log_events WHERE seq > 15;
            UPDATE sse_log_topics SET (seq, nonce) = (SELECT seq, nonce FROM sse_log_events WHERE seq = 15);
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname IS NOT NULL
        """)
        for number in range(more):
            await append_until_stored(log, "a", f"new{number}")
        reset, *rest = await take(subscription, 1 + 15 + more)
    assert reset.data == Reset({"a": "unknown"}, "oldest")
    kept = [f"{number}" for number in range(15)] + [f"new{number}" for number in range(more)]
    assert data(rest) == kept
    async with log.subscribe("a", after=appended[-1], on_reset="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "0"]
    async with log.subscribe("a", after=appended[10]) as subscription:
        assert data(await take(subscription, 4 + more)) == kept[11:]


async def test_a_reader_that_is_left_behind_by_trimming_says_so(
    make_log: MakePostgresLog, postgres_url: str, client: Any
) -> None:
    """Subscribers of a reader that comes too late get a reset, and then what is left."""
    log = make_log(postgres_url, max_events=10)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        async with client.transaction():  # the reader sees nothing of it until it is done
            for number in range(300):
                await log.append("a", f"{number}", connection=client)
        reset, *rest = await take(subscription, 11)
    assert reset.data == Reset({"a": "trimmed"}, "oldest")
    assert data(rest) == [f"{number}" for number in range(290, 300)]


async def test_a_beginning_cannot_be_made_up(log: PostgresEventLog, client: Any) -> None:
    """Whoever knows when a topic began is not given what was appended before he came."""
    async with log.subscribe("other") as subscription:
        own = positions(str((await begin(subscription)).id)) or {}
    await log.append("a", "said before")
    epoch = await client.fetchval("SELECT epoch FROM sse_log_topics")
    for place in (*own.values(), Position(epoch, 0, 0), Position(epoch + 1, 0, next(iter(own.values())).nonce)):
        async with log.subscribe("a", after=cursor([record(tag("a"), place)]), on_reset="latest") as subscription:
            assert data(await take(subscription, 1)) == [Reset({"a": "unknown"}, "latest")]


# Expiry


@heavy
async def test_topics_expire_unless_somebody_is_subscribed(
    make_log: MakePostgresLog, postgres_url: str, client: Any
) -> None:
    """A topic in use is kept alive by the reader; another goes, with its events, and who comes back for it is told."""
    log = make_log(postgres_url, expire_after=1.0)
    idle = await log.append("idle", "x", idempotency_key="k")
    await log.append("used", "x")
    async with log.subscribe("used") as subscription, log.subscribe("idle") as left:
        start = await begin(left)
        await left.aclose()
        await begin(subscription)
        await eventually(lambda: _is(client.fetchval("SELECT count(*) FROM sse_log_topics"), 1))
        assert await client.fetchval("SELECT topic FROM sse_log_events") == "used"
        await log.append("used", "still the same history")
        assert data(await take(subscription, 1)) == ["still the same history"]
    for after in (idle, str(start.id)):
        async with log.subscribe("idle", after=after, on_reset="oldest") as subscription:
            assert data(await take(subscription, 1)) == [Reset({"idle": "unknown"}, "oldest")]


@heavy
async def test_a_topic_begins_anew_where_one_has_expired(
    make_log: MakePostgresLog, postgres_url: str, client: Any
) -> None:
    """Also if nobody has removed what was left of it."""
    log = make_log(postgres_url, expire_after=3600.0)
    gone = await log.append("a", "gone")
    await client.execute("UPDATE sse_log_topics SET expires_at = clock_timestamp()")
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "new")
        assert data(await take(subscription, 1)) == ["new"]
    async with log.subscribe("a", after=gone, start="oldest") as subscription:
        assert data(await take(subscription, 2)) == [Reset({"a": "unknown"}, "oldest"), "new"]


@heavy
async def test_to_delete_what_has_expired_resets_nobody(log: PostgresEventLog, client: Any) -> None:
    """What was left of it goes; who has come since is sent the next event."""
    await log.append("a", "gone")
    await client.execute("UPDATE sse_log_topics SET expires_at = clock_timestamp()")
    start = await log.position("a")
    await anyio.sleep(0.01)
    await log.delete("a")
    assert await client.fetchval("SELECT count(*) FROM sse_log_events") == 0
    await log.append("a", "next")
    assert data(await log.read("a", after=start)) == ["next"]


@heavy
async def test_to_subscribe_writes_nothing(log: PostgresEventLog, client: Any) -> None:
    """Names that clients made up fill nothing."""
    for number in range(100):
        async with log.subscribe(f"user {number}") as subscription:
            await begin(subscription)
    assert await client.fetchval("SELECT count(*) FROM sse_log_topics") == 0


# What is refused


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("redis://127.0.0.1", {}),
        ("", {}),
        (7, {}),
        ("postgresql://host:port/x", {}),
        *[
            ("postgresql://127.0.0.1:1/x", {name: value})
            for name, value in (
                ("max_events", 0), ("expire_after", 0.5), ("max_bytes", 0), ("connections", 0),
                ("name", ""), ("name", "a-b"), ("name", "A"), ("name", 'a"'), ("name", "a" * 41),
            )
        ],
    ],
    ids=str,
)  # fmt: skip
async def test_settings_that_won_t_do_are_refused(url: Any, settings: dict[str, Any]) -> None:
    """When the log is made."""
    with pytest.raises(InvalidFieldError):
        PostgresEventLog(url, **settings)


@pytest.mark.parametrize("message", ["a\0b", SSEMessage(comment="a\0b")], ids=["data", "comment"])
async def test_what_postgres_can_t_store_is_refused_whole(log: PostgresEventLog, message: Any) -> None:
    """Null characters, anywhere."""
    for arguments in (("a", message), ("a\0b", "x")):
        with pytest.raises(InvalidFieldError, match="null"):
            await log.append(*arguments)
    with pytest.raises(InvalidFieldError, match="null"):
        await log.append("a", "x", idempotency_key="\0")


async def test_missing_tables_are_a_typed_error(postgres_url: str, make_log: MakePostgresLog) -> None:
    """With the remedy, which works, for many at once too."""
    log = make_log(postgres_url, name="other")
    with pytest.raises(SourceRefusedError, match="create_tables"):
        await log.append("a", "x")
    with pytest.raises(SourceRefusedError, match="create_tables"):
        await take(log.subscribe("a"), 1)
    await asyncio.gather(*(log.create_tables() for _ in range(5)))
    await log.append("a", "x")
    async with log.subscribe("a", start="oldest") as subscription:
        assert data(await take(subscription, 1)) == ["x"]


async def test_a_server_that_does_not_let_us_in_is_a_typed_error(
    shared_postgres: PostgresServer, make_log: MakePostgresLog
) -> None:
    """Never a hang: a database that is not there, or a user; and nobody at the address."""
    for url, kind in (
        (shared_postgres.url.replace("/postgres", "/missing"), SourceRefusedError),
        (shared_postgres.url.replace("sse@", "nobody@"), SourceRefusedError),
        ("postgresql://127.0.0.1:1/x", SourceUnavailableError),
    ):
        log = make_log(url)
        with anyio.fail_after(WAIT):
            with pytest.raises(kind):
                await log.append("a", "x")
            with pytest.raises(kind):
                await log.create_tables()
            if kind is SourceRefusedError:
                with pytest.raises(kind):
                    await take(log.subscribe("a"), 1)


@heavy
async def test_the_permissions_that_are_named_are_enough(
    postgres_url: str, client: Any, make_log: MakePostgresLog
) -> None:
    """To read needs no permission to write."""
    await client.execute("""
        DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; DROP ROLE IF EXISTS writer; CREATE ROLE writer LOGIN;
        GRANT USAGE ON SCHEMA public TO reader, writer;
        GRANT SELECT ON sse_log_topics, sse_log_events, sse_log_secret TO reader;
        GRANT SELECT, INSERT, UPDATE, DELETE ON sse_log_topics, sse_log_events, sse_log_keys TO writer
    """)
    try:
        reader = make_log(postgres_url.replace("sse@", "reader@"))
        writer = make_log(postgres_url.replace("sse@", "writer@"))
        async with reader.subscribe("a") as subscription:
            await begin(subscription)
            await writer.append("a", "x", idempotency_key="k")
            assert data(await take(subscription, 1)) == ["x"]
            with pytest.raises(SourceRefusedError, match="permission"):
                await reader.append("a", "x")
    finally:
        await client.execute("DROP OWNED BY reader, writer; DROP ROLE reader, writer")


async def test_a_function_may_open_connections(postgres_url: str, make_log: MakePostgresLog) -> None:
    """Of asyncpg's, with whatever options."""

    async def connect() -> Any:
        return await asyncpg.connect(postgres_url, statement_cache_size=0)

    log = make_log(connect)
    async with log.subscribe("a") as subscription:
        await begin(subscription)
        await log.append("a", "x")
        assert data(await take(subscription, 1)) == ["x"]


@pytest.mark.parametrize(
    "error",
    [asyncio.TimeoutError(), TimeoutError(), ConnectionRefusedError(), asyncpg.InterfaceError("no")],
    ids=lambda error: type(error).__name__,
)
async def test_a_function_that_can_t_connect_is_an_outage(make_log: MakePostgresLog, error: Exception) -> None:
    """Whatever it says, of what asyncpg and asyncio say."""

    async def connect() -> Any:
        raise error

    log = make_log(connect)
    for call in (log.append("a", "x"), log.position("a"), log.create_tables()):
        with pytest.raises(SourceUnavailableError):
            await call


# Many


async def connections(client: Any) -> int:
    """What others hold."""
    return int(await client.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL")) - 1


@heavy
async def test_two_thousand_subscribers_share_the_connections(log: PostgresEventLog, client: Any) -> None:
    """Whatever their topics; every one gets its events."""
    many = 2000
    subscriptions = [log.subscribe("all", f"topic{number % 500}") for number in range(many)]
    async with anyio.create_task_group() as tasks:
        for subscription in subscriptions:
            tasks.start_soon(begin, subscription)
    assert (log.statistics().subscribers, log.statistics().topics) == (many, 501)
    await log.append("all", "x")
    await log.append("topic7", "y")
    for number, subscription in enumerate(subscriptions):
        got = await take(subscription, 2 if number % 500 == 7 else 1)
        assert sorted(data(got)) == ["x", "y"][: len(got)]
    assert await connections(client) <= 1 + 2 + 4
    for subscription in subscriptions:
        await subscription.aclose()
    assert log.statistics().subscribers == 0


@heavy
async def test_nothing_is_left_of_two_thousand_subscribers(log: PostgresEventLog, client: Any) -> None:
    """Cancelled at any time, closed, or let go: tasks, connections and descriptors are as before."""
    resume = await log.append("a", "x")
    chance = random.Random(1)

    async def visit(number: int) -> None:
        topics = chance.sample(["a", "b", "c", f"own{number % 50}"], 2)
        subscription = log.subscribe(*topics, after=chance.choice([None, resume, "bogus"]))
        with anyio.move_on_after(chance.choice([0, 0.001, 0.01, 0.05])):
            for _ in range(3):
                await subscription.__anext__()
        if chance.random() < 0.5:
            await subscription.aclose()

    before = len(asyncio.all_tasks())
    with anyio.fail_after(WAIT):
        for start in range(0, 2000, 250):
            async with anyio.create_task_group() as tasks:
                for number in range(start, start + 250):
                    tasks.start_soon(visit, number)
                tasks.start_soon(log.append, "a", "y")
    gc.collect()
    assert (log.statistics().subscribers, log.statistics().topics) == (0, 0)
    await eventually(lambda: len(asyncio.all_tasks()) == before)
    assert await connections(client) <= 2 + 4


async def test_closing_ends_subscriptions(log: PostgresEventLog, client: Any) -> None:
    """And every connection, task and descriptor."""
    before = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    subscription = log.subscribe("a")
    await begin(subscription)
    await log.append("b", "x")
    waiting = asyncio.ensure_future(take(subscription, 1))
    await until(lambda: subscription._busy)
    await log.aclose()
    with pytest.raises(SourceUnavailableError):
        await waiting
    await eventually(lambda: (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))) == before)
    await eventually(lambda: _is(connections(client), 0))
    await log.append("a", "it can be used again")


async def test_closing_while_the_server_hangs_takes_its_time_and_ends(
    own_postgres: PostgresServer, own_log: PostgresEventLog
) -> None:
    """What waits for an answer is given an error."""
    subscription = own_log.subscribe("a")
    await begin(subscription)
    await own_log.append("a", "x")
    own_postgres.pause()
    waiting = asyncio.ensure_future(own_log.append("a", "y"))
    await asyncio.sleep(0)
    with anyio.fail_after(WAIT):
        await own_log.aclose()
        with pytest.raises(SourceUnavailableError):
            await waiting
    own_postgres.resume()


async def test_closing_gives_up_connections_that_are_being_opened(
    own_postgres: PostgresServer, own_log: PostgresEventLog
) -> None:
    """To a server that hangs: when it goes on nothing is stored, and no connection is left."""
    own_postgres.pause()
    appends = [asyncio.ensure_future(own_log.append(f"{number}", "late")) for number in range(20)]
    await eventually(lambda: _is(_tasks("SSE command to PostgreSQL"), 20))
    with anyio.fail_after(WAIT):
        await own_log.aclose()
        own_postgres.resume()
        for append in appends:
            with pytest.raises(SourceUnavailableError):
                await append
    assert own_log._states == {}
    client = await asyncpg.connect(own_postgres.url)
    await eventually(lambda: _is(connections(client), 0))
    assert await client.fetchval("SELECT count(*) FROM sse_log_events") == 0
    await client.close()


async def _tasks(name: str) -> int:
    return sum(task.get_name() == name for task in asyncio.all_tasks())


async def test_an_append_at_the_closing_is_answered(log: PostgresEventLog) -> None:
    """It is stored, and nothing is opened anew for its sake."""
    append = asyncio.ensure_future(log.append("a", "x"))
    await asyncio.sleep(0)
    await log.aclose()
    last = await append
    assert log._states == {}
    assert [message.id for message in await log.read("a")] == [last]


async def test_one_event_loop_after_another(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A log may be made before there is a loop, and outlive one, whatever is open at its end."""
    log = PostgresEventLog(postgres_url)

    async def leave_open() -> None:
        waiting = asyncio.ensure_future(take(log.subscribe("a"), 1))
        async with log.subscribe("b") as subscription:
            await begin(subscription)
            await log.aclose()
        with pytest.raises(SourceUnavailableError):
            await waiting

    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await asyncio.to_thread(asyncio.run, leave_open())
            gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_without_an_asyncio_loop_it_says_so(anyio_backend: str) -> None:
    """A typed error, and no hang; there is nothing to close."""
    log = PostgresEventLog("postgresql://127.0.0.1:1/x")
    for call in (log.append("a", "x"), log.create_tables()):
        with pytest.raises(SourceUnavailableError, match="asyncio"):
            await call
    await log.aclose()


def test_tables_are_what_the_docs_say() -> None:
    """A migration is given the same commands."""
    sql = PostgresEventLog("postgresql://127.0.0.1:1/x", name="news", max_events=7, expire_after=2).create_tables_sql
    assert "CREATE TABLE IF NOT EXISTS news_events" in sql
    assert "DEFAULT 7" in sql
    assert "DEFAULT 2000" in sql
