"""A cancellation that gets lost below a body, or anything else that is owned, is delivered again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import anyio
import pytest

from litestar_safe_sse import SafeSSEConfig, StreamContext
from litestar_safe_sse._core.timers import TimerWheel
from litestar_safe_sse._core.timing import SECOND_CANCELLATION
from litestar_safe_sse._runtime import asyncio as asyncio_runtime
from litestar_safe_sse._runtime.base import Interrupted, OwnedTask
from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._runtime.shielding import run_shielded
from litestar_safe_sse._runtime.tokens import NEXT_PAUSE, PAUSE
from tests.bounds import NEVER, WAIT
from tests.core.apps import Probe, Server
from tests.core.cancelling import (
    LONGER,
    a_while_later,
    again_and_again,
    by_wait_for,
    by_wait_for_in_a_generator,
    by_wait_for_within_another,
    filters_a_backlog,
    forever,
    in_a_child,
    in_a_child_that_returns,
    in_a_generator,
    in_children,
    returns,
    stop,
    waits_on,
    with_another_exception,
)
from tests.core.clients import Connection
from tests.loops import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]


@pytest.mark.parametrize(
    "library",
    [
        waits_on,
        returns,
        in_a_generator,
        in_a_child,
        in_a_child_that_returns,
        in_children,
        a_while_later,
        with_another_exception,
        again_and_again,
        filters_a_backlog,
        by_wait_for,
        by_wait_for_within_another,
        by_wait_for_in_a_generator,
    ],
)
async def test_a_cancellation_that_a_library_swallows_is_delivered_again(
    library: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A body whose library swallows its cancellation ends long before its time is up, and is cancelled but once."""

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            await library()
            await forever()
        finally:
            await asyncio.sleep(LONGER)
            probe.note("finally")

    assert await stop(body) == ["waits", "finally", "cleanup"]
    assert "SSE stream" not in caplog.text


async def test_a_body_that_catches_the_exception_its_cancellation_became_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A body that takes a lost cancellation for a lost connection, and connects again, ends."""

    async def connect() -> None:
        try:
            await forever()
        except asyncio.CancelledError as exc:
            raise ConnectionError from exc

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            with contextlib.suppress(ConnectionError):
                await connect()
            await forever()
        finally:
            await asyncio.sleep(LONGER)
            probe.note("finally")

    assert await stop(body) == ["waits", "finally", "cleanup"]
    assert "SSE stream" not in caplog.text


async def test_a_body_that_waits_again_where_it_was_cancelled_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A body that takes its cancellation for a timeout, and asks again, ends."""

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        for attempt in range(3):
            try:
                await forever()
            except asyncio.CancelledError:
                if attempt == 2:
                    raise
            finally:
                probe.note("cancelled")

    assert await stop(body) == ["waits", "cancelled", "cancelled", "cancelled", "cleanup"]
    assert "SSE stream" not in caplog.text


async def test_a_task_that_the_body_cancels_itself_may_take_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """One that awaits behind its ``except`` is not cancelled again."""

    async def body(probe: Probe) -> AsyncIterator[str]:
        async def work() -> None:
            await returns()
            await asyncio.sleep(LONGER)
            probe.note("flushed")

        task = asyncio.ensure_future(work())
        yield "one"
        probe.note("waits")
        try:
            await forever()
        finally:
            task.cancel()
            await task

    assert await stop(body) == ["waits", "flushed", "cleanup"]
    assert "SSE stream" not in caplog.text


def give(result: asyncio.Future[None]) -> None:
    if not result.done():
        result.set_result(None)


@pytest.mark.parametrize("first", ["the stop", "the result"])
async def test_wait_for_loses_no_stop(first: str, caplog: pytest.LogCaptureFixture) -> None:
    """``asyncio.wait_for`` whose result comes in the turn of the stop does not keep the body from ending."""
    result: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        if first == "the result":
            result.get_loop().call_soon(result.set_result, None)
        try:
            await asyncio.wait_for(asyncio.shield(result), WAIT)
            await forever()
        finally:
            await asyncio.sleep(LONGER)
            probe.note("finally")

    assert await stop(body, lambda: give(result)) == ["waits", "finally", "cleanup"]
    assert "SSE stream" not in caplog.text


@pytest.mark.parametrize("waiting", [forever, lambda: asyncio.gather(forever(), forever()), in_a_child])
@pytest.mark.parametrize("kind", ["asyncio", "anyio"] if sys.version_info >= (3, 11) else ["anyio"])
@pytest.mark.parametrize("tidies", [True, False])
async def test_a_timeout_does_not_take_the_cancellation_for_its_own(
    kind: str, waiting: Callable[[], Awaitable[object]], tidies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A timeout of the body that is over in the turn of the stop does not keep the body from ending."""
    expire: list[Callable[[], object]] = []

    async def one_attempt() -> None:
        if kind == "asyncio":
            async with asyncio.timeout(None) as limit:  # type: ignore[attr-defined,unused-ignore]
                expire.append(lambda: limit.reschedule(0))
                await wait()
        else:
            with anyio.CancelScope() as scope:
                expire.append(scope.cancel)
                await wait()

    async def wait() -> None:
        try:
            await waiting()
        finally:
            if tidies:
                await asyncio.sleep(LONGER)

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await one_attempt()
        finally:
            probe.note("finally")

    assert await stop(body, lambda: expire[-1]()) == ["waits", "finally", "cleanup"]
    assert "SSE stream" not in caplog.text


async def test_a_body_that_swallows_for_ever_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled at most once in each pause, until its time is up."""
    cancellations, over = 0, False

    async def body(probe: Probe) -> AsyncIterator[str]:
        nonlocal cancellations
        yield "one"
        probe.note("waits")
        while not over:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                cancellations += 1
        probe.note("ended")

    server, connection = Server(lambda probe, _: body(probe), SafeSSEConfig(cleanup_timeout=10 * PAUSE)), Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, connection)
        await server.probe.until("waits")
        connection.leave()
    assert server.probe.events == ["waits", "cleanup"]
    assert "cancelled twice, and was left behind" in caplog.text
    # Those of the pauses, of ten of them and a tenth of a second, and the one with which its time is up.
    assert 2 <= cancellations <= (10 * PAUSE + SECOND_CANCELLATION) / NEXT_PAUSE + 2
    over = True
    await server.probe.until("ended")


async def test_a_cancellation_that_is_lost_again_and_again_is_soon_delivered_again() -> None:
    """A client that connects slowly loses several in a row; only after the first somebody may be tidying up."""
    losses, loop = 40, asyncio.get_running_loop()
    times: list[float] = []

    async def connect() -> None:
        for _ in range(losses):
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            times.append(loop.time())
        await forever()

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            await connect()
        finally:
            probe.note("finally")

    assert await stop(body) == ["waits", "finally", "cleanup"]
    first, *later = (after - before for before, after in pairwise(times))
    assert first >= 0.9 * PAUSE
    assert min(later) < PAUSE


async def test_a_body_that_never_waits_for_anything_is_cancelled() -> None:
    """A body that only lets others run, turn by turn, is cancelled there."""

    async def body(probe: Probe) -> AsyncIterator[str]:
        yield "one"
        probe.note("waits")
        try:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(LONGER)
            probe.note("finally")

    assert await stop(body) == ["waits", "finally", "cleanup"]


@pytest.fixture
def slow_to_cancel_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forgotten comes again when its time has long been over, as on a machine that has more to do."""
    monkeypatch.setattr(asyncio_runtime, "PAUSE", NEVER)


@pytest.mark.parametrize("machine", ["idle", "busy"])
async def test_a_cleanup_whose_library_swallows_the_end_of_its_time_is_cancelled_again(
    machine: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleanup that has run out of time and lost its cancellation ends before it is left behind."""
    if machine == "busy":
        request.getfixturevalue("slow_to_cancel_again")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def release() -> None:
            try:
                await waits_on()
            finally:
                probe.note("released")

        stream.push_async_callback(release)
        yield "one"

    server = Server(body, SafeSSEConfig(cleanup_timeout=PAUSE))
    await server.run(Connection())
    assert server.probe.events == ["released", "cleanup"]
    assert "was not done in time" in caplog.text
    assert "left behind" not in caplog.text


@pytest.mark.usefixtures("slow_to_cancel_again")
async def test_what_forgets_each_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A cleanup that no cancellation ends holds nobody up, though each one is forgotten in time for another."""
    over = asyncio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def release() -> None:
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()

        stream.push_async_callback(release)
        yield "one"

    server = Server(body, SafeSSEConfig(cleanup_timeout=PAUSE))
    with anyio.fail_after(WAIT):
        await server.run(Connection())
    over.set()
    assert server.probe.events == ["cleanup"]
    assert "left behind" in caplog.text


@pytest.mark.parametrize("library", [waits_on, in_a_generator, in_a_child, a_while_later])
async def test_a_source_whose_library_swallows_its_cancellation_is_cancelled_again(
    library: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A source of ``iterate()`` ends too, and tidies up undisturbed."""

    async def source(probe: Probe) -> AsyncIterator[str]:
        try:
            yield "one"
            probe.note("waits")
            await library()
            await forever()
        finally:
            await asyncio.sleep(LONGER)
            probe.note("source")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for item in stream.iterate(source(probe)):
            yield item

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(server.run, connection)
        await server.probe.until("waits")
        connection.leave()
    assert server.probe.events == ["waits", "source", "cleanup"]
    assert "SSE stream" not in caplog.text


@pytest.mark.usefixtures("slow_to_cancel_again")
async def test_what_is_run_shielded_ends_though_its_library_swallows() -> None:
    """Work that has run out of time and lost its cancellation is cancelled again, and not left behind."""
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await waits_on()
        finally:
            ended = True

    runtime = current_runtime()
    clock = TimerWheel(runtime)
    outcome = await run_shielded(work(), runtime, clock=clock, limit=PAUSE, name="work", running={}, is_cancelled=True)
    assert isinstance(outcome, Interrupted)
    assert ended


class Captured:
    """A task that captures one work after another."""

    def __init__(self, *works: Callable[[], Awaitable[object]]) -> None:
        self.outcomes: list[BaseException | None] = []
        self.cancelling = 0
        self.ended = asyncio.Event()
        self._works = works
        self.task = current_runtime().spawn(self._run, "captured")

    async def _run(self, task: OwnedTask) -> None:
        for work in self._works:
            self.outcomes.append(await task.capture(self._await(work)))
        current = asyncio.current_task()
        if sys.version_info >= (3, 11) and current is not None:
            self.cancelling = current.cancelling()
        self.ended.set()

    async def _await(self, work: Callable[[], Awaitable[object]]) -> None:
        await work()


@pytest.mark.parametrize("first", ["the stop", "the result"])
async def test_a_cancellation_does_not_reach_what_is_captured_next(first: str) -> None:
    """One that comes as the work ends, and is lost by it, is not delivered to other work of the same task."""
    result: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await result

    captured = Captured(work, lambda: asyncio.sleep(LONGER))
    await asyncio.sleep(0.001)
    acts: list[Callable[[], object]] = [captured.task.cancel, lambda: give(result)]
    for act in acts if first == "the stop" else reversed(acts):
        act()
    with anyio.fail_after(WAIT):
        await captured.ended.wait()
    assert captured.outcomes == [None, None]


async def ends_another_task() -> None:
    other = asyncio.ensure_future(forever())
    try:
        await asyncio.wait({other})
    except asyncio.CancelledError:
        other.cancel()
        await asyncio.wait({other})
        other.result()


@pytest.mark.parametrize("library", [lambda: asyncio.wait_for(forever(), NEVER), ends_another_task])
async def test_a_cancellation_that_became_that_of_another_task_is_not_forgotten(
    library: Callable[[], Awaitable[None]],
) -> None:
    """It is in place of the one that was delivered, as where ``asyncio.wait_for`` is cancelled as it begins."""
    finished = False

    async def work() -> None:
        nonlocal finished
        asyncio.get_running_loop().call_soon(captured.task.cancel)
        try:
            await library()
        finally:
            await asyncio.sleep(LONGER)
            finished = True

    captured = Captured(work)
    with anyio.fail_after(WAIT):
        await captured.ended.wait()
    assert finished
    assert isinstance(captured.outcomes[0], Interrupted)


async def test_two_cancellations_on_their_way_are_one() -> None:
    """The second neither keeps the first from being noticed as lost, nor does either count any longer then."""
    captured = Captured(in_a_child)
    await asyncio.sleep(0.001)
    captured.task.cancel()
    captured.task.cancel()
    with anyio.fail_after(WAIT):
        await captured.ended.wait()
    assert isinstance(captured.outcomes[0], Interrupted)
    assert captured.cancelling == 0


async def test_a_child_that_was_about_to_run_loses_no_cancellation() -> None:
    """What a child was about to be given when its parent was cancelled makes no difference."""

    async def runs() -> None:
        await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await forever()

    for turns in range(1, 6):
        captured = Captured(lambda: asyncio.ensure_future(runs()))
        for _ in range(turns):
            await asyncio.sleep(0)
        captured.task.cancel()
        with anyio.fail_after(WAIT):
            await captured.ended.wait()
        assert isinstance(captured.outcomes[0], Interrupted)
