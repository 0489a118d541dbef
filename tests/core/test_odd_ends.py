"""Bodies, cleanups and iterators that end as they should not: the stream ends all the same, and says why."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, SSEError, StreamContext
from tests.bounds import WAIT
from tests.core.apps import Probe, Server, leave
from tests.core.clients import Connection
from tests.loops import ASYNCIO, UVLOOP

pytestmark = pytest.mark.anyio


async def raising(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    yield "one"
    raise GeneratorExit


def raising_sync(probe: Probe, stream: StreamContext) -> Iterator[str]:
    yield "one"
    raise GeneratorExit


async def exiting(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    yield "one"
    sys.exit("as a program would")


def exiting_sync(probe: Probe, stream: StreamContext) -> Iterator[str]:
    yield "one"
    sys.exit("as a program would")


class StrangeError(Exception):
    """Such as a proxy of an exception that has gone."""

    @property
    def __class__(self) -> Any:
        raise LookupError("gone")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class SeveralErrors(Exception):  # noqa: N818
    exceptions = 5


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP])
async def test_a_body_whose_exception_answers_strangely_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """The owner that asked is in trouble itself: a successor cleans up."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        raise StrangeError

    server, connection = Server(body), Connection()
    with anyio.fail_after(WAIT), pytest.raises(LookupError, match="gone"):
        await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.ERROR
    assert not connection.complete
    assert "the stream: LookupError('gone')" in caplog.text


async def test_a_generator_that_fails_with_a_group_that_is_none_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Its ``exceptions`` are no exceptions."""

    async def rows() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            raise SeveralErrors

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for row in rows():
            yield row
            break

    server = Server(body)
    with anyio.fail_after(WAIT):
        await server.run(Connection())
    assert server.probe.events == ["cleanup"]
    assert "a generator of the body: SeveralErrors()" in caplog.text


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (raising, "GeneratorExit"),
        (raising_sync, "GeneratorExit"),
        (exiting, "SystemExit"),
        (exiting_sync, "SystemExit"),
    ],
)
async def test_a_body_that_ends_by_what_is_no_exception_has_failed(body: Any, what: str) -> None:
    """It is no zombie, nor does it end the event loop of others: the transfer is cut, and the cleanups run."""
    server, connection = Server(body), Connection()
    with pytest.raises(SSEError, match=what):
        await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.ERROR
    assert not connection.complete


async def test_an_iterator_whose_closing_ends_by_generator_exit_is_closed() -> None:
    """The cleanups follow at once."""

    class Ticker:
        def __aiter__(self) -> Ticker:
            return self

        async def __anext__(self) -> str:
            await anyio.lowlevel.checkpoint()
            return "one"

        async def aclose(self) -> None:
            raise GeneratorExit

    server = Server(lambda probe, stream: Ticker())
    await leave(server)
    assert server.probe.events == ["cleanup"]


async def test_a_cleanup_that_ends_by_generator_exit_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The others run, and a warning names it."""

    async def odd() -> None:
        raise GeneratorExit

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        stream.push_async_callback(odd)
        yield "one"

    server = Server(body)
    await server.run(Connection())
    assert server.probe.events == ["cleanup"]
    assert "odd: GeneratorExit()" in caplog.text


async def test_a_sync_body_may_yield_on_its_way_out() -> None:
    """All that stands behind runs, in its thread."""
    closed = threading.Event()

    def body(probe: Probe, stream: StreamContext) -> Iterator[str]:
        try:
            try:
                while True:
                    yield "one"
            finally:
                yield "more"
        finally:
            closed.set()

    server = Server(body)
    await leave(server)
    assert closed.is_set()
    assert server.probe.events == ["cleanup"]


async def test_a_thread_that_cannot_start_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body is closed, the error tells what to do, and nothing waits for a thread that there is not."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class Rows:
        closed = False

        def __iter__(self) -> Rows:
            return self

        def __next__(self) -> str:
            raise AssertionError

        def close(self) -> None:
            self.closed = True

    rows = Rows()
    server = Server(lambda probe, stream: rows)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(SSEError, match="max_streams must be lower"):
        await server.run(Connection())
    assert rows.closed
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.ERROR


async def test_a_sync_source_is_advanced_only_while_an_item_is_asked_for() -> None:
    """What was taken off a queue has been sent."""
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        async for job in stream.iterate(jobs()):
            yield str(job)
            if job == 2:
                await anyio.sleep_forever()

    connection = await leave(Server(body), after=b"data: 2")
    assert taken == [0, 1, 2]
    assert connection.body.endswith(b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n")


@pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], indirect=True)  # on trio a scope is left by who entered it
async def test_an_iterator_without_athrow_is_ended_by_its_timeout() -> None:
    """A scope that it has left open around its items expires while it is parked."""

    class Ticker:
        scope: Any = None

        def __aiter__(self) -> Ticker:
            return self

        async def __anext__(self) -> str:
            if self.scope is None:
                self.scope = anyio.CancelScope(deadline=anyio.current_time() + 0.01)
                self.scope.__enter__()
            return "x" * 100

    server, connection = Server(lambda probe, stream: Ticker()), Connection()
    with pytest.raises(SSEError, match="the body ended itself by CancelledError"):
        await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.ERROR
