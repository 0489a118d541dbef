"""Whatever runs for a stream runs in the context of its request."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import AsyncIterator

import anyio
import pytest
import sniffio

from litestar_safe_sse import SafeSSEConfig, StreamContext
from tests.bounds import SHORT, WAIT
from tests.core.apps import PATIENT, App
from tests.core.clients import Connection

pytestmark = pytest.mark.anyio

whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")


class Requests:
    """An application whose streams note in whose context they do what."""

    def __init__(self, config: SafeSSEConfig) -> None:
        self.seen: dict[str, list[str]] = {}
        self.stays = anyio.Event()
        self.waits = anyio.Event()
        """Set when the body that is stubborn waits."""

        async def handler(stream: StreamContext) -> AsyncIterator[str]:
            name = stream.request["path"][1:]
            whose.set(name)
            seen = self.seen.setdefault(name, [])
            stream.callback(lambda: seen.append(f"cleanup {whose.get()}"))

            async def body() -> AsyncIterator[str]:
                token = whose.set(f"body of {whose.get()}")
                try:
                    yield whose.get()
                    if name == "stubborn":
                        self.waits.set()
                    while not self.stays.is_set():
                        try:
                            with anyio.CancelScope(shield=name == "stubborn"):
                                await self.stays.wait()
                        except anyio.get_cancelled_exc_class():
                            if name != "stubborn":
                                raise
                finally:
                    whose.reset(token)
                    seen.append(f"finally {whose.get()}")

            return body()

        self.app = App(handler, config)

    async def visit(self, connection: Connection) -> None:
        await self.app(connection.scope, connection.receive, connection.send)


async def test_a_body_sees_what_its_handler_has_set() -> None:
    """Body, its finally and the cleanups see the variables of the handler; so do those of other streams theirs."""
    requests = Requests(PATIENT)
    connections = {name: Connection(f"/{name}", leaves_after=b"data") for name in ("one", "two")}
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            for connection in connections.values():
                group.start_soon(requests.visit, connection)
    for name, connection in connections.items():
        assert connection.body == f"data: body of {name}\r\n\r\n".encode()
        assert requests.seen[name] == [f"finally {name}", f"cleanup {name}"]


async def test_the_cleanups_of_a_body_left_behind_see_their_own_stream() -> None:
    """A body's time is kept by a timer that other streams share, but what follows is not done in their context."""
    requests = Requests(SafeSSEConfig(ping_interval=SHORT, cleanup_timeout=SHORT))
    other, stubborn = Connection("/other"), Connection("/stubborn")
    before: list[str] = []
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(requests.visit, other)
            await other.until(lambda connection: b"data" in connection.body)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(requests.visit, stubborn)
                await requests.waits.wait()
                stubborn.leave()
            before += requests.seen["stubborn"]
            requests.stays.set()
    # Before Python 3.11 a task of asyncio's cannot share a context; its successor has that of the handler.
    shared = sys.version_info >= (3, 11) or sniffio.current_async_library() == "trio"
    assert before == ["cleanup body of stubborn" if shared else "cleanup stubborn"]
    assert requests.seen["other"] == ["finally other", "cleanup other"]
