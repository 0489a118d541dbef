"""What the view shows, to whom, and what may be done by it."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from litestar import Litestar

from litestar_safe_sse import CloseReason, InvalidFieldError, PerKey, SafeSSEConfig, SafeSSEPlugin
from litestar_safe_sse._view import records
from litestar_safe_sse.testing import OpenStream, open_stream, open_websocket
from litestar_safe_sse.view import StreamsView
from tests.bounds import WAIT
from tests.view.app import AUTHORIZATION, is_admin, jobs, make_app

pytestmark = pytest.mark.anyio

PATH = "/_sse/streams"
ADMIN = {"Authorization": AUTHORIZATION}


def opened(
    app: Litestar, path: str = "/jobs", who: str = "ann", **keys: str
) -> AbstractAsyncContextManager[OpenStream]:
    return open_stream(app, "GET", path, params={"who": who, **keys}, timeout=WAIT)


async def ask(app: Litestar, method: str, path: str, **options: Any) -> tuple[int, httpx.Headers, str]:
    """Makes a request in the event loop of the streams."""
    async with open_stream(app, method, f"{PATH}{path}", timeout=WAIT, **options) as response:
        body = (await response.read()).decode()
        return response.status, response.headers, body


async def shown(app: Litestar) -> dict[str, Any]:
    status, headers, body = await ask(app, "GET", "", headers=ADMIN)
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    found: dict[str, Any] = json.loads(body)
    return found


async def close(app: Litestar, **wanted: str | int) -> int:
    status, _, body = await ask(app, "POST", "/close", json=wanted, headers=ADMIN)
    assert status == 200
    return int(json.loads(body)["closed"])


@pytest.mark.parametrize("guards", [None, [], (), "guard", is_admin, [None], [is_admin, 5]])
def test_view_without_guards_is_none(guards: Any) -> None:
    """It refuses to be made, and says what for."""
    with pytest.raises(InvalidFieldError, match=r"invalid guards: must be a list of one or more guards"):
        StreamsView(guards=guards)


@pytest.mark.parametrize(
    ("field", "settings"), [("path", {"path": "streams"}), ("path", {"path": 5}), ("who", {"who": "ann"})]
)
def test_settings_of_another_type(field: str, settings: dict[str, Any]) -> None:
    """Each names its field."""
    with pytest.raises(InvalidFieldError) as raised:
        StreamsView(guards=[is_admin], **settings)
    assert raised.value.field == field


def test_view_of_another_type() -> None:
    """What is mounted is a ``StreamsView``."""
    with pytest.raises(InvalidFieldError, match="invalid view: must be a StreamsView, or None, not bool"):
        SafeSSEPlugin(view=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/page.html"), ("GET", "/page.js"), ("GET", "/events"), ("POST", "/close")],
)
async def test_every_part_is_guarded(method: str, path: str) -> None:
    """Nobody else learns a thing, or closes one."""
    status, _, _ = await ask(make_app(), method, path)
    assert status == 401


def test_there_is_no_view_unless_asked_for() -> None:
    """Nor are the streams of an application watched then."""
    plugin = SafeSSEPlugin()
    assert not any("_sse" in route.path for route in Litestar([jobs], plugins=[plugin]).routes)
    assert plugin.streams._observers == ()


async def test_live_streams_are_shown() -> None:
    """Who streams what, for how long, and how much waits."""
    app = make_app()
    async with opened(app) as stream, opened(app, "/news", "bob") as other:
        await stream.next()
        await other.next()
        first, second = (await shown(app))["streams"]
    assert (first["path"], first["who"], first["state"], first["reason"]) == ("/jobs", "ann", "open", None)
    assert (second["path"], second["who"], second["events"], second["pending"]) == ("/news", "bob", 1, 0)
    assert 0 <= second["age"] <= first["age"]


async def test_ended_streams_are_shown_the_latest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their reasons, and no more of them than the last few."""
    monkeypatch.setattr(records, "KEPT", 2)
    app = make_app()
    for who in ("ann", "bob", "cat"):
        async with opened(app, who=who) as stream:
            await stream.next()
    found = await shown(app)
    assert found["streams"] == []
    assert [(stream["who"], stream["reason"]) for stream in found["ended"]] == [
        ("cat", "client_disconnected"),
        ("bob", "client_disconnected"),
    ]


async def test_who_that_fails_fails_no_stream() -> None:
    """A stream is opened all the same, and shown as nobody's."""
    app = make_app()
    async with open_stream(app, "GET", "/jobs") as stream:
        await stream.next()
        [found] = (await shown(app))["streams"]
    assert found["who"] == "unknown: KeyError('who')"


async def test_text_that_is_not_unicode_is_shown_escaped() -> None:
    """One stream of such a name hides no other, and is found by what is shown."""
    plugin = SafeSSEPlugin(
        SafeSSEConfig(admission=PerKey(lambda _: "key \ud800")),
        view=StreamsView(guards=[is_admin], who=lambda _: "ann \ud800"),
    )
    app = Litestar([jobs], plugins=[plugin])
    async with opened(app) as stream:
        await stream.next()
        [found] = (await shown(app))["streams"]
        assert found["who"] == "ann \\ud800"
        assert found["keys"][0]["key"] == "key \\ud800"
        assert await close(app, key=found["keys"][0]["key"]) == 1


async def test_one_stream_is_closed() -> None:
    """By its ID; the others go on."""
    app = make_app()
    async with opened(app) as stream, opened(app, who="bob") as other:
        await stream.next()
        await other.next()
        assert await close(app, id=(await shown(app))["streams"][0]["id"]) == 1
        assert (stream.close_reason, other.close_reason) == (CloseReason.CLOSED, None)
        assert await close(app, id="nobody's") == 0


async def test_streams_of_a_handler_are_closed() -> None:
    """All of them, and no other's."""
    app = make_app()
    async with opened(app) as one, opened(app) as two, opened(app, "/news") as other:
        for stream in (one, two, other):
            await stream.next()
        assert await close(app, handler=(await shown(app))["streams"][0]["handler"]) == 2
        reasons = [stream.close_reason for stream in (one, two, other)]
    assert reasons == [CloseReason.CLOSED, CloseReason.CLOSED, None]


@pytest.mark.parametrize("settings", [{}, {"max_streams": 9, "on_refusal": "oldest"}])
async def test_streams_of_a_key_are_closed(settings: dict[str, Any]) -> None:
    """All of them whatever their handler, and no other's; a name may be that of a user, and of a team."""
    app = make_app(**settings)
    async with (
        opened(app, user="red") as one,
        opened(app, "/news", user="red", team="blue") as two,
        opened(app, user="green", team="red") as other,
        opened(app) as nobody,
    ):
        streams = one, two, other, nobody
        for stream in streams:
            await stream.next()
        assert [each["keys"] for each in (await shown(app))["streams"]] == [
            [{"by": 0, "key": "red"}],
            [{"by": 0, "key": "red"}, {"by": 1, "key": "blue"}],
            [{"by": 0, "key": "green"}, {"by": 1, "key": "red"}],
            [],
        ]
        assert await close(app, key="blue", by=0) == await close(app, key="nobody's") == 0
        assert await close(app, key="red", by=0) == 2
        assert [each.close_reason for each in streams] == [CloseReason.CLOSED, CloseReason.CLOSED, None, None]
        assert await close(app, key="red") == 1
        assert other.close_reason is CloseReason.CLOSED
        found = await shown(app)
    ended = [len(stream["keys"]) for stream in found["ended"]]
    assert (ended[0], sorted(ended)) == (2, [1, 2, 2])  # the two that were closed together end in any order


async def test_websockets_are_shown_and_closed_among_the_others() -> None:
    """With whose they are, and their keys."""
    app = make_app()
    async with open_websocket(app, "/chat/ws", params={"who": "ann", "user": "red"}, timeout=WAIT) as stream:
        await stream.next()
        [found] = (await shown(app))["streams"]
        assert (found["path"], found["who"], found["keys"]) == ("/chat/ws", "ann", [{"by": 0, "key": "red"}])
        assert await close(app, key="red") == 1
        await stream.wait_closed()
        assert (stream.close_code, stream.close_reason) == (1000, CloseReason.CLOSED)


async def test_nothing_is_kept_of_streams_that_have_ended() -> None:
    """But for the last hundred of them."""
    app = make_app()
    async with opened(app, user="red") as stream:
        await stream.next()
    [view] = app.plugins.get(SafeSSEPlugin).streams._observers
    assert isinstance(view, records.Records)
    assert (view._keys, view._callers) == ({}, {})


@pytest.mark.parametrize(
    "wanted",
    [
        b"{}",
        b'{"id": "1", "handler": "2"}',
        b'{"key": "1", "handler": "2"}',
        b'{"id": "1", "by": 0}',
        b'{"key": 5}',
        b'{"ids": "1"}',
        b"[]",
        b"",
        b'{"id": 5}',
    ],
)
async def test_what_names_no_stream_closes_none(wanted: bytes) -> None:
    """Neither nothing, nor two things, nor what is no JSON."""
    headers = {**ADMIN, "Content-Type": "application/json"}
    status, _, _ = await ask(make_app(), "POST", "/close", content=wanted, headers=headers)
    assert status == 400


async def test_form_of_another_page_closes_nothing() -> None:
    """A browser lets any page send a form, and sends the user's credentials along; JSON it lets none."""
    headers = {**ADMIN, "Content-Type": "text/plain"}
    status, _, _ = await ask(make_app(), "POST", "/close", content=b'{"handler": "jobs"}', headers=headers)
    assert status == 415


async def test_snapshots_are_streamed() -> None:
    """By a stream of ours, which is among those that it shows."""
    async with opened_events(make_app()) as stream:
        for _ in range(2):
            event = await stream.next()
            assert event.type == "snapshot"
            assert [each["who"] for each in event.json()["streams"]] == ["me"]


def opened_events(app: Litestar) -> AbstractAsyncContextManager[OpenStream]:
    return open_stream(app, "GET", f"{PATH}/events", headers=ADMIN, params={"who": "me"}, timeout=WAIT)


async def test_page_loads_nothing_from_elsewhere() -> None:
    """Nor is it shown in a frame, and no other file can be had."""
    _, headers, body = await ask(make_app(), "GET", "/page.html", headers=ADMIN)
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "http" not in body
    status, _, _ = await ask(make_app(), "GET", "/records.py", headers=ADMIN)
    assert status == 404
