"""Commands of many callers on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources import RedisEventLog, RedisGroupQueue, RedisPlugin, RedisPubSub, RedisQueue
from litestar_safe_sse.sources.redis import _link
from litestar_safe_sse.sources.redis import connection as redis_connection
from litestar_safe_sse.sources.redis._calls import Call
from litestar_safe_sse.sources.redis._link import RedisLink
from litestar_safe_sse.sources.redis._scripts import Script
from litestar_safe_sse.sources.redis.connection import RedisConnection
from tests.bounds import SHORT, WAIT
from tests.loops import ASYNCIO, UVLOOP
from tests.ports import free_port
from tests.redis_server import OF_SYSTEM, RedisServer, running_redis
from tests.servers.kinds import certificate_files
from tests.sources.clients import eventually, has_at_most
from tests.sources.proxies import running_proxy
from tests.unix_sockets import unix_socket_path

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[ASYNCIO, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def link(plugin: RedisPlugin) -> AsyncIterator[RedisLink]:
    """A link that is closed whatever becomes of the test."""
    link = plugin.link()
    yield link
    link.abort()


async def test_commands_share_a_connection_and_keep_their_order(plugin: RedisPlugin, redis: Redis) -> None:
    """Whatever becomes of those who sent them."""
    sent = [asyncio.ensure_future(plugin.execute("RPUSH", "list", number)) for number in range(1000)]
    await asyncio.sleep(0)
    for task in sent[::3]:
        task.cancel()
    with anyio.fail_after(WAIT):
        await asyncio.wait(sent)
        assert await plugin.execute("PING") == b"PONG"
    assert [int(item) for item in await redis.lrange("list", 0, -1)] == list(range(1000))
    assert [task.result() for task in sent if not task.cancelled()] == [n + 1 for n in range(1000) if n % 3]
    await eventually(lambda: has_at_most(redis, 1))


async def test_a_connection_is_used_again(plugin: RedisPlugin) -> None:
    """By whoever comes later: as long as redis-py says that Redis has not closed it."""
    first = await plugin.execute("CLIENT", "ID")
    assert await plugin.execute("CLIENT", "ID") == first


async def test_a_command_that_comes_alone_is_sent_at_once(plugin: RedisPlugin, redis_url: str) -> None:
    """Redis is at work before its caller waits."""
    await plugin.execute("SET", "n", 0)
    reply = plugin.submit("INCR", "n")
    deadline = time.monotonic() + WAIT
    with BlockingRedis.from_url(redis_url) as other:
        while other.get("n") != b"1":  # the loop has no turn
            assert time.monotonic() < deadline
    assert await reply == 1


async def test_what_was_asked_for_is_carried_out_before_it_is_closed(link: RedisLink, redis: Redis) -> None:
    """Though nobody waits for it any more."""
    for number in range(600):
        link.submit("RPUSH", "list", number).cancel()
    with anyio.fail_after(WAIT):
        await link.aclose()
    assert [int(item) for item in await redis.lrange("list", 0, -1)] == list(range(600))


@pytest.mark.parametrize("is_sent", [True, False], ids=["sent with it", "not sent yet"])
async def test_what_is_behind_a_command_that_waits_fails_alone(
    is_sent: bool, plugin: RedisPlugin, link: RedisLink, redis: Redis
) -> None:
    """When its time is up; the one that waits goes on, and is given its own reply."""
    with anyio.fail_after(WAIT):
        await link.submit("PING")
        if is_sent:
            link.submit("PING")  # what is asked for until its reply is there is sent together
        waiting = link.submit("BLPOP", "list", 0, wait=WAIT)
        plugin.reply_timeout = SHORT
        with pytest.raises(SourceUnavailableError, match="does not answer"):
            await link.submit("ECHO", "late")
        plugin.reply_timeout = WAIT
        await redis.rpush("list", "x")
        assert await waiting == [b"list", b"x"]
        assert await link.submit("ECHO", "next") == b"next"


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n"], ids=["no reply", "not asked for"])
async def test_what_redis_would_not_say_ends_the_connection(data: bytes, redis_server: RedisServer) -> None:
    """No command is ever given what is not its reply."""
    async with running_proxy(lambda: redis_server.port) as proxy:
        plugin = RedisPlugin(proxy.url)
        client = await plugin.execute("CLIENT", "ID")
        proxy.interject(data)
        await eventually(lambda: plugin.loop_state().commands._wire is None)
        assert await plugin.execute("CLIENT", "ID") != client
        await plugin.aclose()


async def test_a_connection_that_can_not_be_used_is_a_typed_error(plugin: RedisPlugin) -> None:
    """Such as one of a kind that has no stream."""
    connection = await plugin.connect()
    stream, connection._connection._writer = connection._connection._writer, object()
    with pytest.raises(SourceRefusedError, match="no stream"):
        connection.hand_over(lambda reply: None, lambda error: None)
    connection._connection._writer = stream
    stream.close()
    with pytest.raises(SourceUnavailableError, match="closed the connection"):
        connection.hand_over(lambda reply: None, lambda error: None)
    await connection.aclose()


@pytest.mark.parametrize("by", ["TLS", "a Unix socket"])
async def test_it_is_reached_in_other_ways_than_tcp(by: str, tmp_path: Path) -> None:
    """Small things and large ones pass; a server that goes is noticed."""
    files, port = certificate_files(), free_port()
    tls = {"port": port, "cert-file": files.certificate, "key-file": files.key, "ca-cert-file": files.authority}
    with unix_socket_path() as path:
        if by == "TLS":
            url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={files.authority}"
            arguments = [part for name, value in tls.items() for part in (f"--tls-{name}", f"{value}")]
            arguments += "--tls-auth-clients", "no"
        else:
            url, arguments = f"unix://{path}", ["--unixsocket", path]
        with running_redis(tmp_path, *arguments, program=OF_SYSTEM) as server, anyio.fail_after(WAIT):
            plugin = RedisPlugin(url)
            assert await plugin.execute("SET", "large", "x" * 3_000_000) == b"OK"
            replies = await asyncio.gather(*(plugin.execute("GET", "large") for _ in range(3)), plugin.execute("PING"))
            assert [*map(len, replies)] == [3_000_000] * 3 + [4]
            server.kill()
            with pytest.raises(SourceUnavailableError):
                await plugin.execute("PING")
            await plugin.aclose()


async def test_a_refused_command_does_not_hurt_the_others(plugin: RedisPlugin, redis: Redis) -> None:
    """Each has its own reply, and a transaction names what failed in it."""
    await redis.set("text", "x")
    results = await asyncio.gather(
        *(plugin.execute(*command) for command in (("GET", "text"), ("LPUSH", "text", "y"), ("NO", "SUCH"), ("PING",))),
        return_exceptions=True,
    )
    assert results[0] == b"x"
    assert isinstance(results[1], SourceRefusedError)
    assert isinstance(results[2], SourceRefusedError)
    assert results[3] == b"PONG"
    with pytest.raises(SourceRefusedError, match="WRONGTYPE"):
        await plugin.transact(("SET", "a", "1"), ("LPUSH", "text", "y"))
    with pytest.raises(SourceRefusedError, match="unknown command"):
        await plugin.transact(("SET", "b", "1"), ("NO", "SUCH"))
    assert await redis.get("b") is None
    assert await plugin.transact(("SET", "c", "1"), ("INCR", "c")) == [b"OK", 2]


async def test_a_command_is_sent_at_most_once(own_redis: RedisServer) -> None:
    """One whose reply is lost fails; it is not tried again behind its sender's back."""
    plugin = RedisPlugin(own_redis.url)
    await plugin.execute("SET", "n", 0)
    for _ in range(5):
        sent = [plugin.submit("INCR", "n") for _ in range(50)]
        await asyncio.sleep(0)
        own_redis.restart(kill=True)
        with anyio.fail_after(WAIT):
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
        done = sum(isinstance(outcome, int) for outcome in outcomes)
        assert done <= int(await plugin.execute("GET", "n")) <= 50
        await plugin.execute("SET", "n", 0)
    await plugin.aclose()


async def test_a_redis_that_hangs_is_given_up(own_redis: RedisServer) -> None:
    """A reply that doesn't come is a typed error within bounds, and the next command has a new connection."""
    plugin = RedisPlugin(own_redis.url)
    plugin.reply_timeout = 0.2
    await plugin.execute("PING")
    own_redis.pause()
    with anyio.fail_after(WAIT):
        with pytest.raises(SourceUnavailableError, match="does not answer"):
            await plugin.execute("SET", "a", "1")
        with pytest.raises(SourceUnavailableError):
            await plugin.execute("PING")
        own_redis.resume()
        plugin.reply_timeout = 5.0
        assert await plugin.execute("PING") == b"PONG"
    await plugin.aclose()


async def test_a_redis_that_is_not_there_is_a_typed_error() -> None:
    """It says where, and what to check."""
    plugin = RedisPlugin(f"redis://127.0.0.1:{free_port()}/0")
    with anyio.fail_after(WAIT), pytest.raises(SourceUnavailableError, match=r"127\.0\.0\.1.*check its address"):
        await plugin.execute("PING")
    await plugin.aclose()


async def test_a_waiting_command_can_be_interrupted(plugin: RedisPlugin, link: RedisLink) -> None:
    """It is answered as if its time was up, and its connection goes on."""
    with anyio.fail_after(WAIT):
        for _ in range(5):
            waiting = link.submit("BLPOP", "nothing", 60.0, wait=60.0)
            await plugin.execute("PING")
            while not waiting.done():
                await link.interrupt()
                await asyncio.sleep(0)
            assert await waiting is None
        assert await link.submit("PING") == b"PONG"
        await link.aclose()
        with pytest.raises(SourceUnavailableError, match="closed"):
            await link.submit("PING")


@pytest.mark.parametrize(
    "bad",
    ["push", "add", "publish", "append", "execute", "nothing", "subscribe", "client reply", "transact", "each"],
)
async def test_a_call_that_cannot_be_sent_fails_alone(bad: str, plugin: RedisPlugin, redis: Redis) -> None:
    """Before anything is sent: those who call at the same time do not notice, and no connection is lost."""
    log, queue, group, pubsub = (
        RedisEventLog(plugin),
        RedisQueue(plugin, "jobs"),
        RedisGroupQueue(plugin, "jobs"),
        RedisPubSub(plugin),
    )
    await plugin.execute("PING")
    client = await plugin.execute("CLIENT", "ID")
    text = "\ud83d"  # as json.loads('"\\ud83d"') makes one
    calls: dict[str, Any] = {
        "push": lambda: queue.push("fine", text),
        "add": lambda: group.push("fine", text),
        "publish": lambda: pubsub.publish("a", text),
        "append": lambda: log.append("a", text),
        "execute": lambda: plugin.execute("SET", "key", None),  # type: ignore[arg-type]
        "nothing": plugin.execute,
        "subscribe": lambda: plugin.execute("subscribe", "a", "b"),
        "client reply": lambda: plugin.execute(b"CLIENT", "reply", "off"),
        "transact": lambda: plugin.transact(("SET", "key", "1"), ("MULTI",)),
        "each": lambda: plugin.execute_each(("SET", "key", "1"), ("SELECT", 1)),
    }
    outcomes = await asyncio.gather(
        calls[bad](), log.append("b", "x"), queue.push("ok"), pubsub.publish("b", "x"), return_exceptions=True
    )
    assert isinstance(outcomes[0], InvalidFieldError)
    assert [*outcomes[2:]] == [1, 0]
    assert await redis.lrange(queue.key, 0, -1) == [b"ok"]
    assert await plugin.execute("CLIENT", "ID") == client
    assert await plugin.client.exists("key", group.key) == 0
    assert await plugin.execute_each() == []


async def test_a_call_has_its_time_from_when_it_was_made(own_redis: RedisServer) -> None:
    """Whatever was asked before it: no call waits for the others' time to be over first."""
    plugin = RedisPlugin(own_redis.url)
    plugin.reply_timeout = 1.0
    await plugin.execute("PING")
    own_redis.pause()
    loop = asyncio.get_running_loop()
    began = loop.time()
    calls = [asyncio.ensure_future(plugin.execute("INCR", f"{number}")) for number in range(2000)]
    await asyncio.wait(calls, timeout=WAIT)
    assert all(isinstance(call.exception(), SourceUnavailableError) for call in calls)
    assert 1.0 <= loop.time() - began < 3.0  # eight batches
    own_redis.resume()
    await plugin.aclose()


async def test_a_connection_that_was_forgotten_while_idle_is_made_anew(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands between has dropped it without a word: the first call after a quiet night works."""
    monkeypatch.setattr(_link, "_CHECK_TIMEOUT", 0.2)
    monkeypatch.setattr(redis_connection, "IDLE_LIMIT", 0.1)
    async with running_proxy(lambda: redis_server.port) as proxy:
        plugin = RedisPlugin(proxy.url)
        await plugin.execute("SET", "n", 0)
        await asyncio.sleep(0.15)  # it is idle
        assert await plugin.execute("INCR", "n") == 1
        assert proxy.connections == 1
        proxy.forget()
        await asyncio.sleep(0.15)
        with anyio.fail_after(WAIT):
            assert await plugin.execute("INCR", "n") == 2
        assert proxy.connections == 2
        await plugin.aclose()


async def test_an_idle_connection_is_kept_alive(redis_url: str) -> None:
    """By the system, as no NAT forgets what is used; what the client was told of it holds."""
    plugin = RedisPlugin(redis_url)
    connection = await plugin.connect()
    sock = connection._connection._writer.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    await connection.aclose()
    await plugin.aclose()


@pytest.mark.parametrize("interval", [-1, 1e-6])
async def test_a_connection_that_was_idle_just_now_is_used(interval: float, redis_url: str) -> None:
    """However short the time is after which it is checked: it has shown that it is alive."""
    plugin = RedisPlugin(redis_url, health_check_interval=interval)
    with anyio.fail_after(WAIT):
        for number in (b"1", b"2"):
            assert await plugin.execute("ECHO", number) == number
    await plugin.aclose()


async def test_a_script_that_was_forgotten_runs_in_its_turn(plugin: RedisPlugin, redis: Redis) -> None:
    """Ahead of what was called later, whether that was sent with it or not."""
    script = Script.of("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    await plugin.run(script, 1, "list", 0)
    for first in (1, 11):
        await redis.script_flush()
        if first == 11:
            plugin.submit("PING")  # what is called until it is answered is sent together
        await asyncio.gather(*(plugin.run(script, 1, "list", first + number) for number in range(10)))
    assert [int(item) for item in await redis.lrange("list", 0, -1)] == [*range(21)]


async def test_a_script_that_was_forgotten_has_no_more_time(
    link: RedisLink, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Than any other call: it counts from when it was made."""
    script = Script.of("return 1")
    await link.submit_script(script, 0)
    await redis.script_flush()
    sent_whole: list[float] = []

    def with_whole(call: Call, script: Script) -> Call:
        sent_whole.append(call.deadline)
        return original(call, script)

    original = Call.with_whole
    monkeypatch.setattr(Call, "with_whole", with_whole)
    reply = link.submit_script(script, 0)
    deadline = link._sent[0].deadline
    assert await reply == 1
    assert sent_whole == [deadline]


async def test_what_is_called_before_it_is_renewed_needs_one_connection(link: RedisLink, redis: Redis) -> None:
    """The first one is new enough."""
    before = (await redis.info("stats"))["total_connections_received"]
    link.renew()
    assert await link.submit("PING") == b"PONG"
    assert (await redis.info("stats"))["total_connections_received"] == before + 1


async def test_a_connection_that_is_lost_is_not_interrupted(
    plugin: RedisPlugin, link: RedisLink, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was known by may be another's by now."""
    await link.submit("PING")
    await plugin.execute("CONFIG", "RESETSTAT")
    await redis.client_kill_filter(_id=str(link._client_id))
    await eventually(lambda: link._wire is None)
    monkeypatch.setattr(plugin, "connect", anyio.sleep_forever)
    link.submit("PING").cancel()
    with anyio.fail_after(WAIT):
        await link.interrupt()
    assert "cmdstat_client|unblock" not in await redis.info("commandstats")


async def test_who_opens_the_connection_may_be_cancelled(link: RedisLink) -> None:
    """By who cancels all tasks, before it has begun: its callers are told, and the next one is served."""
    call = link.submit("PING")
    assert link._opening is not None
    link._opening.cancel()
    with anyio.fail_after(WAIT):
        with pytest.raises(SourceUnavailableError, match="CancelledError"):
            await call
        assert await link.submit("PING") == b"PONG"


async def test_a_connection_that_opens_after_the_end_is_closed(
    plugin: RedisPlugin, link: RedisLink, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a library has lost the cancellation."""
    connect, begun = plugin.connect, asyncio.Event()

    async def deaf() -> RedisConnection:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        return await connect()

    monkeypatch.setattr(plugin, "connect", deaf)
    call = link.submit("PING")
    await begun.wait()
    link.abort()
    with pytest.raises(SourceUnavailableError, match="has been closed"):
        await call
    await eventually(lambda: link._opening is None)
    assert link._wire is None
    await eventually(lambda: has_at_most(redis, 0))


async def test_one_client_is_made_though_it_is_closed_while_it_connects() -> None:
    """What waits for a connection that is refused is told so, and tries no other."""
    made: list[Redis] = []

    def make() -> Redis:
        made.append(Redis(port=free_port()))
        return made[-1]

    plugin = RedisPlugin(make)
    call = asyncio.ensure_future(plugin.execute("PING"))
    await asyncio.sleep(0)
    with anyio.fail_after(WAIT):
        await plugin.aclose()
        with pytest.raises(SourceUnavailableError):
            await call
    assert len(made) == 1
    assert plugin._states == {}


async def test_a_connection_does_not_look_its_version_up(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py reads and parses a file for that, which would hold up the loop at each new connection."""
    plugin = RedisPlugin(redis_url)
    looked_up: list[str] = []
    await plugin.execute("PING")
    monkeypatch.setattr(metadata, "version", looked_up.append)
    connection = await plugin.connect()
    await connection.aclose()
    await plugin.aclose()
    assert not looked_up


async def test_a_script_is_sent_once_by_each_connection(own_redis: RedisServer) -> None:
    """Then its digest will do; a server that has forgotten it is sent it again, and the call succeeds."""
    plugin = RedisPlugin(own_redis.url)
    script = Script.of("return tonumber(ARGV[1]) + 1")
    async with Redis.from_url(own_redis.url) as admin:
        for number in range(3):
            assert await plugin.run(script, 0, number) == number + 1
        await admin.script_flush()
        answers = await asyncio.gather(*(plugin.run(script, 0, number) for number in range(3)))
        assert answers == [1, 2, 3]
        calls = await admin.info("commandstats")
    assert calls["cmdstat_eval"]["calls"] == 2
    await plugin.aclose()
