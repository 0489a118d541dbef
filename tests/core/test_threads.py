"""Sync bodies: one thread for each, which is the body's own."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import SafeSSEConfig, StreamContext
from litestar_safe_sse._runtime.current import current_runtime
from tests.bounds import WAIT
from tests.core.apps import PATIENT, Probe, Server, leave
from tests.core.bodies import variable
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

AHEAD = 64


async def test_a_thread_runs_ahead_by_a_bounded_number_of_items() -> None:
    """While a ``send()`` is blocked, a sync body is at most 64 items ahead of what the stream has taken."""
    asked_for = 0
    is_ahead = threading.Event()

    def body(probe: Probe, stream: StreamContext) -> Iterator[str]:
        nonlocal asked_for
        for asked_for in itertools.count(1):
            if asked_for > AHEAD:
                is_ahead.set()
            yield "one"

    server, connection = Server(body, SafeSSEConfig(buffer_size=1, ping_interval=None)), Connection()
    sending = anyio.Event()

    async def send(message: dict[str, Any]) -> None:
        await connection.send(message)
        if message.get("body"):
            sending.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.run(connection, send=send))
        with anyio.fail_after(WAIT):
            await sending.wait()
            await anyio.to_thread.run_sync(is_ahead.wait, WAIT)
        connection.leave()
        with anyio.fail_after(WAIT):
            await server.probe.until("cleanup")
    assert server.probe.stream is not None
    # One is in the thread's hand while it waits for room, and one in the stream's.
    assert AHEAD < asked_for <= server.probe.stream.statistics().events + AHEAD + 2


async def test_a_thread_is_a_daemon_and_sees_the_handlers_context_variables() -> None:
    """So it does not keep the process from exiting, and a tenant or a trace that the handler set is seen in it."""
    seen: list[tuple[bool, str, str]] = []

    def body() -> Iterator[str]:
        thread = threading.current_thread()
        seen.append((thread.daemon, thread.name, variable.get()))
        yield "one"

    async def handler(probe: Probe, stream: StreamContext) -> Iterator[str]:
        variable.set("the handler's")
        return body()

    await Server(handler).run(Connection())
    assert seen == [(True, "SSE body of handler", "the handler's")]


async def test_a_step_is_let_come_back_before_the_iterator_is_closed() -> None:
    """A client that leaves interrupts no step: the thread comes back from it, and closes the iterator."""
    steps: list[str] = []
    left = threading.Event()

    def body(probe: Probe, stream: StreamContext) -> Iterator[str]:
        stream.callback(steps.append, "cleaned")
        try:
            yield "one"
            in_loop(lambda: probe.note("in a step"))
            left.wait(WAIT)
            steps.append("came back")
            yield "two"
        finally:
            steps.append("closed")

    in_loop = current_runtime().call_threadsafe
    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("in a step")
        connection.leave()
        assert server.probe.stream is not None
        with anyio.fail_after(WAIT):
            await server.probe.stream.wait_closing()
        await anyio.wait_all_tasks_blocked()
        assert steps == []
        left.set()
    assert steps == ["came back", "closed", "cleaned"]
    assert server.probe.events == ["in a step", "cleanup"]


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, deque, lambda items: range(len(items))])
async def test_what_is_in_memory_needs_no_thread(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, tuples, sets, deques and ranges are iterated over by the stream itself."""

    def start(thread: threading.Thread) -> None:
        assert not thread.name.startswith("SSE"), "a thread was started"
        original(thread)  # trio and its runner have threads of their own

    original = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    connection = Connection()
    await Server(lambda probe, stream: kind([0])).run(connection)
    assert connection.body == b"data: 0\r\n\r\n"


class Rows:
    """A sync iterator that is no generator."""

    def __init__(self) -> None:
        self._left = threading.Event()
        self._first = True

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> str:
        if not self._first:
            self._left.wait(0.01)
        self._first = False
        return "one"


class ClosableRows(Rows):
    closed = 0

    def close(self) -> None:
        type(self).closed += 1


class AsyncRows:
    """An async iterator that has nothing to be closed by."""

    def __aiter__(self) -> AsyncRows:
        return self

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        return "one"


async def test_a_sync_iterator_is_closed_by_its_close() -> None:
    """It need not be a generator."""
    ClosableRows.closed = 0
    await leave(Server(lambda probe, stream: ClosableRows()))
    assert ClosableRows.closed == 1


@pytest.mark.parametrize("kind", [Rows, AsyncRows])
async def test_an_iterator_that_cannot_be_closed_is_let_go(kind: Any) -> None:
    """Nobody holds on to it once its stream has ended."""
    gone = threading.Event()  # at the latest when the thread has finished, which nobody waits for

    def body(probe: Probe, stream: StreamContext) -> Any:
        rows = kind()
        weakref.finalize(rows, gone.set)
        return rows

    server = Server(body, PATIENT)
    await leave(server)
    assert server.probe.events == ["cleanup"]
    assert await anyio.to_thread.run_sync(gone.wait, WAIT)
