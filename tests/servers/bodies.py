"""Bodies of every kind, each of which notes when it began, when its clean-up started, and when it was done.

A body yields ``EVENTS`` events and then waits for ever, unless its nature is another. With ``quiet`` it waits
before the first.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel

EVENTS = 3
CLEANUP_SECONDS = 0.02
"""How long a body that awaits in its ``finally`` awaits there."""
CLEANUP_TIMEOUT = 0.5
"""The ``cleanup_timeout`` given to streams whose body would not end by itself."""
FLOOD_CHUNK = "x" * 65536
FLOOD_LIMIT = 1024
"""A flood is at most 64 MiB, so a server that never pushes back can't fill the machine's memory."""


class Context(Protocol):
    """What the bodies use of a stream's context."""

    @property
    def closing(self) -> bool: ...

    async def wait_closing(self) -> Any: ...

    async def flush(self) -> None: ...


@dataclass
class Visit:
    """One visit of one client: what a body is given."""

    key: str
    note: Callable[..., None]
    stream: Context
    quiet: bool = False
    own: float = CLEANUP_SECONDS
    limit: int = FLOOD_LIMIT
    yielded: int = 0
    """How many chunks a flood has been rid of: it stands still once the writer is blocked."""

    async def opening(self) -> None:
        self.note("began")
        if self.quiet:
            await anyio.sleep_forever()

    async def cleaning(self) -> None:
        self.note("ending")
        await anyio.sleep(self.own)
        self.note("ended")


class Release:
    """What blocked threads wait for: in production nothing would ever come, here the harness lets them go."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        self._event.wait(timeout=120)

    def now(self) -> None:
        self._event.set()
        self._event = threading.Event()


release = Release()
language: contextvars.ContextVar[str] = contextvars.ContextVar("language", default="")


async def await_in_finally(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
        await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def plain_finally(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
        await anyio.Event().wait()  # like BLPOP with no timeout
    finally:
        visit.note("ending")
        visit.note("ended")


async def _inner(visit: Visit, depth: int) -> AsyncGenerator[str, None]:
    try:
        if depth:
            async with contextlib.aclosing(_inner(visit, depth - 1)) as inner:
                async for item in inner:
                    yield item
        else:
            await visit.opening()
            for n in itertools.count():
                if n >= EVENTS:
                    await anyio.sleep_forever()
                yield str(n)
    finally:
        await anyio.lowlevel.checkpoint()
        visit.note(f"inner-{depth}")


async def nested(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        async with contextlib.aclosing(_inner(visit, 2)) as inner:
            async for item in inner:
                yield item
    finally:
        await visit.cleaning()


async def task_group(visit: Visit) -> AsyncGenerator[str, None]:
    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            visit.note("child-ended")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await visit.opening()
            for n in range(EVENTS):
                yield str(n)
            await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def cancel_scope(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        with anyio.CancelScope(), anyio.fail_after(3600):
            await visit.opening()
            for n in range(EVENTS):
                yield str(n)
            await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def timeouts(visit: Visit) -> AsyncGenerator[str, None]:
    """Every wait for the next item is cut by a timeout, again and again, with the ``yield`` inside the block."""
    try:
        await visit.opening()
        for n in itertools.count():
            with anyio.move_on_after(0.05 if n >= EVENTS else 3600):
                if n < EVENTS:
                    yield str(n)
                else:
                    await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def context_variable(visit: Visit) -> AsyncGenerator[str, None]:
    token = language.set(visit.key)
    try:
        await visit.opening()
        for n in range(EVENTS):
            assert language.get() == visit.key
            yield str(n)
        await anyio.sleep_forever()
    finally:
        assert language.get() == visit.key
        language.reset(token)  # ValueError when this is another context than the one it was set in
        await visit.cleaning()


async def swallows(visit: Visit) -> AsyncGenerator[str, None]:
    """Swallows its cancellation, and ends by itself."""
    try:
        with contextlib.suppress(anyio.get_cancelled_exc_class()):
            await visit.opening()
            for n in range(EVENTS):
                yield str(n)
            await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def stubborn(visit: Visit) -> AsyncGenerator[str, None]:
    """Swallows one cancellation and goes on waiting; the next one ends it."""
    try:
        with contextlib.suppress(anyio.get_cancelled_exc_class()):
            await visit.opening()
            for n in range(EVENTS):
                yield str(n)
            await anyio.sleep_forever()
        await anyio.sleep_forever()
    finally:
        visit.note("ending")
        visit.note("ended")


async def raises_in_cleanup(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
        await anyio.sleep_forever()
    finally:
        await visit.cleaning()
        raise RuntimeError("on purpose, in a clean-up")


async def busy(visit: Visit) -> AsyncGenerator[str, None]:
    """Never waits for anything."""
    try:
        await visit.opening()
        while True:
            yield "x"
    finally:
        await visit.cleaning()


async def flood(visit: Visit) -> AsyncGenerator[str, None]:
    """Yields more than any reader takes, then waits: parked at its ``yield`` while the writer is blocked."""
    try:
        await visit.opening()
        for _ in range(visit.limit):
            yield FLOOD_CHUNK
            visit.yielded += 1
        await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def backlog(visit: Visit) -> AsyncGenerator[str, None]:
    """Yields as many KiB as the server and the socket take, or up to ``limit``, then waits for ever."""
    try:
        await visit.opening()
        for _ in range(visit.limit):
            yield "x" * 1017
            with anyio.move_on_after(3):
                await visit.stream.flush()
                visit.yielded += 1
                continue
            break
        await anyio.sleep_forever()
    finally:
        await visit.cleaning()


async def flood_in_task_group(visit: Visit) -> AsyncGenerator[str, None]:
    """Parked at a ``yield`` inside of a task group, which answers ``aclose()`` by an exception group."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await visit.opening()
            for _ in range(visit.limit):
                yield FLOOD_CHUNK
                visit.yielded += 1
            await anyio.sleep_forever()
    finally:
        await visit.cleaning()


class Countdown(AsyncIterator[str]):
    """An asynchronous iterator that is no generator, with an ``aclose``."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.sent = 0

    async def __anext__(self) -> str:
        if not self.sent:
            await self.visit.opening()
        if self.sent == EVENTS:
            await anyio.sleep_forever()
        self.sent += 1
        return str(self.sent)

    async def aclose(self) -> None:
        await self.visit.cleaning()


class BareCountdown(AsyncIterator[str]):
    """The same without an ``aclose``: the only thing that can be ended is what it waits for."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.sent = 0

    async def __anext__(self) -> str:
        try:
            if not self.sent:
                await self.visit.opening()
            if self.sent == EVENTS:
                await anyio.sleep_forever()
        except BaseException:
            self.visit.note("ending")
            self.visit.note("ended")
            raise
        self.sent += 1
        return str(self.sent)


def sync_sleep(visit: Visit) -> Generator[str, None, None]:
    """Advanced in a worker thread, where it sleeps between events."""
    visit.note("began")
    try:
        while True:
            yield "tick"
            time.sleep(CLEANUP_SECONDS)
    finally:
        visit.note("ending")
        visit.note("ended")


def sync_blocked(visit: Visit) -> Iterator[str]:
    """Blocks its thread for good."""
    visit.note("began")
    for n in range(EVENTS):
        yield str(n)
    release.wait()


def returns_generator(visit: Visit) -> Callable[[], AsyncIterator[str]]:
    """A callable that returns the body, and is called only if the body is to start."""
    return lambda: await_in_finally(visit)


async def farewell(visit: Visit) -> AsyncGenerator[str, None]:
    """Asks to be told, and says goodbye."""
    try:
        await visit.opening()
        assert not visit.stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        for n in range(EVENTS):
            yield str(n)
        await visit.stream.wait_closing()
        yield "farewell"
    finally:
        await visit.cleaning()


async def completes(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
    finally:
        await visit.cleaning()


async def fails_first(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        raise RuntimeError("on purpose, before the first event")
        yield ""
    finally:
        await visit.cleaning()


async def fails_middle(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
        await anyio.lowlevel.checkpoint()
        raise RuntimeError("on purpose, in the middle")
    finally:
        await visit.cleaning()


async def fails_in_cleanup(visit: Visit) -> AsyncGenerator[str, None]:
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
    finally:
        await visit.cleaning()
        raise RuntimeError("on purpose, in a clean-up")


async def sse_generator(visit: Visit) -> AsyncGenerator[str, None]:
    """The handler itself: its first event is waited for ahead of the headers."""
    try:
        await visit.opening()
        for n in range(EVENTS):
            yield str(n)
        await anyio.sleep_forever()
    finally:
        await visit.cleaning()


def sse_thread(visit: Visit) -> Generator[str, None, None]:
    """The same in a thread."""
    yield from sync_sleep(visit)


def adopted(visit: Visit) -> AsyncGenerator[str, None]:
    """What is given to a ``ServerSentEvent`` of Litestar's."""
    return await_in_finally(visit)


def adopted_chunks(visit: Visit) -> Generator[str, None, None]:
    """What is given to a ``Stream`` of Litestar's."""
    with contextlib.closing(sync_sleep(visit)) as items:
        for item in items:
            yield f"data: {item}\n\n"


@dataclass(frozen=True)
class Species:
    """One kind of body, and what can be expected of it."""

    make: Callable[[Visit], Any]
    own: float = CLEANUP_SECONDS
    """Seconds that its end takes by itself."""
    ends: bool = True
    """Whether it can be ended at all: a blocked thread can't."""
    hushes: bool = True
    """Whether it can be asked to wait before its first event."""
    alone: bool = False
    """Keeps the event loop so busy that its clients are to come one at a time."""
    closable: bool = True
    """Whether it can be ended where it is parked at an event, and not only in what it waits for."""
    closes_unstarted: bool = False
    """Whether closing it leaves a trace although it never began, as a generator does not."""

    @property
    def name(self) -> str:
        return self.make.__name__


ENDLESS = [
    Species(await_in_finally),
    Species(plain_finally, own=0),
    Species(nested),
    Species(task_group),
    Species(cancel_scope),
    Species(timeouts),
    Species(context_variable),
    Species(swallows),
    Species(stubborn, own=CLEANUP_TIMEOUT),
    Species(raises_in_cleanup),
    Species(Countdown, closes_unstarted=True),
    Species(BareCountdown, own=0, closable=False),
    Species(sync_sleep, hushes=False),
    Species(sync_blocked, own=CLEANUP_TIMEOUT, ends=False, hushes=False),
    Species(returns_generator),
    Species(farewell),
    # Several batches of up to 5 ms each are made before a server has had the turns it needs to tell.
    Species(busy, own=CLEANUP_SECONDS + 0.02, alone=True, hushes=False),
]
"""Bodies that go on until they are ended."""

FLOODS = [Species(flood), Species(flood_in_task_group)]
"""Bodies that are parked at a ``yield`` once the reader stops reading."""

FINITE = [Species(completes), Species(fails_first), Species(fails_middle), Species(fails_in_cleanup)]
"""Bodies that end by themselves."""

MADE = [
    Species(sse_generator),
    Species(sse_thread, hushes=False),
    Species(adopted),
    Species(adopted_chunks, hushes=False),
]
"""Bodies of handlers that are generators, and of streams that are adopted, each with a dependency of the stream."""

SPECIES = {species.name: species for species in [*ENDLESS, *MADE, *FLOODS, *FINITE, Species(backlog)]}
