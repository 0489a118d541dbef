"""A log that is told who may have which topics asks, once for each subscription, and before anything is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext, sse
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import (
    MemoryEventLog,
    PostgresEventLog,
    RedisEventLog,
    RedisPlugin,
    SourceUnavailableError,
    TopicsDeniedError,
)
from litestar_safe_sse.sources.testing import MakeLog
from tests.bounds import WAIT
from tests.litestar import clients
from tests.sources.logs import anyio_backend, case, log, make_log, redis_of_case
from tests.sources.subscriptions import begin, data, take, take_all

__all__ = ("anyio_backend", "case", "log", "make_log", "redis_of_case")

ANN: Any = SimpleNamespace(request="ann")
BOB: Any = SimpleNamespace(request="bob")


async def only_ann(connection: object, topics: tuple[str, ...]) -> bool:
    """Lets Ann have all but what is secret."""
    return connection == "ann" and "secret" not in topics


@pytest.mark.anyio
async def test_it_is_asked_once_for_each_subscription(make_log: MakeLog) -> None:
    """About the connection and all topics; not when a history is lost, nor for any event."""
    asked: list[tuple[object, tuple[str, ...]]] = []

    async def authorize(connection: object, topics: tuple[str, ...]) -> None:
        asked.append((connection, topics))

    log = make_log(authorize=authorize)
    async with log.subscribe("b", "a", stream=ANN) as subscription:
        assert asked == [("ann", ("a", "b"))]
        await begin(subscription)
        await log.append("a", "1")
        assert data(await take(subscription, 1)) == ["1"]
        await log.delete("a")
        await log.append("a", "2")
        assert [message.event for message in await take(subscription, 2)] == ["reset", None]
    assert len(asked) == 1
    again = log.subscribe("a", stream=ANN, start="oldest")
    assert len(asked) == 1
    assert data(await take(again, 1)) == ["2"]
    assert asked[1:] == [("ann", ("a",))]
    await again.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("entered", [True, False])
async def test_who_may_not_have_a_topic_gets_nothing(make_log: MakeLog, entered: bool) -> None:
    """Not even the others; he is told so, without the names, and nothing is held."""
    log = make_log(authorize=only_ann)
    await log.append("news", "1")
    for topics, stream in ((("news", "secret"), ANN), (("news",), BOB)):
        subscription = log.subscribe(*topics, stream=stream, start="oldest")
        with pytest.raises(TopicsDeniedError) as denied:
            await (subscription.__aenter__() if entered else subscription.__anext__())
        assert denied.value.topics == topics
        assert denied.value.status_code == 403
        assert "secret" not in denied.value.detail
        assert await take_all(subscription) == []
        assert log.statistics().subscribers == log.statistics().topics == 0


@pytest.mark.anyio
async def test_what_it_raises_is_raised(make_log: MakeLog) -> None:
    """As it is."""

    async def authorize(connection: object, topics: tuple[str, ...]) -> None:
        raise LookupError(topics)

    subscription = make_log(authorize=authorize).subscribe("a", stream=ANN)
    with pytest.raises(LookupError, match="a"):
        await subscription.__anext__()
    assert await take_all(subscription) == []


@pytest.mark.anyio
async def test_a_wait_for_the_answer_can_be_cancelled(make_log: MakeLog) -> None:
    """It is asked again when the subscription is iterated over again, and one that was to be entered is closed."""
    asked: list[object] = []

    async def authorize(connection: object, topics: tuple[str, ...]) -> None:
        asked.append(connection)
        if len(asked) != 2:
            await anyio.sleep_forever()

    log = make_log(authorize=authorize)
    subscription = log.subscribe("a", stream=ANN)
    with anyio.move_on_after(0):
        await subscription.__anext__()
    await begin(subscription)
    assert len(asked) == 2
    await subscription.aclose()
    entered = log.subscribe("a", stream=ANN)
    with anyio.move_on_after(0):
        await entered.__aenter__()
    with anyio.fail_after(WAIT):
        assert [message async for message in entered] == []
    assert len(asked) == 3


@pytest.mark.anyio
async def test_the_application_itself_may_have_any_topic(make_log: MakeLog) -> None:
    """If it says so: to forget the stream is an error, at the call."""
    log = make_log(authorize=only_ann)
    with pytest.raises(InvalidFieldError, match="stream: must be the stream that subscribes"):
        log.subscribe("a")
    for wrong in ("ann", 7, object()):
        with pytest.raises(InvalidFieldError, match="stream: must be a StreamContext"):
            log.subscribe("a", stream=wrong)  # type: ignore[arg-type]
    async with log.subscribe("secret", stream=None) as subscription:
        await begin(subscription)
    async with make_log().subscribe("a", stream=ANN) as subscription:  # nobody is to be asked
        await begin(subscription)


@pytest.mark.parametrize(
    "make",
    [
        MemoryEventLog,
        lambda **settings: RedisEventLog("redis://127.0.0.1", **settings),
        lambda **settings: PostgresEventLog("postgresql://127.0.0.1", **settings),
    ],
    ids=["memory", "redis", "postgres"],
)
@pytest.mark.parametrize("authorize", [True, "ann", lambda connection, topics: True], ids=["bool", "text", "sync"])
def test_what_can_t_be_asked_is_refused(make: Any, authorize: Any) -> None:
    """When the log is made."""
    with pytest.raises(InvalidFieldError, match="authorize: must be an async function"):
        make(authorize=authorize)


async def by_query(connection: Any, topics: tuple[str, ...]) -> bool:
    """Lets who says so have a topic, and says of another that there is none."""
    if "none" in topics:
        raise NotFoundException("there is no such topic")
    return bool(connection.query_params.get("user") == "ann")


def application(log: MemoryEventLog) -> Litestar:
    @sse("/typed/{topic:str}")
    async def typed(topic: FromPath[str], stream: StreamContext) -> AsyncIterator[Any]:
        async for message in log.subscribe(topic, stream=stream, start="oldest"):
            yield message

    @get("/entered/{topic:str}")
    async def entered(topic: FromPath[str], stream: StreamContext) -> SafeServerSentEvent:
        subscription = log.subscribe(topic, stream=stream, start="oldest")
        return SafeServerSentEvent(await stream.enter_async_context(subscription))

    return Litestar([typed, entered], plugins=[SafeSSEPlugin()], openapi_config=None, logging_config=None)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", ["/typed", "/entered"])
async def test_streams_are_refused_before_their_response_begins(path: str) -> None:
    """With the status 403, or that of what was raised; who may have the topic is streamed to."""
    log = MemoryEventLog(authorize=by_query)
    await log.append("news", "hello")
    app = application(log)
    async with clients.lifespan(app):
        denied = await clients.get(app, f"{path}/news", query_string=b"user=bob")
        assert (denied.status, b"news" in denied.body) == (403, False)
        absent = await clients.get(app, f"{path}/none", query_string=b"user=ann")
        assert (absent.status, b"no such topic" in absent.body) == (404, True)
        async with clients.connect(app, f"{path}/news", query_string=b"user=ann") as allowed:
            await allowed.until_body(b"hello")
            assert allowed.status == 200
            assert log.statistics().subscribers == 1
        assert log.statistics().subscribers == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_is_asked_also_where_the_log_is_away() -> None:
    """What may not be had need not be waited for."""
    redis, postgres = (
        RedisPlugin("redis://127.0.0.1:1"),
        PostgresEventLog("postgresql://127.0.0.1:1/x", authorize=only_ann),
    )
    for away in (RedisEventLog(redis, authorize=only_ann), postgres):
        with pytest.raises(TopicsDeniedError):
            await away.subscribe("secret", stream=ANN).__anext__()
        with pytest.raises(SourceUnavailableError):
            await away.position("secret")
    await redis.aclose()
    await postgres.aclose()
