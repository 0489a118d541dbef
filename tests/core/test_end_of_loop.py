"""``asyncio.run`` ends by cancelling every task it can see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from litestar_safe_sse import StreamContext
from tests.core.apps import Probe, Server
from tests.core.clients import Connection


@pytest.mark.parametrize("sweeps", [1, 3])
def test_the_end_of_asyncio_run_cannot_cut_a_cleanup_short(sweeps: int) -> None:
    """Body and cleanups have their time when the loop ends, also if it is swept again and again."""

    async def slow(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            for _ in range(5):
                await anyio.sleep(0.01)
            probe.note("finally")

    async def main() -> Server:
        server, connection = Server(slow), Connection()
        requests.append(asyncio.create_task(server.app(connection.scope, connection.receive, connection.send)))
        await connection.until(lambda got: b"one" in got.body)
        for _ in range(sweeps - 1):
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.005)  # so that the sweeps hit different awaits
        return server

    requests: list[asyncio.Task[None]] = []
    server = asyncio.run(main())
    assert server.probe.events == ["began", "finally", "cleanup"]
    assert requests[0].cancelled()
    server.check_empty()
