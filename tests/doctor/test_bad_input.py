"""What can't be examined is answered by one line that says what to do."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from litestar_safe_sse._doctor import deployment
from litestar_safe_sse._doctor.contract import PROBES
from litestar_safe_sse._view import asking
from tests.bounds import SHORT
from tests.doctor.asking import Answer, ask_doctor, url
from tests.doctor.impostors import endless, impostor
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


@pytest.mark.parametrize(
    "given", ["example", "ftp://example.org", "http://", "http://[", "http://127.0.0.1:99999", "http://127.0.0.1:0", ""]
)
def test_no_url(given: str) -> None:
    """The line says what one looks like."""
    assert_says(ask_doctor(given), "no URL of a deployment", "https://example.org/api")


def test_wrong_secret(server: int) -> None:
    """It isn't told which would be right."""
    answer = ask_doctor(url(server), secret="another-secret-than-that")
    assert_says(answer, "another secret is wanted", "SafeSSEConfig(doctor=...)")
    assert "sesame" not in answer.errors


def test_no_secret_at_all(server: int) -> None:
    """It is asked for by name, and by that of the variable."""
    answer = ask_doctor(url(server), secret=None)
    assert answer.code == 2
    assert "--secret" in answer.errors
    assert "LITESTAR_SSE_SECRET" in answer.errors


@pytest.mark.parametrize("secret", ["", "é" * 16, "a\nb0123456789abcdef", "a b0123456789abcdef"])
def test_secret_that_no_header_can_carry(secret: str) -> None:
    """It isn't told which it was."""
    answer = ask_doctor("http://127.0.0.1", "--secret", secret)
    assert answer.code == 2
    assert "must be printable ASCII without spaces" in answer.errors
    assert not secret or secret not in answer.errors


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
    wrong_headers = ("no colon", "X Y: 1", ": 1", "X: é☃")
    wrong_seconds = [
        (option, wrong) for option in ("--idle", "--patience", "--restart") for wrong in ("0", "nan", "inf")
    ]
    for option, wrong in (
        *(("--only", "ears"), ("--skip", "ears")),
        *(("--header", wrong) for wrong in wrong_headers),
        *wrong_seconds,
    ):
        answer = ask_doctor("http://127.0.0.1", option, wrong)
        assert answer.code == 2
        assert option in answer.errors
        assert wrong in answer.errors


@pytest.mark.parametrize("options", [("--only", "idle", "--skip", "idle"), ("--skip", ",".join(PROBES))])
def test_no_probe_at_all(options: tuple[str, ...]) -> None:
    """What has not been examined is not healthy."""
    answer = ask_doctor("http://127.0.0.1", *options)
    assert answer.code == 2
    assert "must leave a probe to run" in answer.errors


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("command", ["doctor", "streams"])
def test_answer_that_never_ends(kind: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read for so long, and so far, that it is seen to be none of ours."""
    monkeypatch.setattr(deployment, "MAX_ANSWER", 1000)
    with endless(kind) as port:
        assert_says(ask_doctor(url(port), command=command), url(port), "answers 200")


@pytest.mark.parametrize("command", ["doctor", "streams"])
def test_answer_that_dribbles(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it has to be there in time, and not its next part."""
    for module in (deployment, asking):
        monkeypatch.setattr(module, "TIMEOUT", SHORT)
    with endless("application/json", pause=SHORT / 5) as port:
        assert_says(ask_doctor(url(port), command=command), url(port), "no answer within")


def test_direct_url_that_is_wrong(server: int) -> None:
    """It is told apart from the other."""
    nobody = free_port()
    assert_says(ask_doctor(url(server), "--direct", url(nobody)), url(nobody), "cannot be reached")


def test_url_of_the_route_is_that_of_the_application(server: int) -> None:
    """Whoever knows the route may name it."""
    answer = ask_doctor(f"{url(server)}/_sse/doctor/", "--json", "--only", "last-event-id")
    assert (answer.code, answer.findings["last-event-id"]["verdict"]) == (0, "ok")
