"""Every await is a cancellation point: the request task is cancelled at its n-th suspension, for every n."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, StreamContext
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import Probe, Server
from tests.core.clients import Connection
from tests.suspensions import Suspensions

pytestmark = pytest.mark.anyio

MANY = 200


@asynccontextmanager
async def resource(probe: Probe) -> AsyncIterator[None]:
    await anyio.lowlevel.checkpoint()
    probe.note("opened")
    try:
        yield
    finally:
        await anyio.sleep(0.001)
        probe.note("released")


async def endless(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """Ends only when it is ended, and then awaits as often as it likes."""
    probe.note("began")
    try:
        await stream.enter_async_context(resource(probe))
        for number in range(3):
            yield str(number)
            await anyio.lowlevel.checkpoint()
        await stream.flush()
        await anyio.sleep_forever()
    finally:
        await anyio.sleep(0.001)
        await anyio.sleep(0.001)
        probe.note("finally")


async def finite(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """Ends by itself, so that its one cancellation may also reach it in its ``finally``, or on trio anywhere."""
    probe.note("began")
    try:
        for number in range(3):
            yield str(number)
            await anyio.lowlevel.checkpoint()
        await stream.flush()
    finally:
        try:
            await anyio.sleep(0.001)
        finally:
            probe.note("finally")


async def lasting(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    """Ends only when it is ended, on trio too."""
    probe.note("began")
    try:
        yield "0"
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)
        probe.note("finally")


def check(probe: Probe) -> None:
    """Laws 1 to 6, whatever has happened."""
    events = probe.events
    for begun, ended in (("began", "finally"), ("opened", "released")):
        assert events.count(begun) == events.count(ended) <= 1
    if probe.stream is not None:
        assert events.count("cleanup") == 1
        assert events[-1] == "cleanup"
        assert isinstance(probe.reason, CloseReason)
        assert probe.reason is probe.stream.close_reason


async def run_until_cancelled(server: Server, connection: Connection, how: str, at: int) -> int:
    """Serves a request, cancelled at the suspension of that number; tells how many there were."""
    seen = 0
    scope = anyio.CancelScope()
    tasks: list[asyncio.Task[Any]] = []

    def suspended(number: int) -> None:
        nonlocal seen
        seen = number
        if how == "scope":
            if number == at:
                scope.cancel()
        elif number == at or (how == "twice" and number == at + 1):
            asyncio.get_running_loop().call_soon(tasks[0].cancel)

    async def serve() -> None:
        with scope:
            call = server.app(connection.scope, connection.receive, connection.send)
            await Suspensions(call, suspended)

    if how == "scope":
        with anyio.fail_after(WAIT):
            await serve()
        return seen
    tasks.append(asyncio.create_task(serve()))
    done, _ = await asyncio.wait(tasks, timeout=WAIT)
    assert done, "the request did not end"
    if seen >= at:
        # A cancellation that arrives with the very last step may find the request already ended.
        assert tasks[0].cancelled() or tasks[0].exception() is None
    return seen


@pytest.mark.parametrize("body", [endless, finite])
@pytest.mark.parametrize("how", ["once", "twice", "scope"])
@pytest.mark.parametrize("prefetch", [0, NEVER])
async def test_a_cancellation_at_any_await_leaves_nothing_behind(
    body: Any, how: str, prefetch: float, anyio_backend: Any
) -> None:
    """Wherever the server cancels the request, once, again, or by a scope, the stream cleans up exactly once."""
    if anyio_backend[0] == "trio":
        how, body = "scope", finite  # trio has no other cancellation, and a cancelled body cannot await there
    server, connection, at = Server(body, prefetch=prefetch), Connection(), 0
    for at in range(1, MANY):
        server.probe.__init__()  # type: ignore[misc]
        connection = Connection(leaves_after=b"data: 2" if body is endless else None)
        suspensions = await run_until_cancelled(server, connection, how, at)
        check(server.probe)
        server.check_empty()
        if suspensions < at:
            break
    assert 5 < at < MANY
    assert connection.complete is (body is finite)


class Hostile(Connection):
    """A server that does not keep to the rules, in one way at a time."""

    def __init__(self, manner: str) -> None:
        super().__init__()
        self.manner = manner

    async def receive(self) -> dict[str, Any]:
        if self.manner == "receive raises":
            raise RuntimeError("receive")
        if self.manner == "receive raises OSError":
            raise ConnectionResetError
        if self.manner == "receive repeats":
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.manner == "receive blocks":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2 * SHORT)
        if self.manner == "receive never answers":
            await anyio.sleep_forever()
        if self.manner == "receive answers twice":
            return {"type": "http.disconnect"}
        return await super().receive()

    async def send(self, message: dict[str, Any]) -> None:
        body = message.get("body", b"")
        if self.manner == "send raises" and body:
            raise RuntimeError("send")
        if self.manner == "send raises at once":
            raise RuntimeError("send")
        if self.manner == "send raises OSError at once":
            raise OSError
        if self.manner == "send never answers" and body:
            await anyio.sleep_forever()
        if self.manner == "send blocks" and body:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2 * SHORT)
        await super().send(message)


@pytest.mark.parametrize(
    "manner",
    [
        "receive raises",
        "receive raises OSError",
        "receive repeats",
        "receive blocks",
        "receive never answers",
        "receive answers twice",
        "send raises",
        "send raises at once",
        "send raises OSError at once",
        "send never answers",
        "send blocks",
    ],
)
@pytest.mark.parametrize("prefetch", [0, NEVER])
async def test_a_hostile_server_breaks_no_law(manner: str, prefetch: float) -> None:
    """Whatever ``receive()`` and ``send()`` do, the stream ends for one reason and cleans up exactly once."""
    ends_by_itself = manner in ("receive blocks", "receive never answers")
    server = Server(finite if ends_by_itself else lasting, send_timeout=SHORT, prefetch=prefetch)
    connection = Hostile(manner)
    raised = manner in ("receive raises", "receive repeats", "send raises", "send raises at once")
    with anyio.fail_after(WAIT), pytest.raises(Exception, match=r"receive|send") if raised else nullcontext():
        await server.app(connection.scope, connection.receive, connection.send)
    check(server.probe)
    server.check_empty()
    expected = {
        "receive raises": CloseReason.ERROR,
        "receive raises OSError": CloseReason.CLIENT_DISCONNECTED,
        "receive repeats": CloseReason.ERROR,
        "receive blocks": CloseReason.COMPLETED,
        "receive never answers": CloseReason.COMPLETED,
        "receive answers twice": CloseReason.CLIENT_DISCONNECTED,
        "send raises": CloseReason.ERROR,
        "send raises at once": CloseReason.ERROR,
        "send raises OSError at once": CloseReason.CLIENT_DISCONNECTED,
        "send never answers": CloseReason.SEND_TIMEOUT,
        "send blocks": CloseReason.SEND_TIMEOUT,
    }
    assert server.probe.reason is expected[manner]
