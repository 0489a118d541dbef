"""What the page on Redis says that Redis must allow is enough, and what it says of keys is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis

from litestar_safe_sse.sources import RedisEventLog, RedisGroupQueue, RedisPlugin, RedisPubSub, RedisQueue
from tests.bounds import WAIT
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
COMMANDS = dict(re.findall(r"^\| `(Redis\w+)` \| (`[A-Z].*?) \| .*`[~&].*` \|$", PAGE, re.MULTILINE))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def use_list(redis: RedisPlugin) -> None:
    queue = RedisQueue(redis, "jobs", expire=60)
    items = queue.items(None)
    for _ in range(2):
        await queue.push("1")
        assert await anext(items) == b"1"
    waiting = queue._popper()
    await waiting.give_back([b"2"])
    assert await queue.length() == 1
    await items.aclose()


class Stream:
    """Stands for one that sends everything at once."""

    close_reason = None

    def push_async_callback(self, callback: Callable[..., Any]) -> None:
        self.end = callback

    async def flush(self) -> None:
        pass


async def use_group(redis: RedisPlugin) -> None:
    queue = RedisGroupQueue(redis, "jobs", settle=0, slice=0.1, expire=60)
    stream = Stream()
    items = queue.items(stream)  # type: ignore[arg-type]
    await queue.push("1", "2")
    assert [(await anext(items)).data for _ in range(2)] == [b"1", b"2"]
    await queue._reader().give_back(items._in_hand)
    items._in_hand.clear()
    again = await anext(items)
    assert (again.data, again.deliveries) == (b"2", 2)
    await stream.end()
    await items.aclose()
    await redis.aclose()
    assert await queue.length() in (0, 1)


async def use_pubsub(redis: RedisPlugin) -> None:
    pubsub = RedisPubSub(redis)
    async with pubsub.subscribe("price:X", patterns=["price:*"]) as messages:
        assert await pubsub.publish("price:X", "1") == 2
        assert {(await anext(messages)).data for _ in range(2)} == {"1"}


async def use_log(redis: RedisPlugin) -> None:
    log = RedisEventLog(redis)
    first = await log.append("news", "1", idempotency_key="one")
    assert await log.append("news", "1", idempotency_key="one") == first
    async with log.subscribe("news", start="oldest") as events:
        assert (await anext(events)).data == "1"
        await log.append("news", "2")
        assert (await anext(events)).data == "2"


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("RedisQueue", use_list),
        ("RedisGroupQueue", use_group),
        ("RedisPubSub", use_pubsub),
        ("RedisEventLog", use_log),
    ],
)
async def test_permissions_of_the_page_are_enough(
    redis_server: RedisServer, source: str, use: Callable[..., Any]
) -> None:
    """An account that may do what the page says, and nothing else, runs the source; none of it was denied."""
    commands = [name.lower() for words in re.findall(r"`([A-Z ]+)`", COMMANDS[source]) for name in words.split()]
    rules = [f"+{name}" for name in [*commands, "client|id", "client|unblock"]]
    channels = ("&price:*", "&{sse}:*")
    with Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "sse", "on", ">secret", "~{sse}:*", "resetchannels", *channels, *rules)
        redis = RedisPlugin(redis_server.url, username="sse", password="secret")
        try:
            with anyio.fail_after(WAIT):
                await use(redis)
        finally:
            await redis.aclose()
        denied: Any = admin.execute_command("ACL", "LOG")
    assert {entry["object"] for entry in denied} <= {"client|setinfo"}  # redis-py tries it, and doesn't need it
