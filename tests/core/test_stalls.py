"""An event loop that does not answer for a while takes no stream's time: nobody could do anything in it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SafeSSEConfig, StreamContext
from litestar_safe_sse._core import timers
from litestar_safe_sse._core.timers import TimerWheel
from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._runtime.margins import TimerWithMargin
from litestar_safe_sse._runtime.shielding import run_shielded
from litestar_safe_sse._runtime.tokens import PAUSE
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import Body, Probe, Server, check
from tests.core.bodies import parked, rest, waiting
from tests.core.cancelling import forever, stop
from tests.core.clients import Connection
from tests.loops import ASYNCIO, TRIO, UVLOOP_AT_LENGTH, on_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[ASYNCIO, UVLOOP_AT_LENGTH, TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


STALL = 3 * SHORT
BRIEF = SafeSSEConfig(ping_interval=None, send_timeout=None, cleanup_timeout=SHORT, shutdown_grace=SHORT)
"""What a stall uses up, if it counts."""


def stall(seconds: float = STALL) -> None:
    """Keeps the event loop from answering, as a sync client or a model does."""
    time.sleep(seconds)


async def soon() -> None:
    """Awaits what takes hardly any time, if the loop answers."""
    with anyio.CancelScope(shield=True):  # needed on trio only
        await anyio.sleep(0.001)
        await anyio.sleep(0.001)


def in_a_thread(probe: Probe, stream: StreamContext) -> Iterator[str]:
    in_loop = current_runtime().call_threadsafe

    def generate() -> Iterator[str]:
        try:
            in_loop(lambda: probe.note("began"))
            while True:
                yield "one"
        finally:
            in_loop(lambda: probe.note("finally"))

    return generate()


def from_a_source(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    async def source() -> AsyncIterator[str]:
        try:
            probe.note("began")
            yield "one"
            await anyio.sleep_forever()
        finally:
            await rest(probe)

    async def body() -> AsyncIterator[str]:
        async for item in stream.iterate(source()):
            yield item

    return body()


async def run_many(server: Server, count: int, *, then: Any) -> None:
    """Serves some clients, and does something once each has an event."""
    connections = [Connection() for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(server.app, connection.scope, connection.receive, connection.send)
        for connection in connections:
            await connection.until(lambda got: b"data" in got.body)
        await then(connections)
    server.check_empty()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (it is of a clock, which notifies nobody)
        await anyio.sleep(0.001)


@pytest.fixture
def close_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a loop looked after so often that timeouts of some tenths of a second count by its time."""
    monkeypatch.setattr(timers, "LONGEST", SHORT / 6)


# At the end


@pytest.mark.parametrize("body", [waiting, parked, in_a_thread, from_a_source])
async def test_streams_that_end_lose_no_time(body: Body, caplog: pytest.LogCaptureFixture) -> None:
    """The loop is blocked for longer than ``cleanup_timeout`` when all leave: none is cut short, or reported."""

    async def leave_and_stall(connections: list[Connection]) -> None:
        for connection in connections:
            connection.leave()
        for stream in server.streams:
            stream.close(CloseReason.CLIENT_DISCONNECTED)
        stall()

    server = Server(body, BRIEF)
    await run_many(server, 5, then=leave_and_stall)
    for event in ("began", "finally", "cleanup"):
        assert server.probe.events.count(event) == 5
    assert caplog.messages == []


@pytest.mark.long
async def test_one_body_that_blocks_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """One blocks the loop in its ``finally``, again and again; the others await in theirs, and in cleanups."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.push_async_callback(rest, probe)
        probe.note("began")
        blocks = probe.events.count("began") == 1
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            for _ in range(3):
                if blocks:
                    stall()
                await soon()
            await rest(probe)

    async def end(_: list[Connection]) -> None:
        await server.streams.aclose_all()

    server = Server(body, BRIEF)
    await run_many(server, 4, then=end)
    assert server.probe.events.count("finally") == 8
    assert server.probe.events.count("cleanup") == 4
    assert caplog.messages == []


@pytest.mark.long
async def test_turns_that_are_long_take_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A few turns of the loop take all of ``cleanup_timeout``, as where thousands leave at once."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            probe.note("began")
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(3):
                    await anyio.sleep(0.001)
            probe.note("finally")

    async def slow_down() -> None:
        while len(server.streams):
            stall(0.3)
            await anyio.lowlevel.checkpoint()

    server, connection = Server(body, replace(BRIEF, cleanup_timeout=1.0)), Connection(leaves_after=b"one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("began")
        await slow_down()
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert caplog.messages == []


@on_asyncio
async def test_what_does_not_end_is_still_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """The time stands still while the loop is blocked, and goes on when it answers."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        try:
            yield "one"
            await forever()
        finally:
            while True:
                await forever_once()

    async def forever_once() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            server.probe.note("cancelled")

    async def end(connections: list[Connection]) -> None:
        for stream in server.streams:
            stream.close(CloseReason.CLOSED)
        await anyio.lowlevel.checkpoint()
        stall()

    server = Server(body, BRIEF)
    await run_many(server, 1, then=end)
    assert server.probe.events[0] == "cancelled"
    assert server.probe.events[-1] == "cleanup"
    assert "left behind" in caplog.text


async def test_grace_loses_no_time() -> None:
    """A body that has asked says farewell, though the loop is blocked for longer than its grace."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        yield "one"
        await stream.wait_closing()
        probe.note("asked")
        stall()
        await anyio.sleep(0.001)
        yield "farewell"
        probe.note("finally")

    server, connection = Server(body, BRIEF, max_lifetime=SHORT), Connection()
    await server.run(connection)
    assert server.probe.events == ["began", "asked", "finally", "cleanup"]
    assert connection.body.endswith(b"data: farewell\r\n\r\n")
    assert connection.complete


async def test_the_last_bytes_lose_no_time() -> None:
    """A client that takes them slowly has its time, though the loop is blocked for longer meanwhile."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "last"

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await anyio.sleep(0.001)
            stall()
            await anyio.sleep(0.001)
        await connection.send(message)

    server, connection = Server(body, BRIEF), Connection()
    await server.run(connection, send=send)
    assert connection.body == b"data: last\r\n\r\n"
    assert connection.complete


async def test_background_tasks_lose_no_time() -> None:
    """What is run behind a stream whose request was cancelled has its time, too."""

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        stall()
        await soon()

    runtime = current_runtime()
    clock = TimerWheel(runtime)
    outcome = await run_shielded(work(), runtime, clock=clock, limit=SHORT, name="work", running={}, is_cancelled=True)
    assert outcome is None


@on_asyncio
async def test_a_function_that_tidies_up_is_not_cancelled_again() -> None:
    """It has caught the cancellation, and ends as soon as it has a turn: that comes late, where the loop is blocked."""

    async def tidies_up(probe: Probe) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await asyncio.sleep(PAUSE / 50)
        probe.note("tidied up")

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        await tidies_up(probe)
        probe.note("ended")

    def stall_later() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(stall))

    assert await stop(body, stall_later) == ["waits", "tidied up", "ended", "cleanup"]


# While it is open


@pytest.mark.usefixtures("close_look")
async def test_a_send_loses_no_time() -> None:
    """A client that takes what it is sent is not given up because the loop is blocked for ``send_timeout``."""

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await anyio.sleep(0.001)
            if not connection.body:
                stall()
            await anyio.sleep(0.001)
        await connection.send(message)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        yield "one"
        await stream.flush()
        yield "two"
        probe.note("finally")

    server, connection = Server(body, BRIEF, send_timeout=SHORT), Connection()
    await server.run(connection, send=send)
    check(server, CloseReason.COMPLETED)
    assert connection.complete


async def test_the_first_event_loses_no_time() -> None:
    """A failure ahead of it is answered, though the loop is blocked for longer than the headers wait."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        await anyio.sleep(0.001)
        stall()
        await anyio.sleep(0.001)
        raise LookupError("nothing here")
        yield "never"

    server, connection = Server(body, BRIEF, prefetch=SHORT), Connection()
    with pytest.raises(LookupError):
        await server.run(connection)
    assert connection.messages == []


@pytest.mark.usefixtures("close_look")
async def test_who_is_asked_for_a_right_loses_no_time() -> None:
    """An answer that could not be given, since the loop was blocked, is waited for."""

    async def doorman(_: Any) -> bool:
        await anyio.sleep(0.001)
        if "asked" not in server.probe.events:
            stall()
        await anyio.sleep(0.001)
        server.probe.note("asked")
        return True

    server, connection = Server(waiting, BRIEF, reauthorize=doorman, reauthorize_interval=SHORT), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("asked")
        connection.leave()
    assert server.probe.reason is CloseReason.CLIENT_DISCONNECTED


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"max_lifetime": 4 * SHORT}, CloseReason.MAX_LIFETIME),
        ({"expires_at": lambda _: time.time() + 4 * SHORT}, CloseReason.REVOKED),
    ],
)
async def test_heartbeats_and_lifetimes_go_by_the_clock(setting: dict[str, Any], reason: CloseReason) -> None:
    """What is due is due, however long the loop has not answered: the client has waited all the same."""

    async def send(message: dict[str, Any]) -> None:
        await connection.send(message)
        for stream in server.streams:
            stream._deadline.wheel.lost += NEVER

    config = SafeSSEConfig(ping_interval=SHORT / 2, send_timeout=NEVER, cleanup_timeout=SHORT)
    server, connection = Server(waiting, config, **setting), Connection()
    await server.run(connection, send=send)
    check(server, reason)
    assert connection.body.count(b":") > 1


# At a shutdown


@pytest.mark.parametrize("body", [waiting, parked, from_a_source])
async def test_a_shutdown_leaves_a_turn_to_everyone(body: Body, caplog: pytest.LogCaptureFixture) -> None:
    """The loop is blocked until all time is over: bodies and cleanups that need little are done all the same."""

    async def shut_down(_: list[Connection]) -> None:
        server.streams.begin_drain()
        stall()
        await server.streams.drain()
        assert server.probe.events.count("cleanup") == 5

    config = SafeSSEConfig(ping_interval=None, cleanup_timeout=SHORT, shutdown_grace=0.1)
    server = Server(body, config)
    await run_many(server, 5, then=shut_down)
    assert server.probe.events.count("finally") == 5
    assert caplog.messages == []


@on_asyncio
async def test_a_shutdown_is_bounded_by_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    """What hangs is cut short when grace and cleanup are over by the clock, however little the loop has answered."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.push_async_callback(forever)
        try:
            yield "one"
            await stream.wait_closing()
            await forever()
        finally:
            probe.note("finally")
            await forever()

    async def shut_down(_: list[Connection]) -> None:
        server.streams.begin_drain()
        server.streams.loop_state().wheel.lost += NEVER
        await server.streams.drain()
        await server.probe.until("cleanup")

    server = Server(body, BRIEF)
    await run_many(server, 1, then=shut_down)
    assert server.probe.events == ["finally", "cleanup"]
    assert "forever: TimeoutError" in caplog.text


async def test_a_margin_begins_when_the_loop_answers() -> None:
    """It is over after its time by the clock, or some turns after a stall that has used that up."""
    told = anyio.Event()
    turns = 0
    TimerWithMargin(current_runtime(), SHORT, SHORT, told.set)
    stall()
    while not told.is_set():
        await anyio.sleep(SHORT / 20)
        turns += 1
    assert turns > 1

    timer = TimerWithMargin(current_runtime(), 0, NEVER, told.set)
    for _ in range(3):
        timer.cancel()
        await anyio.sleep(0.001)


# The clock of the loop


async def test_a_loop_is_looked_after_only_while_somebody_counts() -> None:
    """A wheel without time limits has no timer; one with a limit has one more, until the limit is over or cancelled."""
    wheel = TimerWheel(current_runtime())
    over = anyio.Event()
    wheel.call_later(NEVER, over.set).cancel()
    wheel.call_later(0.001, over.set)
    with anyio.fail_after(WAIT):
        await over.wait()
        await until(lambda: wheel._timer is None)
    assert wheel._slots == {}


async def test_time_stands_still_while_the_loop_does_not_answer() -> None:
    """Whoever watches it sees at most a little of a stall."""
    wheel = TimerWheel(current_runtime())
    wheel.watch()
    began = wheel.time()
    stall()
    lost = wheel.lost
    with anyio.fail_after(WAIT):
        await until(lambda: wheel.lost > lost)
    wheel.unwatch()
    assert wheel.lost > STALL / 2
    assert wheel.time() >= began


async def test_a_block_is_cancelled_in_the_loops_time() -> None:
    """A stall does not use it up; waiting does."""
    wheel = TimerWheel(current_runtime())
    with wheel.move_on_after(SHORT) as scope:
        await anyio.sleep(0.001)
        stall()
        await anyio.sleep(0.001)
    assert not scope.cancel_called
    with anyio.fail_after(WAIT), wheel.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
