"""Bodies of every kind, which note what happens to them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel

from litestar_safe_sse import StreamContext
from litestar_safe_sse._runtime.current import current_runtime
from tests.core.apps import Probe

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


async def rest(probe: Probe) -> None:
    """A cleanup inside a body: it awaits, more than once."""
    with anyio.CancelScope(shield=True):  # needed on trio only
        await anyio.sleep(0.001)
        await anyio.sleep(0.001)
    probe.note("finally")


async def nested(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    async def inner() -> AsyncIterator[str]:
        async for item in innermost():
            yield item

    async def innermost() -> AsyncIterator[str]:
        task = anyio.get_current_task()
        try:
            while True:
                yield "one"
        finally:
            assert anyio.get_current_task() == task
            await rest(probe)

    async for item in inner():
        yield item


async def task_group(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield "one"
            await anyio.sleep_forever()
    finally:
        await rest(probe)


async def parked_in_a_task_group(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            while True:
                yield "one"
    finally:
        await rest(probe)


async def scope(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        with anyio.move_on_after(100):
            yield "one"
            with anyio.CancelScope():
                yield "two"
                await anyio.sleep_forever()
    finally:
        await rest(probe)


async def timeout(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """A timeout inside the body strikes while the stream is open, and means what it says."""
    try:
        with anyio.move_on_after(0.01):
            yield "zero"
            await anyio.sleep_forever()
        yield "one"
        await anyio.sleep_forever()
    finally:
        await rest(probe)


async def context_variable(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    token = variable.set("inside")
    try:
        yield "one"
        assert variable.get() == "inside"
        await anyio.sleep_forever()
    finally:
        variable.reset(token)
        await rest(probe)


async def never_waits(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        while True:
            yield "one"
    finally:
        await rest(probe)


async def raises_in_cleanup(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        yield "one"
        await anyio.sleep_forever()
    finally:
        await rest(probe)
        raise LookupError("in the cleanup")


def iterator(probe: Probe, stream: StreamContext) -> Any:
    class Ticker:
        def __init__(self) -> None:
            self.first = True

        def __aiter__(self) -> Ticker:
            return self

        async def __anext__(self) -> str:
            if not self.first:
                await anyio.sleep_forever()
            self.first = False
            return "one"

        async def aclose(self) -> None:
            await rest(probe)

    return Ticker()


def sync_generator(probe: Probe, stream: StreamContext) -> Any:
    threads: set[int] = set()

    def generate() -> Iterator[str]:
        try:
            while True:
                threads.add(threading.get_ident())
                yield "one"
        finally:
            threads.add(threading.get_ident())
            assert len(threads) == 1
            assert threading.get_ident() != main
            in_loop(lambda: probe.note("finally"))

    main = threading.get_ident()
    in_loop = current_runtime().call_threadsafe
    return generate()


def factory(probe: Probe, stream: StreamContext) -> Any:
    return lambda: never_waits(probe, stream)


def async_factory(probe: Probe, stream: StreamContext) -> Any:
    async def make() -> Any:
        await anyio.lowlevel.checkpoint()
        return never_waits(probe, stream)

    return make


async def waiting(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        probe.note("began")
        yield "one"
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):  # on trio a cancelled body cannot await without
            await anyio.sleep(0.001)
        probe.note("finally")


async def parked(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        probe.note("began")
        while True:
            yield "x" * 1000
    finally:
        await anyio.sleep(0.001)
        probe.note("finally")


async def short(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        probe.note("began")
        yield "one"
        await anyio.sleep(0.001)
        yield "two"
    finally:
        await anyio.sleep(0.001)
        probe.note("finally")
