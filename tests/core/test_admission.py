"""Who may have a stream: places by key, exact in a crowd, and given back with the last cleanup."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, InvalidFieldError, PerKey, SafeSSEConfig, StreamContext
from litestar_safe_sse._core.registry import StreamRegistry
from tests.bounds import WAIT
from tests.core.apps import PATIENT, App
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

CROWD = 500


def path(scope: Any) -> str:
    return str(scope["path"])


def first_letter(scope: Any) -> str:
    return str(scope["path"][1])


def limited(*rules: PerKey, **settings: Any) -> SafeSSEConfig:
    return replace(PATIENT, admission=rules, **settings)


def check_free(streams: StreamRegistry) -> None:
    """Checks that no place is taken, and nothing remembered of those that were."""
    assert streams._admission is not None
    assert not streams._admission._places
    assert not streams._admission._held


class House:
    """An application of endless streams, whose cleanups wait for the test if it wants to.

    Args:
        config: The settings.
        is_open: Whether cleanups need not wait.
    """

    def __init__(self, config: SafeSSEConfig, *, is_open: bool = True) -> None:
        self.app = App(self._handle, config)
        self.streams = self.app.streams
        self.seen: list[StreamContext] = []
        self.gate = anyio.Event()
        if is_open:
            self.gate.set()

    def _handle(self, stream: StreamContext) -> AsyncIterator[str]:
        self.seen.append(stream)
        stream.push_async_callback(self.gate.wait)
        return self._body()

    async def _body(self) -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[Callable[..., Any]]:
        """Lets clients in, who all leave at the end."""
        connections: list[Connection] = []
        async with anyio.create_task_group() as tasks:

            async def visit(at: str = "/a") -> Connection:
                connection = Connection(at)
                connections.append(connection)
                tasks.start_soon(self._run, connection)
                await connection.until(lambda got: got.status is not None)
                if connection.status == 200:
                    await connection.until(lambda got: b"one" in got.body)
                return connection

            yield visit
            self.gate.set()
            for connection in connections:
                connection.leave()
        assert len(self.streams) == 0
        check_free(self.streams)

    async def _run(self, connection: Connection) -> None:
        await self.app(connection.scope, connection.receive, connection.send)

    async def until_left(self, reasons: dict[CloseReason, int]) -> None:
        with anyio.fail_after(WAIT):
            while self.streams.statistics().closed != reasons:
                await anyio.lowlevel.checkpoint()


async def test_a_key_has_so_many_places() -> None:
    """One more stream of a key is refused, and those of others are not."""
    house = House(limited(PerKey(path, 2)))
    async with house.visited() as visit:
        assert [(await visit(at)).status for at in ("/a", "/a", "/a", "/b", "/a")] == [200, 200, 503, 200, 503]
        assert [stream.state.value for stream in house.seen] == ["open"] * 3
    assert house.streams.statistics().refused == 2


async def test_a_connection_without_a_key_is_not_counted() -> None:
    """``None`` is nobody's key."""
    house = House(limited(PerKey(lambda scope: None if scope["path"] == "/a" else "all", 1)))
    async with house.visited() as visit:
        assert [(await visit(at)).status for at in ("/a", "/a", "/b", "/c")] == [200, 200, 200, 503]


async def test_a_place_comes_back_with_the_last_cleanup() -> None:
    """A client that has left has its place for as long as something is held for it."""
    house = House(limited(PerKey(path, 1)), is_open=False)
    async with house.visited() as visit:
        first = await visit()
        first.leave()
        with anyio.fail_after(WAIT):
            while house.seen[0].state.value != "cleaning":
                await anyio.lowlevel.checkpoint()
        assert (await visit()).status == 503
        house.gate.set()
        await house.until_left({CloseReason.CLIENT_DISCONNECTED: 1})
        assert (await visit()).status == 200


@pytest.mark.parametrize("rules", [(PerKey(path, 7),), (PerKey(first_letter, 7), PerKey(path, 5))], ids=["one", "two"])
async def test_no_place_is_lost_or_given_twice_in_a_crowd(rules: tuple[PerKey, ...]) -> None:
    """500 clients come and abort at once: never are more served than there are places, and in the end all are free."""
    draw = random.Random(3)
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def handle(stream: StreamContext) -> AsyncIterator[str]:
        at = path(stream.request)
        now[at] += 1
        most[at] = max(most[at], now[at])
        stream.callback(now.subtract, [at])  # registered first, so run last
        stream.push_async_callback(anyio.sleep, draw.choice([0, 0, 0.002]))
        await anyio.sleep(draw.choice([0, 0, 0.001]))
        return body()

    async def body() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    app = App(handle, limited(*rules))
    statuses: Counter[int | None] = Counter()

    async def visit(at: str) -> None:
        connection = Connection(at)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: app(connection.scope, connection.receive, connection.send))
            how = draw.randrange(3)
            await anyio.sleep(draw.random() * 0.01)
            if how == 0:  # the server cancels, wherever the request stands
                tasks.cancel_scope.cancel()
            elif how == 1:
                await connection.until(lambda got: got.status is not None)
            connection.leave()
        statuses[connection.status] += 1

    for _ in range(2):
        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as crowd:
                for number in range(CROWD):
                    crowd.start_soon(visit, f"/{'abc'[number % 3]}")
    least = min(rule.n or 0 for rule in rules)
    assert max(most.values()) == least
    assert set(now.values()) == {0}
    statistics = app.streams.statistics()
    assert statistics.opened + statistics.refused == 2 * CROWD
    assert statistics.open == 0
    assert statistics.opened >= 2 * least  # the second crowd has found the places of the first
    assert statistics.refused > 0
    check_free(app.streams)


@pytest.mark.parametrize("on_refusal", ["unavailable", "reconnect"])
async def test_nobody_is_evicted_unless_asked_for(on_refusal: Any) -> None:
    """A newcomer is refused, and those who are there notice nothing."""
    house = House(limited(PerKey(path, 2), on_refusal=on_refusal))
    async with house.visited() as visit:
        before = [await visit(), await visit()]
        for _ in range(20):
            assert (await visit()).status == 503
        assert [stream.close_reason for stream in house.seen] == [None, None]
        assert [connection.complete for connection in before] == [False, False]


@pytest.mark.parametrize(
    "config",
    [
        limited(PerKey(path, 2), on_refusal="oldest"),
        limited(PerKey(path, 2, on_refusal="oldest")),
        limited(max_streams=2, on_refusal="oldest"),
    ],
    ids=["of-the-key", "of-this-limit", "of-the-process"],
)
async def test_the_oldest_makes_room_if_asked_for(config: SafeSSEConfig) -> None:
    """It is closed, properly, and the newcomer is served."""
    house = House(config)
    async with house.visited() as visit:
        connections = [await visit() for _ in range(4)]
        assert [connection.status for connection in connections] == [200] * 4
        await house.until_left({CloseReason.CLOSED: 2})
        assert [connection.complete for connection in connections] == [True, True, False, False]
    assert house.streams.statistics().refused == 0


async def test_no_more_make_room_than_there_are_places() -> None:
    """While those who had to leave clean up, a newcomer is refused: how many streams there are stays bounded."""
    house = House(limited(PerKey(path, 2), on_refusal="oldest"), is_open=False)
    async with house.visited() as visit:
        assert [(await visit()).status for _ in range(6)] == [200, 200, 200, 200, 503, 503]
        house.gate.set()
        await house.until_left({CloseReason.CLOSED: 2})
        assert (await visit()).status == 200


async def test_nobody_is_evicted_in_vain() -> None:
    """Where another limit refuses the newcomer, the oldest stays."""
    house = House(limited(PerKey(path, 1, on_refusal="oldest"), PerKey(first_letter, 1)))
    async with house.visited() as visit:
        await visit("/a")
        assert (await visit("/a")).status == 503
        assert house.seen[0].close_reason is None


async def test_one_makes_room_for_two_limits() -> None:
    """A stream that has to leave by one limit leaves by the others too."""
    house = House(limited(PerKey(first_letter, 2), PerKey(path, 1), on_refusal="oldest"))
    async with house.visited() as visit:
        for at in ("/ax", "/ay", "/ay"):
            assert (await visit(at)).status == 200
        await house.until_left({CloseReason.CLOSED: 1})
        assert [stream.close_reason for stream in house.seen][2] is None


def no_key(scope: Any) -> str:
    raise KeyError("user")


async def look_up(scope: Any) -> int:
    return 7


class Future:
    def __await__(self) -> Any:
        yield


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (no_key, r"admission: must have a function that answers .*, but no_key raised KeyError\('user'\)"),
        (lambda _: [], "admission: must have keys that are hashable, or None, but .* returned a list"),
        (lambda scope: look_up(scope), "admission: must have a function that answers without await, but .*<lambda>"),
        (lambda _: Future(), "admission: must have a function that answers without await, .* returned a Future"),
        (lambda _: float("nan"), "admission: must have keys that are equal to themselves, .* returned nan"),
    ],
)
async def test_a_key_that_cannot_be_told_is_a_typed_error(key: Any, message: str) -> None:
    """It names the function and the remedy, and nothing is open after it."""
    app, connection = App(lambda _: [], limited(PerKey(path, 1), PerKey(key, 1))), Connection()
    with pytest.raises(InvalidFieldError, match=message):
        await app(connection.scope, connection.receive, connection.send)
    assert app.streams.statistics().opened == len(app.streams) == 0
    check_free(app.streams)


# The registry finds streams by their keys


async def test_streams_are_revoked_by_their_key() -> None:
    """``aclose_where`` ends those of one key, also where it limits nothing, and waits for their cleanups."""
    house = House(limited(PerKey(path)))
    async with house.visited() as visit:
        connections = [await visit(at) for at in ("/a", "/b", "/a")]
        assert await house.streams.aclose_where(key="/a") == 2
        assert house.streams.statistics().closed == {CloseReason.REVOKED: 2}
        assert [connection.complete for connection in connections] == [True, False, True]
        assert await house.streams.aclose_where(key="/a") == 0
        assert await house.streams.aclose_where(key="/b", reason=CloseReason.CLOSED) == 1
    assert house.streams.statistics().closed == {CloseReason.REVOKED: 2, CloseReason.CLOSED: 1}


async def test_a_key_may_be_that_of_one_limit() -> None:
    """Two limits may have equal keys that mean something else."""
    one, other = PerKey(path, 5), PerKey(lambda _: "/a", 5)
    house = House(limited(one, other))
    async with house.visited() as visit:
        for at in ("/a", "/b"):
            await visit(at)
        assert await house.streams.aclose_where(key="/a", by=one) == 1
        assert await house.streams.aclose_where(key="/a", by=other) == 1


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (PATIENT, {}, "invalid admission: must have the PerKey"),
        (limited(max_streams=1, on_refusal="oldest"), {}, "invalid admission: must have the PerKey"),
        (limited(PerKey(path)), {"by": PerKey(first_letter)}, "invalid by: must be a PerKey of the conf"),
        (limited(PerKey(path)), {"by": "user"}, "invalid by: must be a PerKey of the conf.*, not 'user'"),
        (limited(PerKey(path)), {"key": ([],)}, r"invalid key: must be hashable, as keys are \(unhashable"),
        (limited(PerKey(path)), {"reason": "revoked"}, "invalid reason: must be a member of CloseReason"),
    ],
)
async def test_what_would_find_nothing_is_a_typed_error(config: SafeSSEConfig, options: Any, message: str) -> None:
    """Whoever revokes by a key that no stream can have is told so."""
    with pytest.raises(InvalidFieldError, match=message):
        await App(lambda _: [], config).streams.aclose_where(**{"key": "x", **options})


async def test_what_is_no_reason_ends_nothing() -> None:
    """It is refused before a stream is touched, also by its value, and where there is no stream."""
    house = House(limited(PerKey(path)))
    async with house.visited() as visit:
        for _ in range(2):
            with pytest.raises(InvalidFieldError, match="invalid reason: must be a member of CloseReason"):
                await house.streams.aclose_all("shutdown")  # type: ignore[arg-type]
            await visit("/a")
        (stream, *_) = house.streams
        with pytest.raises(InvalidFieldError, match="invalid reason: must be a member of CloseReason"):
            await stream.aclose("shutdown")  # type: ignore[arg-type]
        assert [stream.close_reason for stream in house.streams] == [None, None]
        await house.streams.aclose_all(CloseReason.CLOSED)
    assert house.streams.statistics().closed == {CloseReason.CLOSED: 2}
