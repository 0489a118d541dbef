"""What the doctor says to do about a fault makes it say that all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.remedies import REMEDIES
from tests.doctor.asking import SHORT, Answer, ask_doctor, url
from tests.doctor.conftest import UVICORN
from tests.proxies import KINDS, REMEDIED, TLS, TRAEFIK_TLS, ProxyKind, balancer, configured, proxy
from tests.servers.kinds import certificate_files, long_if
from tests.servers.processes import running

DONE = {
    ("nginx", "buffering"): "proxy_buffering off;",
    ("nginx", "compression"): "leave text/event-stream out of gzip_types",
    ("nginx", "idle-timeout"): "proxy_read_timeout and send_timeout above ping_interval, as 75s",
    ("haproxy", "buffering"): "no http-response wait-for-body",
    ("haproxy", "idle-timeout"): "timeout server and timeout client above ping_interval, as 75s",
    ("caddy", "buffering"): "buffer_responses",
    ("caddy", "compression"): "encode without a match on text/event-stream",
    ("caddy", "idle-timeout"): "read_timeout 75s",
    ("apache", "buffering"): "no SetOutputFilter",
    ("apache", "idle-timeout"): "ProxyTimeout",
    ("traefik", "buffering"): "no buffering middleware on this router or its entry point",
    ("traefik", "compression"): "compress.excludedContentTypes: [text/event-stream]",
    ("traefik", "limited-duration"): "respondingTimeouts.writeTimeout: 0 for this entry point",
    ("traefik", "streams-limited"): "inFlightReq.amount above the streams that one address may have",
    ("traefik", "last-event-id"): "no customRequestHeaders with an empty Last-Event-ID",
    ("traefik", "response"): "no headers middleware that replaces Content-Type",
}
"""What of a remedy was done."""


def assert_healthy(answer: Answer) -> None:
    assert (answer.code, answer.faults) == (0, set())
    assert {finding["verdict"] for finding in answer.findings.values()} <= {"ok", "note"}


def remedies() -> list[Any]:
    return [pytest.param(*case, id=" ".join(case), marks=long_if(case != ("nginx", "buffering"))) for case in REMEDIED]


@pytest.mark.parametrize(("name", "fault"), remedies())
def test_remedy_heals(name: str, fault: str, server: int, tmp_path: Path) -> None:
    """That for the very proxy, in the configuration that had the fault."""
    said = {kind.lower(): remedy for kind, remedy in REMEDIES[Fault(fault)].items()}[name]
    assert DONE[name, fault] in said
    with configured(KINDS[name], REMEDIED[name, fault], tmp_path / "proxy", upstream=server) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert_healthy(answer)
    if fault == "compression":
        assert "content-encoding" not in answer.findings["response"]["evidence"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in KINDS])
def test_remedy_of_an_outer_proxy_heals(name: str, server: int, tmp_path: Path) -> None:
    """Behind it is a nginx that has taken X-Accel-Buffering off."""
    said = {kind.lower(): remedy for kind, remedy in REMEDIES[Fault.OUTER_BUFFERING].items()}[name]
    assert DONE[name, "buffering"] in said
    with (
        proxy(KINDS["nginx"], "none", server, tmp_path / "inner") as inner,
        configured(KINDS[name], REMEDIED[name, "buffering"], tmp_path / "outer", upstream=inner) as port,
    ):
        assert_healthy(ask_doctor(url(port), "--json", *SHORT))


@pytest.mark.long
@pytest.mark.parametrize("kind", [pytest.param(TLS, id="nginx"), pytest.param(TRAEFIK_TLS, id="traefik")])
def test_proxy_with_a_certificate_is_healthy(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """Over HTTP/2, of which nothing has to be noted."""
    files = certificate_files()
    places = {"upstream": server, "certificate": files.certificate, "key": files.key}
    with configured(kind, kind.faults["none"], tmp_path / "proxy", **places) as port:
        answer = ask_doctor(f"https://127.0.0.1:{port}", "--json", "--cacert", str(files.authority), *SHORT)
    assert_healthy(answer)
    assert answer.findings["protocol"]["verdict"] == "ok"


@pytest.mark.long
def test_balancer_in_front_of_two_servers_is_healthy(server: int, tmp_path: Path) -> None:
    """Each knows its own streams only, and they take turns: the doctor asks until it has found the right one."""
    with (
        running(UVICORN, tmp_path, app="tests.doctor.app:app") as second,
        balancer(server, second.port, directory=tmp_path / "haproxy") as port,
    ):
        assert_healthy(ask_doctor(url(port), "--json", *SHORT))


@pytest.mark.long
def test_balancer_whose_time_out_is_too_short_is_named(server: int, tmp_path: Path) -> None:
    """And nothing else is said of it."""
    with (
        running(UVICORN, tmp_path, app="tests.doctor.app:app") as second,
        balancer(
            server,
            second.port,
            directory=tmp_path / "haproxy",
            fault=KINDS["haproxy"].faults["idle-timeout"],
        ) as port,
    ):
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert (answer.code, answer.faults) == (1, {"idle-timeout"})
