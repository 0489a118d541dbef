"""The route that the doctor asks: who may, and what it costs those who have none."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from litestar_safe_sse import CloseReason, SafeSSEConfig, SafeSSEPlugin
from litestar_safe_sse._doctor import visits
from litestar_safe_sse._doctor.contract import PATH, SECRET_HEADER, SIZES
from litestar_safe_sse._doctor.plans import TICKS
from litestar_safe_sse._doctor.visits import Visits
from litestar_safe_sse.testing import open_stream_sync
from tests.doctor.secret import SECRET

HEADERS = {SECRET_HEADER: SECRET}


def make_app(**settings: Any) -> Litestar:
    return Litestar(plugins=[SafeSSEPlugin(SafeSSEConfig(**settings))])


def test_there_is_no_route_unless_asked_for() -> None:
    """An application that sets no secret has nothing to guess."""
    app = make_app()
    assert not any("doctor" in route.path for route in app.routes)
    with TestClient(app) as client:
        assert client.get(PATH, headers=HEADERS).status_code == 404


@pytest.mark.parametrize("path", ["", "/stream?key=12345678&plan=silent", "/visits/12345678"])
@pytest.mark.parametrize("given", [None, "", "sesame-open-thysel", SECRET + "f", "é"])
def test_route_wants_the_secret(path: str, given: str | None) -> None:
    """All of it, for each request."""
    headers = {} if given is None else {SECRET_HEADER: given.encode()}
    with TestClient(make_app(doctor=SECRET)) as client:
        response = client.get(f"{PATH}{path}", headers=headers)  # type: ignore[arg-type]
        assert response.status_code == 403
        assert SECRET not in response.text
        assert client.get(PATH, headers=HEADERS).json()["ping_interval"] == 15


def test_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes tells nothing of how much was right."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with TestClient(make_app(doctor=SECRET)) as client:
        client.get(PATH, headers={SECRET_HEADER: "wrong"})
    assert compared == [{b"wrong", SECRET.encode()}]


def test_route_is_in_no_schema() -> None:
    """Nor is what it answers."""
    assert make_app(doctor=SECRET).openapi_schema.to_schema()["paths"] == {}


@pytest.mark.parametrize(
    "query", ["plan=silent", "key=1&plan=silent", "key=12345678&plan=ears", "key=12345678&plan=silent&lifetime=99999"]
)
def test_stream_is_bounded_by_what_may_be_asked(query: str) -> None:
    """Neither an unknown plan nor a longer life than an hour."""
    with TestClient(make_app(doctor=SECRET)) as client:
        assert client.get(f"{PATH}/stream?{query}", headers=HEADERS).status_code in (400, 404)


@pytest.mark.parametrize(("plan", "events"), [("silent", 1), ("ticks", TICKS), ("sizes", len(SIZES))])
def test_plan_sends_what_the_doctor_counts_on(plan: str, events: int) -> None:
    """So many events, and no end of its own; what its body has seen can be asked for."""
    app = make_app(doctor=SECRET)
    params = {"key": "12345678", "plan": plan}
    with open_stream_sync(app, "GET", f"{PATH}/stream", params=params, headers=HEADERS) as stream:
        for _ in range(events):
            stream.next()
        stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED


def test_visits_are_forgotten_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor that comes often fills no memory."""
    monkeypatch.setattr(visits, "KEPT", 2)
    kept = Visits()
    for key in ("one", "two", "three"):
        kept.begin(key)
    assert [kept.report(key).known for key in ("one", "two", "three")] == [False, True, True]
