"""A body that fails: its client has all that was yielded, and learns at once that there should have been more."""

from __future__ import annotations

import asyncio

import pytest

from tests.bounds import WAIT
from tests.servers.kinds import kinds, marked, parameters
from tests.servers.processes import RunningServer
from tests.servers.questions import ask, crowd
from tests.servers.responses import Ending

CUTS_AT_ONCE = [kind for kind in kinds() if kind.server in ("uvicorn", "hypercorn")]


@pytest.mark.parametrize("server", marked(CUTS_AT_ONCE), indirect=True)
def test_a_failed_stream_is_cut_before_its_cleanups(server: RunningServer) -> None:
    """The client sees the cut while a cleanup is still under way, and the cleanup comes to its end."""

    async def visit() -> None:
        async with await crowd(server, ["/broken?key=k&gate=g"]) as clients:
            (client,) = clients.streams
            assert await client.events(2) == ["one", "two"]
            assert await client.end() in (Ending.CUT, Ending.RESET)
            assert await server.records.until_each(["k"], "cleaning", within=WAIT)
            assert server.records.story("k") == ["cleaning"]
            await ask(server, "/gate/g", method="POST")
            assert await server.records.until_each(["k"], "cleaned", within=WAIT)

    asyncio.run(visit())


@pytest.mark.parametrize("server", parameters(), indirect=True)
def test_a_failed_stream_that_is_told_of_has_a_proper_end(server: RunningServer) -> None:
    """With ``on_error`` the client has the last event and the end while the cleanups are still under way."""

    async def visit() -> None:
        async with await crowd(server, ["/broken?key=told&gate=told&told=true"]) as clients:
            (client,) = clients.streams
            assert await client.events(3) == ["one", "two", "on purpose, in a body"]
            assert await client.end() is Ending.COMPLETE
            assert await server.records.until_each(["told"], "cleaning", within=WAIT)
            assert server.records.story("told") == ["cleaning"]
            await ask(server, "/gate/told", method="POST")
            assert await server.records.until_each(["told"], "cleaned", within=WAIT)

    asyncio.run(visit())
