"""``ShutdownWatch`` on real servers in processes of their own, stopped in every way they know."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.bounds import NEVER, WAIT
from tests.integration.processes import (
    DAPHNE,
    GRANIAN,
    GRANIAN_UVLOOP,
    HYPERCORN,
    HYPERCORN_TRIO,
    HYPERCORN_UVLOOP,
    UVICORN,
    UVICORN_UVLOOP,
    WITH_LIFESPAN,
    Kind,
    Launch,
    Server,
    posix_only,
    read,
)
from tests.servers.kinds import long_if

TRIO_TOO = pytest.param(HYPERCORN_TRIO, marks=pytest.mark.long)
"""Where it does as Hypercorn's other workers do."""
LIKE_SIGTERM = (signal.SIGINT,)
ON_UVLOOP = (UVICORN_UVLOOP, GRANIAN_UVLOOP, HYPERCORN_UVLOOP)
"""Signals reach it as they do asyncio's loop, as ``test_signal_handlers.py`` tells."""
FORCED_EXIT = sys.version_info < (3, 12, 1)


def hold_on_two_workers(server: Server) -> int:
    """Holds responses open on both workers, a slow clean-up on one; returns that one's pid."""
    server.wait_for("started", 2)
    server.hold(cleanup=2)
    slow = server.all("opened")[0].pid
    deadline = time.monotonic() + WAIT
    # The kernel chooses the worker, so it has to be asked again; nobody reads the responses of the others.
    while {report.pid for report in server.all("opened")} == {slow}:
        assert time.monotonic() < deadline
        server.hold().close()
    return slow


@posix_only
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param(
            kind,
            number,
            id=f"{kind}-{number.name}",
            marks=long_if(kind in ON_UVLOOP or number in LIKE_SIGTERM),
        )
        for kind in WITH_LIFESPAN
        for number in (signal.SIGTERM, *LIKE_SIGTERM)
    ],
)
def test_notified_once_and_at_once(launch: Launch, kind: Kind, number: signal.Signals) -> None:
    """The callback comes once and at once, an awaiting clean-up completes, and the exit is that of a bare server."""
    watched, bare = launch(kind), launch(kind, WATCHES="0")
    bare.get_ready()
    connection = watched.hold(cleanup=0.05)
    bare.signal(number)
    at = watched.signal(number)

    assert b"bye" in read(connection)
    assert watched.exit_code() == bare.exit_code()
    assert watched.since(at)[0] == "notified"
    assert len(watched.all("notified")) == 1
    assert len(watched.all("cleaned")) == len(watched.all("opened"))
    assert [report.restored for report in watched.all("stopped")] == [True]


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_notified_before_daphne_cancels(launch: Launch, number: signal.Signals) -> None:
    """On Daphne, which has no lifespan, a watch installed by the first request is notified before it is cancelled."""
    server = launch(DAPHNE)
    server.hold(cleanup=1)
    at = server.signal(number)

    assert server.exit_code() == 0
    (notified,) = server.all("notified")
    (cancelled,) = server.all("cancelled")
    assert at < notified.at < cancelled.at
    assert server.since(at)[0] == "notified"


@posix_only
@pytest.mark.parametrize(
    ("kind", "number", "to_group"),
    [
        (UVICORN, signal.SIGTERM, False),
        pytest.param(UVICORN, signal.SIGINT, True, marks=pytest.mark.long),
        pytest.param(GRANIAN, signal.SIGTERM, False, marks=pytest.mark.long),
        pytest.param(GRANIAN, signal.SIGINT, True, marks=pytest.mark.long),
        pytest.param(HYPERCORN, signal.SIGTERM, False, marks=pytest.mark.long),
        pytest.param(HYPERCORN, signal.SIGINT, True, marks=pytest.mark.long),
        (HYPERCORN, signal.SIGTERM, True),
        pytest.param(HYPERCORN_TRIO, signal.SIGTERM, False, marks=pytest.mark.long),
        pytest.param(HYPERCORN_TRIO, signal.SIGTERM, True, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_every_worker_cleans_up(launch: Launch, kind: Kind, number: signal.Signals, to_group: bool) -> None:
    """Each of two workers is notified once and cleans up in full, though the other has exited long before."""
    server = launch(kind, "--workers 2")
    slow = hold_on_two_workers(server)
    server.signal(number, to_group=to_group)

    assert server.exit_code() == 0
    opened = {report.pid for report in server.all("opened")}
    assert sorted(report.pid for report in server.all("notified")) == sorted(opened)
    assert len(server.all("cleaned")) == len(server.all("opened"))
    assert [report.pid for report in server.all("stopped")][-1] == slow
    assert all(report.restored for report in server.all("stopped"))


@posix_only
@pytest.mark.xfail(
    not FORCED_EXIT,
    reason="Uvicorn then waits for the connections: https://github.com/python/cpython/issues/104344",
    raises=subprocess.TimeoutExpired,
)
def test_second_interrupt_forces_uvicorn_to_exit(launch: Launch) -> None:
    """On Uvicorn a second ^C still forces the exit, whatever is being cleaned up."""
    server = launch(UVICORN)
    server.hold(cleanup=NEVER)
    server.signal(signal.SIGINT)
    server.wait_for("notified")
    server.signal(signal.SIGINT)

    server.process.wait(WAIT if FORCED_EXIT else 3)
    server.exit_code()
    assert not server.all("stopped")


@posix_only
@pytest.mark.parametrize("kind", [GRANIAN, pytest.param(GRANIAN_UVLOOP, marks=pytest.mark.long)], ids=str)
def test_repeated_signals_leave_granian_draining(launch: Launch, kind: Kind) -> None:
    """On Granian more signals during the drain change nothing: the clean-up completes and the server exits."""
    server = launch(kind)
    server.hold(cleanup=0.05)
    connection = server.hold(cleanup=2)
    worker = server.wait_for("started").pid
    server.signal(signal.SIGINT, to_group=True)
    server.wait_for("cleaned")
    # Not to the parent, which has troubles of its own: it may be caught setting an Event that its handler sets.
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        os.kill(worker, number)

    assert b"bye" in read(connection)
    assert server.exit_code() == 0
    assert len(server.all("notified")) == 1


@posix_only
@pytest.mark.xfail(reason="Granian 2.8: WorkerSignal.set blocks at the third signal", raises=subprocess.TimeoutExpired)
def test_repeated_signals_leave_bare_granian_serving(launch: Launch) -> None:
    """Granian by itself goes on serving an open response after three signals."""
    server = launch(GRANIAN, WATCHES="0")
    server.get_ready()
    server.request("/?hold=0&last=2")
    server.wait_for("opened")
    worker = server.wait_for("started").pid
    for _ in range(3):
        os.kill(worker, signal.SIGINT)
        time.sleep(0.4)  # Two of a kind that come closer are one to the kernel, or to Python on a busy machine.

    server.process.wait(4)


@posix_only
def test_notified_when_uvicorn_reaches_its_request_limit(launch: Launch) -> None:
    """Uvicorn's limit_max_requests, which sends no signal, is a shutdown too."""
    server = launch(UVICORN, "--limit-max-requests 2")
    connection = server.hold(cleanup=0.05)
    server.request("/")

    assert b"bye" in read(connection)
    assert server.exit_code() == 0
    assert len(server.all("notified")) == 1
    assert len(server.all("cleaned")) == len(server.all("opened"))


@posix_only
@pytest.mark.parametrize("kind", [HYPERCORN, TRIO_TOO], ids=str)
def test_notified_when_hypercorn_replaces_a_worker(launch: Launch, kind: Kind) -> None:
    """Hypercorn's max_requests ends a worker, whose streams are notified."""
    server = launch(kind, "--max-requests 2")
    connection = server.hold(cleanup=0.05)
    worker = server.all("opened")[0].pid
    server.request("/")

    assert b"bye" in read(connection)
    assert server.wait_for("notified").pid == worker
    assert server.wait_for("stopped").pid == worker


@posix_only
@pytest.mark.parametrize("kind", [UVICORN, GRANIAN, HYPERCORN, TRIO_TOO], ids=str)
def test_installed_at_the_first_request(launch: Launch, kind: Kind) -> None:
    """A watch installed when the server has long started is notified all the same."""
    server = launch(kind, LAZY="1")
    connection = server.hold(cleanup=0.05)
    at = server.signal(signal.SIGTERM)

    assert b"bye" in read(connection)
    server.exit_code()
    assert server.since(at)[0] == "notified"
    assert len(server.all("notified")) == 1


@posix_only
@pytest.mark.parametrize("kind", [HYPERCORN, TRIO_TOO], ids=str)
def test_termination_of_a_hypercorn_worker_is_put_off_not_away(launch: Launch, kind: Kind) -> None:
    """A Hypercorn worker that alone is sent SIGTERM is notified, and is killed as without us when its delay is over.

    No bare worker is killed to compare: caught while it looks at the event that it shares with its parent, it takes
    that event's lock with it, and its parent waits for the lock for ever.
    """
    server = launch(kind, TERMINATION_DELAY="2")
    connection = server.hold(cleanup=0.05)
    at = time.monotonic()
    os.kill(server.all("started")[0].pid, signal.SIGTERM)

    assert b"bye" in read(connection)
    assert server.exit_code() == 0  # Hypercorn forgets how its last worker has ended
    assert server.since(at)[0] == "notified"
    assert len(server.all("notified")) == 1
    assert not server.all("stopped")
