"""The cleanup registry, by itself: last in first out, exactly once, whatever fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_safe_sse._core.cleanup import CleanupRegistry
from litestar_safe_sse._runtime.base import Interrupted
from litestar_safe_sse.exceptions import StreamClosedError
from tests.bounds import WAIT


async def attempt(work: Coroutine[Any, Any, object]) -> BaseException | None:
    try:
        await work
    except BaseException as exc:
        return exc
    return None


KINDS = ("async context", "context", "async callback", "callback", "coroutine as callback")
OUTCOMES = ("fine", "raises", "cancelled", "registers another")


class Entry:
    """One entry of a registry, which notes that it was left."""

    def __init__(self, number: int, outcome: str, log: list[int], registry: CleanupRegistry) -> None:
        self.number, self.outcome, self.log, self.registry = number, outcome, log, registry

    def leave(self) -> None:
        self.log.append(self.number)
        if self.outcome == "raises":
            raise LookupError(self.number)
        if self.outcome == "cancelled":
            raise asyncio.CancelledError
        if self.outcome == "registers another":
            self.registry.callback(self.log.append, -self.number)

    async def aleave(self) -> None:
        await asyncio.sleep(0)
        self.leave()

    async def enter(self, kind: str) -> None:
        if kind == "async context":

            @asynccontextmanager
            async def async_context() -> AsyncIterator[int]:
                try:
                    yield self.number
                finally:
                    await self.aleave()

            assert await self.registry.enter_async_context(async_context()) == self.number
        elif kind == "context":

            @contextmanager
            def context() -> Any:
                try:
                    yield self.number
                finally:
                    self.leave()

            assert self.registry.enter_context(context()) == self.number
        elif kind == "async callback":
            self.registry.push_async_callback(self.aleave)
        else:
            self.registry.callback(self.leave if kind == "callback" else self.aleave)


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(OUTCOMES)), max_size=12),
    st.sampled_from([None, LookupError("the body"), asyncio.CancelledError()]),
)
def test_every_entry_is_left_once_in_reverse_order(entries: list[tuple[str, str]], error: BaseException | None) -> None:
    """Each entry is left exactly once, last in first out, with its failures reported together."""

    async def scenario() -> None:
        registry, log = CleanupRegistry(), list[int]()
        for number, (kind, outcome) in enumerate(entries, start=1):
            await Entry(number, outcome, log, registry).enter(kind)
        assert len(registry) == len(entries)
        await registry.unwind(error, attempt)
        expected = []
        for number in range(len(entries), 0, -1):
            expected.append(number)
            if entries[number - 1][1] == "registers another":
                expected.append(-number)
        assert log == expected
        failed = [number for number in log if number > 0 and entries[number - 1][1] in ("raises", "cancelled")]
        assert registry.close()
        report = registry.report()
        assert (report is None) is (not failed)
        if report is not None:
            assert len(report.exceptions) == len(failed)
        await registry.unwind(None, attempt)
        assert log == expected
        with pytest.raises(StreamClosedError):
            registry.callback(print)

    asyncio.run(scenario())


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_what_gets_stuck_is_not_run_again(outcomes: list[bool], data: st.DataObject) -> None:
    """A second unwinding goes on behind the entry at which the first was left, and runs nothing twice."""

    async def scenario() -> None:
        registry, log, reached = CleanupRegistry(), list[int](), asyncio.Event()
        stuck = data.draw(st.integers(0, len(outcomes) - 1))
        for number in range(len(outcomes)):
            if number == stuck:

                async def never() -> None:
                    log.append(stuck)
                    reached.set()
                    await asyncio.get_running_loop().create_future()

                registry.push_async_callback(never)
            else:
                registry.callback(log.append, number)
        first = asyncio.ensure_future(registry.unwind(None, attempt_uncaught))
        await asyncio.wait_for(reached.wait(), WAIT)
        assert registry.running is not None
        await registry.unwind(None, attempt)
        assert log == list(range(len(outcomes) - 1, -1, -1))
        first.cancel()
        await asyncio.wait([first])
        assert log == list(range(len(outcomes) - 1, -1, -1))

    async def attempt_uncaught(work: Coroutine[Any, Any, object]) -> BaseException | None:
        await work
        return None

    asyncio.run(scenario())


def test_a_suppressed_exception_is_not_seen_further_out() -> None:
    """A context manager that suppresses the exception hides it from those entered before it."""
    seen: list[BaseException | None] = []

    class Manager:
        def __init__(self, suppresses: bool) -> None:
            self.suppresses = suppresses

        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
            seen.append(error)
            return self.suppresses

    async def scenario() -> None:
        registry, error = CleanupRegistry(), LookupError()
        for suppresses in (False, True, False):
            registry.enter_context(Manager(suppresses))
        await registry.unwind(error, attempt)
        assert seen == [error, error, None]
        assert registry.report() is None

    asyncio.run(scenario())


def test_a_cleanup_that_ran_out_of_time_says_so() -> None:
    """A cleanup that its owner had to cancel is reported as a timeout, by its name."""
    registry = CleanupRegistry()
    registry.fail("close_the_pool", Interrupted())
    report = registry.report()
    assert report is not None
    assert isinstance(report.exceptions[0], TimeoutError)
    assert "close_the_pool" in str(report)


def test_what_is_registered_while_another_thread_closes_it_is_run_or_refused() -> None:
    """Once each, in whichever order they come to it."""
    for _ in range(200):
        registry, done, refused = CleanupRegistry(), list[int](), list[int]()
        begin = threading.Barrier(2, timeout=WAIT)

        def register(registry: CleanupRegistry, begin: threading.Barrier, done: list[int], refused: list[int]) -> None:
            begin.wait()
            for number in range(20):
                try:
                    registry.callback(done.append, number)
                except StreamClosedError:
                    refused.append(number)

        thread = threading.Thread(target=register, args=(registry, begin, done, refused))
        thread.start()
        begin.wait()
        asyncio.run(close(registry))
        thread.join(WAIT)
        assert sorted(done + refused) == list(range(20))


async def close(registry: CleanupRegistry) -> None:
    closed = False
    while not closed:
        await registry.unwind(None, attempt)
        closed = registry.close()
