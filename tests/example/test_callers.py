"""Whom the example application obeys: its own pages, under a name that only this machine can have. In process."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from example_app import __main__ as launcher
from example_app import app as app_module
from example_app.app import create_app

ORDERS = ["/reset", "/crowds/safe/job", "/notifications", "/streams/1/revoke", "/streams/1/left", "/feed/notes"]
ORDERS += ["/feed/workers/1/kill"]
OWN = "127.0.0.1:8000"
FORBIDDEN = 403


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient[Litestar]]:
    monkeypatch.setattr(app_module, "HOLD_AT_MOST", 0)  # a crowd that is let in is refused for another reason
    with TestClient(create_app(hosts=["demo.lan"]), base_url=f"http://{OWN}") as client:
        yield client


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "elsewhere.example:8000", "Origin": "http://elsewhere.example:8000"},
        {"Host": "localhost.elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example"},
        {"Host": "[::1"},
        {"Host": ""},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_order_from_elsewhere_is_refused(client: TestClient[Litestar], path: str, headers: dict[str, str]) -> None:
    """No page of another site has anything done here, nor one whose name was made to point here."""
    response = client.post(path, headers=headers)
    assert response.status_code == FORBIDDEN
    assert "must be" in response.json()["detail"]


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": f"http://{OWN}", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:8000", "Origin": "http://localhost:8000"},
        {"Host": "192.168.1.7:8000", "Origin": "http://192.168.1.7:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Host": "Demo.LAN", "Origin": "https://demo.lan"},
    ],
    ids=lambda headers: " ".join(headers.values()) or "curl",
)
def test_own_page_is_obeyed(client: TestClient[Litestar], path: str, headers: dict[str, str]) -> None:
    """Nor are clients refused that are no browsers: they have nobody's rights but their own."""
    assert client.post(path, headers=headers).status_code != FORBIDDEN


@pytest.mark.parametrize("path", ["/", "/numbers", "/streams/safe/job", "/feed/events", "/kinds"])
def test_nothing_is_read_under_another_name(client: TestClient[Litestar], path: str) -> None:
    """A page whose name was made to point here reads neither pages nor streams."""
    assert client.get(path, headers={"Host": "elsewhere.example"}).status_code == FORBIDDEN


@pytest.mark.parametrize("path", ["/numbers", "/streams/safe/job", "/streams/litestar/job", "/feed/events"])
def test_no_other_site_opens_streams(client: TestClient[Litestar], path: str) -> None:
    """As an image or in a frame, say, it would hold them without being able to read them."""
    for fetch in ({"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}):
        assert client.get(path, headers={"Sec-Fetch-Site": "cross-site", **fetch}).status_code == FORBIDDEN


def test_link_from_another_site_leads_here(client: TestClient[Litestar]) -> None:
    """Who follows a link sees where it leads."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.post("/reset", headers=headers).status_code == FORBIDDEN


def test_name_that_is_served_is_the_app_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--host demo.lan`` adds to the names that the environment gives, and workers are told by it."""
    monkeypatch.setenv("EXAMPLE_HOSTS", "demo.example")
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", [])
    launcher.main(["--host", "demo.lan"])
    assert app_module.hosts_of_environment() == ["demo.example", "demo.lan"]
