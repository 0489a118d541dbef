"""One client per process and loop, injected and closed; and the connections the sources share."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.di import NamedDependency
from litestar.exceptions import ImproperlyConfiguredException
from litestar.testing import AsyncTestClient
from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.credentials import CredentialProvider

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext, exceptions, sources
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources import Presence, RedisEventLog
from litestar_safe_sse.sources.event_log import Subscribed
from litestar_safe_sse.sources.redis.group_queue import RedisGroupQueue
from litestar_safe_sse.sources.redis.plugin import RedisPlugin
from litestar_safe_sse.sources.redis.pubsub import RedisPubSub
from litestar_safe_sse.sources.redis.queue import RedisQueue
from tests.bounds import NEVER, START, WAIT
from tests.redis_server import RedisServer, running_redis, running_sentinel
from tests.sources.clients import Visit, connections, eventually, has_at_most

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


async def test_a_handler_is_given_the_client(redis_url: str, redis: Redis) -> None:
    """The same one each time, made at first use and closed when the application has shut down."""
    plugin = RedisPlugin(redis_url)
    seen: list[Any] = []

    @get("/")
    async def handler(redis: NamedDependency[Redis]) -> str:
        seen.append(redis)
        await redis.set("a", "b")
        return "done"

    await eventually(lambda: has_at_most(redis, 0))
    app = Litestar([handler], plugins=[plugin, SafeSSEPlugin()])
    async with AsyncTestClient(app) as client:
        assert not seen
        for _ in range(2):
            assert (await client.get("/")).text == "done"
    assert seen[0] is seen[1]
    assert await redis.get("a") == b"b"
    await eventually(lambda: has_at_most(redis, 0))


@pytest.mark.parametrize("plugin_first", [True, False])
async def test_the_client_outlives_the_streams(redis_url: str, redis: Redis, plugin_first: bool) -> None:
    """A cleanup at shutdown can still use it, whatever the order of the plugins."""
    plugin = RedisPlugin(redis_url)

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        stream.push_async_callback(plugin.client.set, "cleaned", "up")

        async def body() -> AsyncIterator[str]:
            yield "here"
            await anyio.sleep_forever()

        return SafeServerSentEvent(body())

    plugins = [plugin, SafeSSEPlugin()]
    app = Litestar([handler], plugins=plugins if plugin_first else plugins[::-1])
    async with app.lifespan():
        visit = Visit(app).start()
        await visit.until_data("here")
    await visit.ended()
    assert await redis.get("cleaned") == b"up"


async def test_a_client_handed_in_is_not_closed(redis: Redis) -> None:
    """It is the application's own."""
    plugin = RedisPlugin(redis)
    assert plugin.client is redis
    assert await plugin.execute("PING") == b"PONG"
    await plugin.aclose()
    assert await redis.ping()


async def test_a_client_can_be_made_by_a_function(redis_url: str) -> None:
    """Once for each event loop; with whatever pool and decoding."""
    made: list[Redis] = []

    def make() -> Redis:
        pool = BlockingConnectionPool.from_url(redis_url, max_connections=1, decode_responses=True)
        made.append(Redis.from_pool(pool) if hasattr(Redis, "from_pool") else Redis(connection_pool=pool))
        return made[-1]

    plugin = RedisPlugin(make)
    queue = RedisQueue(plugin, "jobs")
    await queue.push("a")
    with anyio.fail_after(WAIT):
        assert await anext(queue.items(None)) == b"a"
    assert made == [plugin.client]
    await plugin.aclose()
    await made[0].connection_pool.disconnect()


async def test_a_short_socket_timeout_and_retries_do_not_reach_the_sources(redis_url: str) -> None:
    """A blocked read is not killed, and nothing is sent twice, whatever the client was told for its own commands."""
    plugin = RedisPlugin(redis_url, socket_timeout=0.05)
    queue = RedisQueue(plugin, "jobs", slice=0.4)
    wait = asyncio.ensure_future(anext(queue.items(None)))
    await asyncio.sleep(0.3)  # longer than the timeout, and shorter than the slice
    await queue.push("a")
    with anyio.fail_after(WAIT):
        assert await wait == b"a"
    assert await plugin.execute("INFO", "commandstats")
    await plugin.aclose()


async def test_what_comes_after_its_end_is_served(redis_url: str, redis: Redis) -> None:
    """An item that is given back late is not lost; another end closes what that has opened."""
    await eventually(lambda: has_at_most(redis, 0))
    plugin = RedisPlugin(redis_url)
    queue, log = RedisQueue(plugin, "jobs"), RedisEventLog(plugin)
    await queue.push("a", "b")
    dispenser = queue._popper()
    with anyio.fail_after(WAIT):
        item = await dispenser.take()
    await plugin.aclose()
    await eventually(lambda: has_at_most(redis, 0))
    await dispenser.give_back([item])
    assert await queue.length() == 2
    await log.append("t", "late")
    assert [message.data for message in await log.read("t")] == ["late"]
    assert await connections(redis) > 0
    await plugin.aclose()
    await eventually(lambda: has_at_most(redis, 0))
    assert not plugin._states


async def test_what_comes_while_it_ends_is_served(own_redis: RedisServer) -> None:
    """An item that is given back while a slow Redis is waited for is not lost either."""
    plugin = RedisPlugin(own_redis.url)
    queue = RedisQueue(plugin, "jobs")
    await queue.push("a")
    dispenser = queue._popper()
    with anyio.fail_after(WAIT):
        item = await dispenser.take()
    commands = plugin.loop_state().commands
    own_redis.pause()
    plugin.submit("PING")
    closing = asyncio.create_task(plugin.aclose())
    await eventually(lambda: commands._closed)
    giving = dispenser.give_back([item])
    own_redis.resume()
    with anyio.fail_after(WAIT):
        await closing
        await giving
    assert await queue.length() == 1
    await plugin.aclose()
    assert not plugin._states


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_are_alike(redis_url: str, protocol: int) -> None:
    """What the client speaks is its own affair."""
    plugin = RedisPlugin(redis_url, protocol=protocol, decode_responses=True)
    group = RedisGroupQueue(plugin, "jobs")
    await group.push("a")
    assert await plugin.execute("GET", "nothing") is None
    async with RedisPubSub(plugin).subscribe("a") as subscription:
        await RedisPubSub(plugin).publish("a", "b")
        with anyio.fail_after(WAIT):
            assert (await anext(subscription)).data == "b"
    await plugin.aclose()


@pytest.mark.parametrize("away", ["paused", "killed"])
async def test_closing_does_not_wait_for_a_redis_that_hangs(away: str, own_redis: RedisServer) -> None:
    """The application's shutdown is bounded, and what waited is told."""
    before = asyncio.all_tasks()
    plugin = RedisPlugin(own_redis.url)
    plugin.reply_timeout = NEVER
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(anext(RedisQueue(plugin, "jobs").items(None)))]
    waits.append(asyncio.ensure_future(RedisPubSub(plugin).subscribe("a").__anext__()))
    await eventually(lambda: len(plugin.loop_state().shared) == 2)
    await plugin.execute("PING")
    (own_redis.pause if away == "paused" else own_redis.kill)()
    with anyio.fail_after(WAIT):
        await plugin.aclose()
        await asyncio.wait(waits)
    assert isinstance(waits[0].exception(), SourceUnavailableError)
    assert isinstance(waits[1].exception(), StopAsyncIteration)
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_on_a_cluster_all_keys_are_in_one_slot(tmp_path: Path) -> None:
    """And the sources work on it as they do on a single server."""
    with running_redis(tmp_path, "--cluster-enabled", "yes") as server:
        async with Redis.from_url(server.url) as admin:
            await admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            await eventually(lambda: _cluster_is_up(admin))
        cluster = RedisCluster.from_url(server.url)
        try:
            plugin = RedisPlugin(cluster)
            assert plugin.key("queue", "a").startswith("{sse}:")
            assert cluster.keyslot(plugin.key("queue", "a")) == cluster.keyslot(plugin.key("log", "b"))
            for kind in (RedisQueue, RedisGroupQueue):
                await kind(plugin, "jobs").push("a")
            with anyio.fail_after(WAIT):
                assert await anext(RedisQueue(plugin, "jobs").items(None)) == b"a"
                async with RedisPubSub(plugin).subscribe("a") as subscription:
                    await RedisPubSub(plugin).publish("a", "b")
                    assert (await anext(subscription)).data == "b"
                log = RedisEventLog(plugin, presence=str)
                async with log.subscribe("a", "b", member="ann"), log.subscribe("b", member="bob"):
                    await eventually(lambda: _knows(cluster, "{sse}:log.present:b", 2))
                    assert await log.presence("b") == Presence(2, {"ann": 1, "bob": 1})
            await plugin.aclose()
        finally:
            await cluster.aclose()


async def _cluster_is_up(admin: Redis) -> bool:
    return "cluster_state:ok" in str(await admin.execute_command("CLUSTER", "INFO"))


async def _knows(cluster: RedisCluster, key: str, many: int) -> bool:
    return bool(await cluster.zcard(key) == many)


async def test_a_sentinel_tells_where_redis_is(tmp_path: Path, redis_server: RedisServer) -> None:
    """The client is made by a function of the application's."""
    with running_sentinel(tmp_path, redis_server) as port:
        sentinel = Sentinel([("127.0.0.1", port)])
        await eventually(lambda: _master_is_known(sentinel))
        plugin = RedisPlugin(lambda: sentinel.master_for("mymaster"))
        assert b"role:master" in await plugin.execute("INFO", "replication")
        await plugin.aclose()
        for client in sentinel.sentinels:
            await client.aclose()


async def _master_is_known(sentinel: Sentinel) -> bool:
    try:
        return bool(await sentinel.discover_master("mymaster"))
    except Exception:
        return False


def test_arguments_are_checked() -> None:
    """What won't do is refused when a plugin is made."""
    for redis, options in (
        ("http://localhost", {}),
        (17, {}),
        ("redis://localhost", {"prefix": ""}),
        ("redis://localhost", {"prefix": "a}b"}),
        ("redis://localhost", {"dependency_key": 5}),
        ("redis://localhost", {"dependency_key": ""}),
        (Redis(), {"decode_responses": True}),
        (SyncRedis(), {}),
        (asyncio.sleep, {}),
    ):
        with pytest.raises(InvalidFieldError):
            RedisPlugin(redis, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "unix:///tmp/redis.sock"])
def test_an_option_that_redis_py_does_not_have_is_named(url: str) -> None:
    """When the plugin is made, and not when somebody waits for a connection."""
    with pytest.raises(InvalidFieldError, match="'pasword'"):
        RedisPlugin(url, pasword="secret")
    RedisPlugin(url, password="secret", socket_timeout=1)


class NoProvider(CredentialProvider):
    """Hands out what redis-py can't use."""

    def get_credentials(self) -> Any:
        return 5


MISTAKES: dict[str, tuple[Callable[[str], Any], str]] = {
    "a client that is not for asyncio": (SyncRedis.from_url, "redis must be .* not <class 'redis.client.Redis'>"),
    "no client": (lambda url: None, "redis must be .* not <class 'NoneType'>"),
    "a misspelled option": (lambda url: Redis(connection_pool=ConnectionPool(pasword="x")), "'pasword'"),
    "no credentials": (lambda url: Redis.from_url(url, credential_provider=NoProvider()), "TypeError"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_that_no_waiting_mends_ends_streams(mistake: str, redis_url: str) -> None:
    """Each is told what it is; nothing fails unseen, and the plugin can be closed."""
    make, told = MISTAKES[mistake]
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    plugin = RedisPlugin(lambda: make(redis_url))
    log = RedisEventLog(plugin)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: log.append("a", "x"),
        lambda: log.position("a"),
        lambda: anext(log.subscribe("a")),
        lambda: anext(RedisQueue(plugin, "jobs").items(None)),
        lambda: RedisGroupQueue(plugin, "jobs").push("x"),
        lambda: anext(RedisPubSub(plugin).subscribe("a")),
    ]
    with anyio.fail_after(WAIT):
        for call in calls:
            with pytest.raises(SourceRefusedError, match=told):
                await call()
        await plugin.aclose()
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


async def test_credentials_that_are_not_to_be_had_are_waited_for(redis_url: str) -> None:
    """Whatever error says so: who hands them out may be away too."""
    asked: list[bool] = []

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            asked.append(True)
            if len(asked) < 3:
                raise LookupError("the vault is away")
            return "default", "any"

    plugin = RedisPlugin(redis_url, credential_provider=Provider())
    log = RedisEventLog(plugin)
    with anyio.fail_after(WAIT):
        with pytest.raises(SourceUnavailableError, match="LookupError: the vault is away"):
            await log.append("a", "x")
        async with log.subscribe("a") as events:
            assert isinstance((await anext(events)).data, Subscribed)
    await plugin.aclose()
    assert len(asked) > 2


def test_a_plugin_stays_what_it_is() -> None:
    """Sources of one plugin share what it holds."""
    plugin = RedisPlugin()
    assert RedisPlugin.of(plugin) is plugin
    assert RedisPlugin.of("redis://localhost") is not plugin


def test_a_dependency_of_that_name_is_left_alone() -> None:
    """The user's own is not overwritten."""
    with pytest.raises(ImproperlyConfiguredException, match="dependency_key"):
        Litestar([], dependencies={"redis": lambda: 1}, plugins=[RedisPlugin()])


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_trio_is_told_that_it_has_no_redis(anyio_backend: Any) -> None:
    """redis-py runs on asyncio only."""
    with pytest.raises(SourceUnavailableError, match="asyncio"):
        _ = RedisPlugin().client
    with pytest.raises(SourceUnavailableError, match="asyncio"):
        await anext(RedisQueue(RedisPlugin(), "jobs").items(None))
    await RedisPlugin().aclose()  # nothing has been opened


@pytest.mark.parametrize("name", ["MissingExtraError", "SourceRefusedError", "SourceUnavailableError"])
def test_errors_are_found_where_the_sources_are(name: str) -> None:
    """And are the same as those of the package."""
    assert name in sources.__all__
    assert getattr(sources, name) is getattr(exceptions, name)


def test_without_redis_py_a_source_says_what_to_install() -> None:
    """To import works; to make a source names the extra."""
    script = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "redis":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import litestar_safe_sse.sources
from litestar_safe_sse.exceptions import MissingExtraError
from litestar_safe_sse.sources import RedisEventLog, RedisGroupQueue, RedisPlugin, RedisPubSub, RedisQueue
for make in (RedisPlugin, RedisEventLog, RedisQueue, RedisGroupQueue, RedisPubSub):
    try:
        make("redis://localhost")
    except MissingExtraError as error:
        assert "litestar-safe-sse[redis]" in str(error), error
        assert isinstance(error, ImportError)
    else:
        raise AssertionError(make)
assert "redis" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)


def test_a_plugin_serves_several_loops(shared_redis: RedisServer) -> None:
    """Each has a client of its own, and none of a loop that is gone is kept."""
    plugin = RedisPlugin(shared_redis.url)

    async def use(close: bool) -> Any:
        assert await plugin.execute("PING") == b"PONG"
        client = plugin.client
        if close:
            await plugin.aclose()
        return client

    clients = [asyncio.run(use(True)) for _ in range(3)]
    assert len({id(client) for client in clients}) == 3
    assert not plugin._states
