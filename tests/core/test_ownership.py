"""Content that is an iterator is closed by itself; of content that makes iterators only the one that it made is."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, StreamContext
from litestar_safe_sse._core.iteration import ThreadedIterator
from litestar_safe_sse._runtime.current import current_runtime
from tests.core.apps import Probe, Server, leave
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio


class Async:
    """An async iterator whose ``__aiter__`` is a generator function, as those of clients of language models are."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        return "one"

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while True:
                yield await self.__anext__()
        finally:
            self.probe.note("generator closed")

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)
        self.probe.note("closed")


class AsyncWithClose(Async):
    """One that is closed by a coroutine function of another name."""

    aclose = None  # type: ignore[assignment]

    async def close(self) -> None:
        await super().aclose()


class Broken(Async):
    """One whose generator cannot be closed."""

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            self.probe.note("generator closed")
            raise LookupError


class Sync:
    """The same, to be iterated over in a thread."""

    def __init__(self, probe: Probe) -> None:
        self.note = probe.note
        self.in_loop = current_runtime().call_threadsafe
        self.thread = threading.get_ident()

    def __next__(self) -> str:
        return "one"

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                yield self.__next__()
        finally:
            self.tell("generator closed")

    def close(self) -> None:
        self.tell("closed")

    def tell(self, what: str) -> None:
        if threading.get_ident() == self.thread:  # by the loop it would come on any later turn
            self.note(what)
        else:
            self.in_loop(lambda: self.note(what))


def plain(make: Callable[[Probe], Any]) -> Callable[[Probe, StreamContext], Any]:
    return lambda probe, stream: make(probe)


def made_by_a_callable(make: Callable[[Probe], Any]) -> Callable[[Probe, StreamContext], Any]:
    return lambda probe, stream: lambda: make(probe)


def iterated(make: Callable[[Probe], Any]) -> Callable[[Probe, StreamContext], Any]:
    return lambda probe, stream: stream.iterate(make(probe))


GIVEN = pytest.mark.parametrize("given", [plain, made_by_a_callable, iterated])


@GIVEN
@pytest.mark.parametrize("kind", [Async, AsyncWithClose, Broken, Sync])
async def test_an_iterator_is_closed_by_itself(given: Any, kind: Any) -> None:
    """Once, after what its ``__aiter__`` or ``__iter__`` returned, and ahead of the cleanups."""
    server = Server(given(kind))
    await leave(server)
    assert server.probe.events == ["generator closed", "closed", "cleanup"]


@pytest.mark.parametrize("kind", [Async, AsyncWithClose, Sync])
async def test_an_iterator_that_was_never_advanced_is_closed_by_itself(kind: Any) -> None:
    """No generator was made of it."""
    server, connection = Server(plain(kind)), Connection()
    connection.leave()
    await server.run(connection)
    assert server.probe.events == ["closed", "cleanup"]


class Marking(Async):
    """One whose generator yields on its way out, which it may be told while it is parked."""

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            try:
                while True:
                    yield "one"
            finally:
                yield "[DONE]"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            self.probe.note("generator closed")


class Grouping(Async):
    """One whose generator holds a task group around its ``yield``, and yields on its way out."""

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                while True:
                    yield "one"
        finally:
            self.probe.note("generator closed")


async def iterated_and_parked(probe: Probe, stream: StreamContext, source: Any) -> AsyncIterator[str]:
    async for item in stream.iterate(source):
        yield item
        await anyio.sleep_forever()


def in_a_body(make: Callable[[Probe], Any]) -> Callable[[Probe, StreamContext], Any]:
    return lambda probe, stream: iterated_and_parked(probe, stream, make(probe))


def in_a_body_by_its_generator(make: Callable[[Probe], Any]) -> Callable[[Probe, StreamContext], Any]:
    return lambda probe, stream: iterated_and_parked(probe, stream, aiter(make(probe)))


@pytest.mark.parametrize("given", [plain, made_by_a_callable, iterated, in_a_body])
@pytest.mark.parametrize("kind", [Marking, Grouping])
async def test_an_iterator_is_closed_where_its_generator_is_parked(
    given: Any, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As any generator is: in the task that has advanced it, and at each ``yield`` on its way out."""
    server = Server(given(kind))
    await leave(server)
    assert server.probe.events == ["generator closed", "closed", "cleanup"]
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [Marking, Grouping])
async def test_a_source_is_closed_where_it_is_parked(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It may hold a task group or a cancel scope around its ``yield``, and yield on its way out, as bodies may."""
    server = Server(in_a_body_by_its_generator(kind))
    await leave(server)
    assert server.probe.events == ["generator closed", "cleanup"]
    assert caplog.text == ""


class AsyncMaker:
    """An iterable that others iterate over too."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "one"
        finally:
            self.probe.note("iterator closed")

    async def aclose(self) -> None:
        self.probe.note("closed")


class Maker:
    """The same, to be iterated over in a thread."""

    def __init__(self, probe: Probe) -> None:
        self.note = probe.note
        self.in_loop = current_runtime().call_threadsafe

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                yield "one"
        finally:
            self.in_loop(lambda: self.note("iterator closed"))

    def close(self) -> None:
        self.in_loop(lambda: self.note("closed"))


@GIVEN
@pytest.mark.parametrize("kind", [AsyncMaker, Maker])
async def test_of_an_iterable_only_the_iterator_is_closed(given: Any, kind: Any) -> None:
    """It is not for one stream to close what other streams may be made of."""
    server = Server(given(kind))
    await leave(server)
    assert server.probe.events == ["iterator closed", "cleanup"]


async def test_a_sync_source_that_gives_an_item_as_it_is_stopped_is_closed_before_the_cleanups(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On trio the work that waited for the item has been cancelled by then, and can wait for nothing more."""
    wake = ThreadedIterator._wake_loop

    def wake_and_stop(threaded: ThreadedIterator) -> None:
        if server.probe.events:
            wake(threaded)
            return
        server.probe.note("stopped")

        def both() -> None:
            threaded._wake.set()
            assert server.probe.stream is not None
            server.probe.stream._stream.close(CloseReason.CLOSED)

        runtime.call_threadsafe(both)

    monkeypatch.setattr(ThreadedIterator, "_wake_loop", wake_and_stop)
    runtime = current_runtime()
    server = Server(iterated(Maker))
    await server.run(Connection())
    assert server.probe.events == ["stopped", "iterator closed", "cleanup"]
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [AsyncMaker, Maker])
async def test_an_iterable_that_was_never_iterated_over_is_left_alone(kind: Any) -> None:
    """Nothing was made of it."""
    server, connection = Server(plain(kind)), Connection()
    connection.leave()
    await server.run(connection)
    assert server.probe.events == ["cleanup"]


class Bare:
    """An async iterator that is no iterable: ``async for`` takes none, but a stream does."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        return "one"

    async def aclose(self) -> None:
        self.probe.note("closed")


@pytest.mark.parametrize("source", [False, True], ids=["body", "source"])
async def test_an_iterator_that_is_no_iterable_is_iterated_over_and_closed_once(source: bool) -> None:
    """As a body, and as a source of one."""

    async def drawing(stream: StreamContext, bare: Any) -> AsyncIterator[str]:
        async for item in stream.iterate(bare):
            yield item

    server = Server(lambda probe, stream: drawing(stream, Bare(probe)) if source else Bare(probe))
    await leave(server)
    assert server.probe.events == ["closed", "cleanup"]
