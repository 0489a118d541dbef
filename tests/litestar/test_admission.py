"""Admission and access in an application: what clients are answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from litestar import Request, get
from litestar.exceptions import PermissionDeniedException

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    PerKey,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    StreamContext,
    sse,
)
from tests.bounds import SHORT
from tests.litestar.apps import closed, serving, serving_defaults
from tests.litestar.bodies import ENDLESS, Trace, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

EVENT_SOURCE = [("Accept", "text/event-stream")]


def user(connection: Request[Any, Any, Any]) -> str | None:
    return connection.headers.get("user")


def limited(*rules: PerKey, **settings: Any) -> SafeSSEConfig:
    return SafeSSEConfig(admission=rules, cleanup_timeout=1, **settings)


async def test_one_more_of_a_key_is_answered_429(trace: Trace) -> None:
    """With ``Retry-After``; an ``EventSource`` is told to come back if that is asked for."""
    ann, bob = [("User", "ann")], [("User", "bob")]
    for on_refusal, status in (("unavailable", 429), ("reconnect", 200)):
        config = limited(PerKey(user, 1), on_refusal=on_refusal, retry_after=2)
        async with serving_defaults(trace, config=config) as (app, _), connect(app, "/endless", headers=ann) as first:
            await first.until_body(b"begun")
            refused = await request(app, "/brief", headers=ann)
            assert (refused.status, refused.headers["retry-after"]) == (429, "2")
            survived = await request(app, "/brief", headers=[*ann, *EVENT_SOURCE])
            assert survived.status == status
            assert survived.body.startswith(b"retry: ") is (on_refusal == "reconnect")
            assert (await request(app, "/brief", headers=bob)).status == 200
            assert (await request(app, "/brief")).status == 200


async def test_answer_of_a_key_function(trace: Trace) -> None:
    """An ``HTTPException`` is the answer, and anything else is an error; no stream is opened."""

    def forbid(connection: Any) -> str:
        raise PermissionDeniedException

    for key, status in ((forbid, 403), (lambda connection: connection.nothing, 500)):
        async with serving_defaults(trace, config=limited(PerKey(key, 1))) as (app, streams):
            assert (await request(app, "/endless")).status == status
            assert streams.statistics().opened == 0
    assert trace == []


async def test_right_that_has_expired_is_answered_401(trace: Trace) -> None:
    """A client whose stream were revoked at once would come back for ever."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace), expires_at=lambda _: time.time() - 1)

    async with serving(handler) as (app, streams):
        assert (await request(app)).status == 401
        assert trace == []
        assert closed(streams) == {CloseReason.ERROR: 1}


async def test_access_of_a_generator(trace: Trace) -> None:
    """``@sse`` takes the settings, and the functions are given the request."""
    seen: list[Any] = []

    async def still(connection: Request[Any, Any, Any]) -> bool:
        seen.append(connection.headers["user"])
        return len(seen) < 3

    @sse("/", reauthorize=still, reauthorize_interval=SHORT, expires_at=lambda connection: time.time() + 3600)
    async def handler() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    async with serving(handler) as (app, streams):
        response = await request(app, headers=[("User", "ann")])
        assert (response.status, response.complete) == (200, True)
        assert seen == ["ann"] * 3
        assert closed(streams) == {CloseReason.REVOKED: 1}


async def test_lifetime_is_drawn(trace: Trace) -> None:
    """With ``jitter`` a stream is ended at the latest when its lifetime is over."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace), max_lifetime=SHORT, jitter=0.9)

    async with serving(handler) as (app, streams):
        assert (await request(app)).complete
        assert closed(streams) == {CloseReason.MAX_LIFETIME: 1}
    assert trace == ENDLESS[: len(trace)]


async def test_reconnection_time_is_drawn() -> None:
    """Each stream has one of its own, between the least and the most."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=SafeSSEConfig(retry=(1000, 1_000_000))) as (app, _):
        times = [int((await request(app)).body.split(b"\r\n")[0].removeprefix(b"retry: ")) for _ in range(10)]
        assert all(1000 <= each <= 1_000_000 for each in times)
        assert len(set(times)) > 1


def test_spread_longer_than_the_grace_is_refused() -> None:
    """The shutdown would last longer than is promised."""
    with pytest.raises(InvalidFieldError, match=r"invalid drain_spread: must be no more than shutdown_grace \(2.0 s\)"):
        SafeSSEPlugin(SafeSSEConfig(drain_spread=3))
