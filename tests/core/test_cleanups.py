"""What is registered with a stream: where it may be registered, how it is left, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from litestar_safe_sse import CloseReason, StreamClosedError, StreamContext
from litestar_safe_sse._runtime.current import current_runtime
from tests.bounds import WAIT
from tests.core.apps import Probe, Server
from tests.core.bodies import waiting
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


class Transaction:
    """Notes how it is left, entered as an async or a sync context manager."""

    def __init__(self) -> None:
        self.outcomes: list[BaseException | None] = []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.outcomes.append(error)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await anyio.lowlevel.checkpoint()
        self.__exit__(kind, error, trace)


def cancellation() -> type[BaseException]:
    """What a manager of a stopped stream is left with."""
    return StreamClosedError if current_runtime().name == "trio" else asyncio.CancelledError


@pytest.mark.parametrize("entered", ["by the handler", "by the body"])
@pytest.mark.parametrize("end", ["completes", "fails", "is left waiting", "is left parked", "is closed"])
async def test_a_transaction_commits_only_if_the_body_completes(end: str, entered: str) -> None:
    """Managers are left without an exception then; else with the body's, or as a cancelled block would be."""
    transactions = Transaction(), Transaction()

    async def enter(stream: StreamContext) -> None:
        await stream.enter_async_context(transactions[0])
        stream.enter_context(transactions[1])

    async def handler(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        if entered == "by the handler":
            await enter(stream)
        return body(probe, stream)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        if entered == "by the body":
            await enter(stream)
        yield "one"
        if end == "fails":
            raise LookupError("of the body")
        while end == "is left parked":
            yield "more"
        if end != "completes":
            await anyio.sleep_forever()

    server, connection = Server(handler), Connection()
    if end == "fails":
        with pytest.raises(LookupError):
            await server.run(connection)
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, connection)
            await connection.until(lambda got: b"one" in got.body)
            if end == "is closed":
                assert server.probe.stream is not None
                await server.probe.stream.aclose()
            elif end != "completes":
                connection.leave()
    for transaction in transactions:
        [error] = transaction.outcomes
        expected = {"completes": type(None), "fails": LookupError}.get(end, cancellation())
        assert type(error) is expected


async def test_a_transaction_of_a_handler_that_fails_is_not_committed() -> None:
    """Its managers are left with its exception."""
    transaction = Transaction()

    async def handler(probe: Probe, stream: StreamContext) -> Any:
        stream.enter_context(transaction)
        raise LookupError("of the handler")

    with pytest.raises(LookupError):
        await Server(handler).run(Connection())
    assert [type(error) for error in transaction.outcomes] == [LookupError]


@pytest.mark.parametrize("where", ["handler", "body", "task of the body"])
async def test_anything_can_be_registered_anywhere(where: str) -> None:
    """All four methods work in a handler and in a body, and what they register is done last in first out."""
    done: list[str] = []
    main = threading.get_ident()

    @asynccontextmanager
    async def manager() -> AsyncIterator[str]:
        yield "entered"
        done.append("async manager")

    async def function(name: str, *, suffix: str) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(name + suffix)

    def callback(name: str) -> None:
        assert threading.get_ident() == main
        done.append(name)

    async def register(stream: StreamContext) -> None:
        assert await stream.enter_async_context(manager()) == "entered"
        transaction = Transaction()
        assert stream.enter_context(transaction) is transaction
        stream.callback(lambda: done.append(f"manager was left {len(transaction.outcomes)} times"))
        stream.push_async_callback(function, "async ", suffix="function")
        stream.callback(callback, "function")

    async def handler(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        if where == "handler":
            await register(stream)
        return body(probe, stream)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        if where == "body":
            await register(stream)
        if where == "task of the body":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(register, stream)
        yield "one"

    server = Server(handler)
    await server.run(Connection())
    assert done == ["function", "async function", "manager was left 0 times", "async manager"]
    assert server.probe.events == ["cleanup"]


@pytest.mark.parametrize("how", ["by another task", "in a thread"])
async def test_what_is_entered_when_the_stream_has_closed_is_left_at_once(how: str) -> None:
    """Who was still entering it is told that it is too late, and nothing stays open."""
    entering, go, log = anyio.Event(), anyio.Event(), list[str]()

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        entering.set()
        await go.wait()
        log.append("entered")
        yield
        log.append("left")

    @contextmanager
    def sync_manager() -> Iterator[None]:
        anyio.from_thread.run_sync(entering.set)
        anyio.from_thread.run(go.wait)
        log.append("entered")
        yield
        log.append("left")

    async def enter(stream: StreamContext) -> None:
        in_thread = how == "in a thread"
        with pytest.raises(StreamClosedError):
            await (
                anyio.to_thread.run_sync(stream.enter_context, sync_manager())
                if in_thread
                else stream.enter_async_context(manager())
            )
        log.append("told")

    server, connection = Server(waiting), Connection()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as outer:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.run, connection)
                await connection.until(lambda got: b"one" in got.body)
                assert server.probe.stream is not None
                outer.start_soon(enter, server.probe.stream)
                await entering.wait()
                connection.leave()
            assert log == []
            go.set()
    assert log == ["entered", "left", "told"]


@pytest.mark.parametrize("end", ["completes", "is closed"])
async def test_the_client_does_not_wait_for_the_cleanups_but_the_request_does(end: str) -> None:
    """The response has ended while a cleanup is still at work; the task of the request has not."""
    release = anyio.Event()

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.push_async_callback(release.wait)
        yield "one"
        if end == "is closed":
            await anyio.sleep_forever()

    server, connection = Server(body), Connection()
    returned = anyio.Event()

    async def request() -> None:
        await server.run(connection)
        returned.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request)
        await connection.until(lambda got: b"one" in got.body)
        if end == "is closed":
            assert server.probe.stream is not None
            tasks.start_soon(server.probe.stream.aclose)
        await connection.until(lambda got: got.complete)
        assert not returned.is_set()
        assert server.probe.events == []
        release.set()
    assert server.probe.events == ["cleanup"]


@pytest.mark.parametrize("way", ["leaves", "is closed", "shutdown"])
async def test_a_stream_that_is_to_end_while_it_is_cleaned_up_cuts_no_cleanup_short(way: str) -> None:
    """What the body has left to a cleanup is done, whatever the client, the application and the server do meanwhile."""
    release = anyio.Event()

    async def clean(probe: Probe) -> None:
        probe.note("cleaning")
        await release.wait()
        await anyio.lowlevel.checkpoint()
        probe.note("cleaned")

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.push_async_callback(clean, probe)
        yield "one"

    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await server.probe.until("cleaning")
        assert server.probe.stream is not None
        if way == "leaves":
            connection.leave()
        elif way == "is closed":
            tasks.start_soon(server.probe.stream.aclose)
        else:
            server.streams.begin_drain()
        await anyio.wait_all_tasks_blocked()
        release.set()
    server.streams.stop()
    assert server.probe.events == ["cleaning", "cleaned", "cleanup"]
    assert server.probe.reason is CloseReason.COMPLETED


async def test_a_cleanup_that_closes_its_own_stream_does_not_wait_for_itself() -> None:
    """``aclose()`` returns at once, since the stream cannot have cleaned up before."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async def close() -> None:
            with anyio.fail_after(WAIT):
                await stream.aclose()
            probe.note("returned")

        stream.push_async_callback(close)
        yield "one"

    server = Server(body)
    await server.run(Connection())
    assert server.probe.events == ["returned", "cleanup"]
    assert server.probe.reason is CloseReason.COMPLETED


async def test_a_body_that_closes_its_own_stream_is_cancelled_where_it_waits_next() -> None:
    """``aclose()`` returns at once; it is the next ``await`` that is cancelled."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await stream.aclose()
        probe.note("returned")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            probe.note("cancelled")
            raise

    server = Server(body)
    await server.run(Connection())
    assert server.probe.events == ["returned", "cancelled", "cleanup"]
    assert server.probe.reason is CloseReason.CLOSED
