"""What can't be examined is answered by one line that says what to do."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.doctor.asking import Answer, ask_doctor, url
from tests.doctor.impostors import impostor
from tests.ports import free_port
from tests.proxies import KINDS, proxy
from tests.servers.kinds import certificate_files


def assert_says(answer: Answer, *parts: str) -> None:
    assert answer.code == 2
    assert answer.output == ""
    [line] = answer.errors.splitlines()
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("status", "headers", "parts"),
    [
        (200, {"Content-Type": "text/html"}, ["answers 200 and text/html", "give the URL of the root"]),
        (200, {"Content-Type": "text/event-stream"}, ["text/event-stream where the doctor's route should be"]),
        (404, {}, ["no route for the doctor", "set SafeSSEConfig(doctor=...)"]),
        (
            301,
            {"Location": "https://example.org/_sse/doctor/"},
            ["redirects to https://example.org (301)", "give that"],
        ),
        (401, {}, ["refuses the doctor (401)", "--header"]),
        (502, {}, ["the proxy answers 502", "start that"]),
        (500, {}, ["answers 500"]),
    ],
)
def test_answer_that_is_no_route_of_ours(status: int, headers: dict[str, str], parts: list[str]) -> None:
    """A page, a redirect, a refusal, a proxy without a server."""
    with impostor(status, b"[]", headers=headers) as port:
        assert_says(ask_doctor(url(port)), url(port), *parts)


def test_proxy_without_its_application(tmp_path: Path) -> None:
    """A real 502."""
    with proxy(KINDS["nginx"], "none", free_port(), tmp_path / "nginx") as port:
        assert_says(ask_doctor(url(port)), "the proxy answers 502", "start that")


def test_nobody_listens() -> None:
    """The URL or the server is wrong."""
    assert_says(ask_doctor(url(free_port())), "cannot be reached", "correct the URL, or start the server")


@pytest.mark.parametrize("given", ["example", "ftp://example.org", "http://", "http://[", ""])
def test_no_url(given: str) -> None:
    """The line says what one looks like."""
    assert_says(ask_doctor(given), "no URL of a deployment", "https://example.org/api")


def test_wrong_secret(server: int) -> None:
    """It isn't told which would be right."""
    answer = ask_doctor(url(server), secret="another-secret-than-that")
    assert_says(answer, "another secret is wanted", "SafeSSEConfig(doctor=...)")
    assert "sesame" not in answer.errors


def test_no_secret_at_all(server: int) -> None:
    """It is asked for by name."""
    answer = ask_doctor(url(server), secret=None)
    assert answer.code == 2
    assert "--secret" in answer.errors


def test_tls_that_fails(tmp_path: Path) -> None:
    """A certificate that nobody trusts, a port without TLS, and a file of authorities that isn't one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_files().certificate, certificate_files().key)
    with impostor(404, tls=context) as port:
        assert_says(ask_doctor(f"https://127.0.0.1:{port}"), "the certificate is not trusted", "--cacert FILE")
    with impostor(404) as port:
        assert_says(ask_doctor(f"https://127.0.0.1:{port}"), "TLS fails", "give http://")
    (tmp_path / "empty.pem").write_text("")
    for file in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        assert_says(ask_doctor("https://127.0.0.1", "--cacert", str(file)), "can't be read", "PEM")


def test_names_and_headers_that_are_none() -> None:
    """Options are checked before anything is asked."""
    for option, wrong in (("--only", "ears"), ("--skip", "ears"), ("--header", "no colon"), ("--idle", "0")):
        answer = ask_doctor("http://127.0.0.1", option, wrong)
        assert answer.code == 2
        assert wrong in answer.errors


def test_direct_url_that_is_wrong(server: int) -> None:
    """It is told apart from the other."""
    nobody = free_port()
    assert_says(ask_doctor(url(server), "--direct", url(nobody)), url(nobody), "cannot be reached")


def test_url_of_the_route_is_that_of_the_application(server: int) -> None:
    """Whoever knows the route may name it."""
    answer = ask_doctor(f"{url(server)}/_sse/doctor/", "--json", "--only", "last-event-id")
    assert (answer.code, answer.findings["last-event-id"]["verdict"]) == (0, "ok")
