"""Each fault of each proxy is named, and where there is none nothing is said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.asking import SHORT, ask_doctor, url
from tests.proxies import HURRIED_CADDY, KINDS, ProxyKind, proxy
from tests.servers.kinds import long_if

NGINX = KINDS["nginx"]
FOLLOWS_FROM_HOLDING = {"stall-unnoticed", "abort-unnoticed"}
"""A proxy that wants the whole response reads on, whether its client reads, and is there, or not."""


def kinds(*long: str, fault: str = "none") -> list[Any]:
    """Those that can have a fault; Traefik is there only for the long tests."""
    return [
        pytest.param(kind, id=name, marks=long_if(name in (*long, "traefik")))
        for name, kind in KINDS.items()
        if fault in kind.faults
    ]


@contextlib.contextmanager
def proxies(directory: Path, server: int, *chain: tuple[ProxyKind, str]) -> Iterator[int]:
    """A chain of proxies, the innermost first."""
    with contextlib.ExitStack() as stack:
        port = server
        for number, (kind, fault) in enumerate(chain):
            port = stack.enter_context(proxy(kind, fault, port, directory / str(number)))
        yield port


@pytest.mark.parametrize("kind", kinds("haproxy", "caddy", "apache"))
def test_good_proxy_is_healthy(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """Nothing is wrong, and all could be told."""
    with proxies(tmp_path, server, (kind, "none")) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert {name: finding["verdict"] for name, finding in answer.findings.items()} == {
        **dict.fromkeys(answer.findings, "ok"),
        "protocol": "note",
    }
    assert answer.code == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", kinds(fault="harmless compression"))
def test_compression_that_holds_nothing_back_is_healthy(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """What flushes each event may compress it."""
    with proxies(tmp_path, server, (kind, "harmless compression")) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert (answer.code, answer.faults) == (0, set())
    assert answer.findings["response"]["evidence"]["content-encoding"] == "gzip"


@pytest.mark.parametrize("kind", kinds("haproxy", "caddy", "apache"))
def test_buffering_is_named(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """By the clumps in which events come, and by how much it takes to let them go."""
    with proxies(tmp_path, server, (kind, "buffering")) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert answer.findings["delivery"]["fault"] == answer.findings["buffers"]["fault"] == "buffering"
    assert kind.name in {name.lower() for name in answer.findings["delivery"]["remedies"]}
    assert answer.faults - FOLLOWS_FROM_HOLDING == {"buffering"}
    assert answer.code == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", kinds())
def test_outer_proxy_that_does_not_learn_of_the_header_is_named(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """A nginx has taken X-Accel-Buffering off, and what is in front of it buffers."""
    with (
        proxies(tmp_path, server, (NGINX, "none"), (kind, "buffering")) as port,
    ):
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert answer.findings["delivery"]["fault"] == "outer-buffering"
    assert answer.faults - FOLLOWS_FROM_HOLDING == {"outer-buffering"}
    assert answer.code == 1


@pytest.mark.long
def test_direct_url_tells_which_of_two_proxies_it_is(server: int, tmp_path: Path) -> None:
    """Past the outer proxy all is well, which says that it is the outer one."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    with proxy(NGINX, "none", server, inner) as behind, proxy(NGINX, "buffering", behind, outer) as port:
        answer = ask_doctor(url(port), "--direct", url(behind), "--json", "--only", "delivery,buffers")
    delivery = answer.findings["delivery"]
    assert (delivery["fault"], delivery["direct"]["verdict"]) == ("outer-buffering", "ok")


@pytest.mark.long
@pytest.mark.parametrize("kind", kinds())
def test_compression_that_holds_events_back_is_named(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """Only what is compressed comes in clumps; where a proxy always flushes, that of another behind it is seen."""
    chain = [(kind, "compression")] if "compression" in kind.faults else [(NGINX, "compression"), (kind, "none")]
    with proxies(tmp_path, server, *chain) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert answer.findings["delivery"]["fault"] == "compression"
    assert answer.faults - FOLLOWS_FROM_HOLDING == {"compression"}
    assert answer.code == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", kinds(fault="idle-timeout"))
def test_idle_timeout_below_the_heartbeat_is_named(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """With its length."""
    with proxies(tmp_path, server, (kind, "idle-timeout")) as port:
        answer = ask_doctor(url(port), "--json", *SHORT)
    assert answer.faults == {"idle-timeout"}
    assert answer.findings["idle"]["evidence"]["shortest_idle_timeout"].startswith("2.")
    assert answer.code == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", [*kinds(fault="limited-duration"), pytest.param(HURRIED_CADDY, id="caddy")])
def test_stream_that_may_not_last_is_named(kind: ProxyKind, server: int, tmp_path: Path) -> None:
    """Neither as an idle time-out, since silence is survived, nor as a buffer, since what came was not late."""
    with proxies(tmp_path, server, (kind, "limited-duration")) as port:
        answer = ask_doctor(url(port), "--json", "--idle", "12", "--patience", "8")
    assert answer.faults == {"limited-duration"}
    assert answer.findings["delivery"]["verdict"] == "unknown"
    assert "is cut after" in answer.findings["delivery"]["says"]
    assert answer.code == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "probe"),
    [("streams-limited", "protocol"), ("last-event-id", "last-event-id"), ("response", "response")],
)
def test_fault_of_a_middleware_is_named(fault: str, probe: str, server: int, tmp_path: Path) -> None:
    """What Traefik's middlewares do to requests and responses."""
    with proxies(tmp_path, server, (KINDS["traefik"], fault)) as port:
        answer = ask_doctor(url(port), "--json", "--only", probe)
    assert (answer.code, answer.faults) == (1, {fault})
