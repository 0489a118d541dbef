"""What a body has yielded does not wait for what it does next, however much that holds up the event loop."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct

from litestar_safe_sse import SafeSSEConfig, SSEMessage, StreamContext
from litestar_safe_sse._core import buffer
from litestar_safe_sse._core.buffer import FEWEST_LOOKS
from tests.core.apps import Probe, Server
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

STEP = 0.02
"""Seconds for which a body blocks the loop: several times what is taken for a body at work."""


class Reading(Struct):
    value: str


KINDS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "other text": lambda text: f"é {text}",
    "bytes": str.encode,
    "JSON": Reading,
    "message": SSEMessage,
    "message of JSON": lambda text: SSEMessage([text]),
    "dict": lambda text: {"data": text},
    "comment": lambda text: {"comment": text},
}


class Recorder(Connection):
    """Notes what is sent, by the marks in it, beside what the body does."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.log += [f"sent {mark}" for mark in re.findall("#[0-9]+", message.get("body", b"").decode())]
        await super().send(message)

    def block(self) -> None:
        """Holds up the loop, as a sync client or a model on the CPU does."""
        time.sleep(STEP)

    def check(self, marks: Iterable[str]) -> None:
        """Each event was sent before the body did anything else."""
        marks = list(marks)
        at = self.log.index(f"yields {marks[0]}")
        expected = [line for mark in marks for line in (f"yields {mark}", f"sent {mark}")]
        assert self.log[at : at + len(expected)] == expected


async def stream(recorder: Recorder, make: Callable[[], AsyncIterator[Any]], **config: Any) -> None:
    """Serves a stream and records it."""

    def body(probe: Probe, context: StreamContext) -> AsyncIterator[Any]:
        return make()

    await Server(body, SafeSSEConfig(**config)).run(recorder)


def marks(count: int) -> list[str]:
    return [f"#{n}" for n in range(count)]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_event_of_a_body_that_blocks_goes_out_by_itself(kind: str) -> None:
    """Whatever its events are made of."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        for mark in marks(10):
            recorder.block()
            recorder.log.append(f"yields {mark}")
            yield KINDS[kind](mark)

    await stream(recorder, body)
    recorder.check(marks(10))


async def test_the_first_event_does_not_wait_for_what_comes_before_a_second() -> None:
    """Also where nothing tells beforehand that the body will block."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        recorder.log.append("yields #0")
        yield "#0"
        recorder.block()

    await stream(recorder, body)
    recorder.check(["#0"])


async def test_a_body_that_was_fast_and_begins_to_block_is_noticed_soon() -> None:
    """Its fast events travel together; each of the slow ones by itself."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        for _ in range(1000):
            yield "fast"
        for mark in marks(20):
            recorder.block()
            recorder.log.append(f"yields {mark}")
            yield mark

    await stream(recorder, body)
    recorder.check(marks(20)[FEWEST_LOOKS:])
    assert len(recorder.messages) < 500


async def test_a_body_that_blocks_now_and_then_is_known_for_it() -> None:
    """Once it has blocked, what comes fast in between goes out before it blocks again."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        for n, mark in enumerate(marks(60)):
            if n % 10 == 0:
                recorder.block()
            recorder.log.append(f"yields {mark}")
            yield mark

    await stream(recorder, body)
    recorder.check(marks(60)[20:])


async def test_a_body_that_blocks_and_awaits_by_turns_is_known_for_it() -> None:
    """That it gave the loop a turn once does not mean that it will again."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        for n, mark in enumerate(marks(20)):
            if n % 2:
                await anyio.sleep(0.001)
            else:
                recorder.block()
            recorder.log.append(f"yields {mark}")
            yield mark

    await stream(recorder, body)
    recorder.check(marks(20)[4:])


async def test_a_body_that_has_ceased_to_block_is_fast_again() -> None:
    """After a while its events travel together as before."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        recorder.block()
        yield "#0"
        recorder.block()
        for mark in marks(10_000):
            yield mark

    await stream(recorder, body)
    assert len(recorder.messages) < 1000


async def test_a_sync_client_in_an_async_body_goes_out_event_by_event() -> None:
    """A plain ``for`` over what blocks, as people write it with a client that has no async face."""
    recorder = Recorder()

    def client() -> Iterator[str]:
        for mark in marks(10):
            recorder.block()
            yield mark

    async def body() -> AsyncIterator[Any]:
        for mark in client():
            recorder.log.append(f"yields {mark}")
            yield mark

    await stream(recorder, body)
    recorder.check(marks(10))


def has_beats(beats: int, sent: Connection) -> bool:
    return sent.body.count(b": ping") >= beats


async def test_heartbeats_do_not_hide_that_a_body_blocks() -> None:
    """One between two events changes nothing for the second."""
    recorder = Recorder()

    async def body() -> AsyncIterator[Any]:
        for beats, mark in enumerate(marks(6), 1):
            await recorder.until(partial(has_beats, beats))
            recorder.block()
            recorder.log.append(f"yields {mark}")
            yield mark
            recorder.block()

    await stream(recorder, body, ping_interval=0.01)
    recorder.check(marks(6)[2:])


async def test_other_tasks_wait_for_one_step_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two steps that block, whoever waits for a time that has come has a turn."""
    monkeypatch.setattr(buffer, "TURN", math.inf)  # which a busy machine may take for a single turn
    recorder = Recorder()
    turns = 0
    had: list[int] = []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0.001)

    async def body() -> AsyncIterator[Any]:
        for mark in marks(10):
            recorder.block()
            before = turns
            yield mark
            had.append(turns - before)

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        await stream(recorder, body)
        group.cancel_scope.cancel()
    assert len(had) == 10
    assert 0 not in had
