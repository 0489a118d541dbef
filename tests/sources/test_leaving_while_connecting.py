"""Clients that leave while their bodies connect to Redis, at every instant of it."""

from __future__ import annotations

import anyio
import pytest

from tests.bounds import WAIT
from tests.sources.connecting import Visits, Waiting, blpop, blpop_within_a_time, ping_and_blpop, subscribe

pytestmark = pytest.mark.anyio

CLIENTS = 350
"""More than a thousand, of all kinds together."""


@pytest.mark.parametrize("waiting", [blpop, ping_and_blpop, subscribe, blpop_within_a_time])
async def test_every_client_is_cleaned_up_at_once(
    waiting: Waiting, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A body is ended before its time is up, even where redis-py has swallowed its cancellation."""
    visits = Visits(redis_url, waiting)
    with anyio.fail_after(WAIT):
        await visits.run(CLIENTS, at_once=50)
    visits.server.check_empty()
    assert [*visits.stories.values()] == [["connects", "finally", "cleaned"]] * CLIENTS
    assert visits.server.probe.events.count("cleanup") == CLIENTS
    assert "SSE stream" not in caplog.text
