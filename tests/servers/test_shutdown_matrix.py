"""Servers x signals x workers with twenty streams open, in real processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

import anyio
import pytest

from tests.bounds import WAIT
from tests.servers.bodies import CLEANUP_SECONDS, CLEANUP_TIMEOUT, EVENTS, MADE, SPECIES
from tests.servers.clients import Crowd, fetch
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import (
    UVICORN_IN_THREAD,
    UVICORN_WITH_SMALL_BUFFERS,
    VARIANTS,
    ServerKind,
    kinds,
    long_if,
    parameters,
)
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.questions import ask, crowd, until_stuck
from tests.servers.report import Cell
from tests.servers.responses import Ending, ProtocolError, Response
from tests.servers.streams import Stream

MEASURING = FLAVOUR != "safe"
STILL_THERE = f"still there after {WAIT:.0f} s"
safe_only = pytest.mark.skipif(MEASURING, reason="Litestar's own response is only measured")

BODIES = [
    *[
        "await_in_finally",
        "plain_finally",
        "nested",
        "task_group",
        "cancel_scope",
        "timeouts",
        "context_variable",
    ],
    *[
        "swallows",
        "stubborn",
        "raises_in_cleanup",
        "Countdown",
        "BareCountdown",
        "sync_sleep",
        "returns_generator",
    ],
    "farewell",
    *(["task_group", "Countdown", "await_in_finally", "plain_finally"] if MEASURING else [each.name for each in MADE]),
    "sync_sleep",
]
assert len(BODIES) == 20

REPRESENTATIVES = [
    "uvicorn-h1-h11-asyncio",
    "uvicorn-h1-httptools-uvloop",
    "granian-h1-asyncio",
    "granian-h2-uvloop",
    "hypercorn-h1-asyncio",
    "hypercorn-h2-uvloop",
    "hypercorn-h1-trio",
]
"""One of each server and protocol, each event loop among them."""
OF_WORKERS = ["uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", "hypercorn-h1-asyncio", "hypercorn-h1-trio"]
ALL = [*REPRESENTATIVES, "hypercorn-h2-trio", "daphne-h1", "daphne-h2"]
LIKE_HTTP1 = ["hypercorn-h2-uvloop", "hypercorn-h1-trio"]
"""Where neither a stream's connection nor its loop makes a difference to Hypercorn."""
WITH_A_PARENT = ["granian-h1-asyncio", "hypercorn-h1-asyncio"]
"""Those of which one worker has a parent, too: a group is interrupted as well in the test of a second ^C."""
LIKE_GRANIAN = "uvicorn-h1-httptools-uvloop"
"""Where its workers are told to stop in the same way."""


def paths_of(kind: ServerKind, bodies: Sequence[str], extra: str = "") -> dict[str, str]:
    """Return the path of each visit by its key."""
    limit = f"&limit={200 if kind.protocol == '1.1' else 16}"
    keys = [f"{body}.{n}" for n, body in enumerate(bodies)]
    return {key: f"/stream/{key.split('.')[0]}?key={key}{limit}{extra}" for key in keys}


@contextlib.asynccontextmanager
async def visited(server: RunningServer, paths: dict[str, str]) -> AsyncIterator[Crowd]:
    """All of the streams open, and each has had an event."""
    kind = server.kind
    async with await Crowd.open(server.address, kind.protocol, list(paths.values()), tls=server.tls) as crowd:
        await crowd.events(1)
        yield crowd


def problems_of(server: RunningServer, keys: Sequence[str], *, ended: bool = True) -> tuple[int, list[str]]:
    """Count the streams that were cleaned up as they should, and tell what is wrong with the rest."""
    records = server.records
    cleaned, problems = 0, []
    for key in keys:
        story = records.story(key)
        found = []
        counts = Counter(story)
        if ended and SPECIES[key.split(".")[0]].ends:
            allowed = {0, 1} if server.kind.trio else {1}
            if counts["ending"] != 1 or counts["ended"] not in allowed:
                found.append("the body was not ended exactly once")
        registered = [what for what in story if what.startswith("registered")]
        if registered != ["registered-last", "registered-sync", "registered"]:
            found.append("the registered clean-ups did not run exactly once and in order")
        elif story[-3:] != registered:
            found.append("a clean-up ran before the body had ended")
        elif SPECIES[key.split(".")[0]] in MADE and story[-4] != "dependency-closed":
            found.append("what the stream depended on was not closed between the body and the clean-ups")
        reasons = {record["reason"] for what in registered for record in records.of(key, what)}
        if reasons != {"SHUTDOWN"}:
            found.append(f"reasons {reasons}")
        cleaned += not found
        problems += [f"{key}: {problem} {story}" for problem in found]
    if server.kind.has_lifespan:
        hooks = {record["pid"]: record["at"] for record in records.named("on-shutdown")}
        for record in [r for r in records.lines if r["key"]]:
            if record["at"] > hooks.get(record["pid"], 0):
                problems.append(f"{record['key']}: {record['what']} without or after the worker's on_shutdown")
    return cleaned, problems


async def stopped(
    server: RunningServer, paths: dict[str, str], stop: Callable[[], float]
) -> tuple[float | None, list[str], int]:
    """Open the streams, stop the server, and see how it went."""
    async with visited(server, paths):
        at = stop()
        gone = await server.wait_exit()
    server.records.read()
    cleaned, problems = problems_of(server, list(paths))
    if gone is None:
        problems.insert(0, STILL_THERE)
    return None if gone is None else gone - at, problems, cleaned


def assert_none(problems: Sequence[str], server: RunningServer) -> None:
    assert not problems, "\n".join([*problems[:20], server.output()[-3000:]])


def each_kind(*names: str, long: Collection[str] = ()) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", parameters(*names, long=long))


@pytest.mark.parametrize(
    ("number", "kind", "workers"),
    [
        pytest.param(
            number,
            kind,
            workers,
            id=f"{number.name}-{kind.name}-{workers}-workers",
            marks=long_if(
                kind.name in VARIANTS
                or (number is signal.SIGINT and (workers == 2 or kind.server != "daphne"))
                or (workers == 2 and kind.name not in WITH_A_PARENT)  # Uvicorn's parent: see ^C
            ),
        )
        for kind in kinds(*ALL)
        for number in (signal.SIGTERM, signal.SIGINT)
        for workers in (1, 2)
        if workers == 1 or kind.server != "daphne"  # which has no workers
    ],
)
def test_server_told_to_stop_cleans_up_every_stream_first(
    kind: ServerKind, number: signal.Signals, workers: int, tmp_path: Path, cells: list[Cell]
) -> None:
    """A signal ends all streams and cleans up, then the application shuts down, and the process is soon gone."""
    with running(kind, tmp_path, workers=workers) as server:
        paths = paths_of(kind, BODIES)
        took, problems, cleaned = asyncio.run(stopped(server, paths, lambda: server.signal(number)))
        beyond = [] if took is None else [took - CLEANUP_TIMEOUT]
        way = f"{number.name}, {workers} worker{'s' * (workers > 1)}"
        cells.append(Cell("shutdown", kind.server, kind.name, kind.protocol, "all", way, 20, cleaned, beyond))
        if not MEASURING:
            assert_none(problems, server)


@safe_only
@each_kind(*OF_WORKERS, long=[*WITH_A_PARENT, "hypercorn-h1-trio"])
@pytest.mark.parametrize(
    "workers", [pytest.param(1, id="1-worker", marks=pytest.mark.long), pytest.param(2, id="2-workers")]
)
def test_interrupt_from_the_terminal_reaches_the_whole_group(kind: ServerKind, workers: int, tmp_path: Path) -> None:
    """^C goes to parent and workers alike, and still each stream is cleaned up once."""
    with running(kind, tmp_path, workers=workers) as server:
        stop = lambda: server.signal_group(signal.SIGINT)  # noqa: E731
        assert_none(asyncio.run(stopped(server, paths_of(kind, BODIES), stop))[1], server)


@safe_only
@each_kind(*REPRESENTATIVES, long=["hypercorn-h2-uvloop", "hypercorn-h1-trio"])
@pytest.mark.parametrize(
    "group", [pytest.param(False, id="parent", marks=pytest.mark.long), pytest.param(True, id="group")]
)
def test_second_interrupt_does_not_cut_clean_ups_short(kind: ServerKind, group: bool, tmp_path: Path) -> None:
    """A second ^C in the middle of the clean-ups neither skips one, nor runs one twice, nor hangs the exit."""

    async def interrupt_twice(server: RunningServer) -> list[str]:
        interrupt = server.signal_group if group else server.signal
        paths = paths_of(kind, ["await_in_finally"] * 10 + ["task_group"] * 10, "&own=0.3")
        async with visited(server, paths):
            interrupt(signal.SIGINT)
            assert await server.records.until_each(list(paths), "ending"), server.output()[-3000:]
            interrupt(signal.SIGINT)
            gone = await server.wait_exit()
        server.records.read()
        _, problems = problems_of(server, list(paths))
        problems = [p for p in problems if "on_shutdown" not in p]  # Uvicorn skips it when told twice
        if gone is None:
            problems.insert(0, STILL_THERE)
        return problems

    with running(kind, tmp_path) as server:
        assert_none(asyncio.run(interrupt_twice(server)), server)


@safe_only
@each_kind("uvicorn-h1-h11-asyncio", "uvicorn-h1-httptools-uvloop", "granian-h1-asyncio", long=["granian-h1-asyncio"])
def test_reloading_parent_told_to_stop_leaves_no_stream_and_no_child(kind: ServerKind, tmp_path: Path) -> None:
    """With ``--reload`` the signal reaches a supervisor, and its child still cleans up."""
    (tmp_path / "watched").mkdir()
    with running(kind, tmp_path, reload=tmp_path / "watched") as server:
        stop = lambda: server.signal(signal.SIGTERM)  # noqa: E731
        assert_none(asyncio.run(stopped(server, paths_of(kind, BODIES), stop))[1], server)


async def respawned(server: RunningServer, workers: int, trigger: Callable[[], object]) -> list[str]:
    """Have the workers replaced, and see that the old ones cleaned up and the new ones serve."""
    kind = server.kind
    paths = paths_of(kind, BODIES)
    async with visited(server, paths):
        old = {record["pid"] for record in server.records.named("startup")}
        trigger()
        await server.records.until_each(list(paths), "registered")
        await server.records.until(lambda: old <= {record["pid"] for record in server.records.named("on-shutdown")})
        await anyio.to_thread.run_sync(server.wait_ready, workers, workers)
        _, problems = problems_of(server, list(paths))
    # the replacement answers
    key = "completes.afterwards"
    async with await Crowd.open(server.address, kind.protocol, [f"/stream/completes?key={key}"]) as crowd:
        await crowd.events(EVENTS)
    return problems


@safe_only
@each_kind("granian-h1-asyncio", "granian-h2-uvloop", LIKE_GRANIAN, long=[LIKE_GRANIAN])
def test_respawned_workers_clean_up_and_are_replaced(kind: ServerKind, tmp_path: Path) -> None:
    """SIGHUP replaces the workers: the old ones clean up all their streams, and new ones answer."""
    workers = 2 if kind.server == "uvicorn" else 1
    with running(kind, tmp_path, workers=workers) as server:
        problems = asyncio.run(respawned(server, workers, lambda: server.signal(signal.SIGHUP)))
        assert_none(problems, server)


@safe_only
@each_kind("uvicorn-h1-h11-asyncio", "uvicorn-h1-httptools-uvloop", "granian-h1-asyncio")
def test_change_of_a_file_replaces_the_worker_and_its_streams_are_cleaned_up(kind: ServerKind, tmp_path: Path) -> None:
    """With ``--reload`` a changed file ends the streams of the old worker."""
    watched = tmp_path / "watched"
    watched.mkdir()
    with running(kind, tmp_path, reload=watched) as server:
        trigger = lambda: (watched / "changed.py").write_text("# changed\n")  # noqa: E731
        assert_none(asyncio.run(respawned(server, 1, trigger)), server)


@safe_only
@each_kind(*ALL, long=LIKE_HTTP1)
def test_farewell_reaches_its_client(kind: ServerKind, tmp_path: Path) -> None:
    """A body that waits for the closing has the time to say goodbye, and its response ends whole."""

    async def say_goodbye(server: RunningServer) -> None:
        paths = paths_of(kind, ["farewell"] * 5)
        async with visited(server, paths) as crowd:
            await crowd.events(EVENTS)
            server.signal(signal.SIGTERM)
            for stream in crowd.streams:
                ending = await stream.end()
                assert stream.data == [*map(str, range(EVENTS)), "farewell"], server.output()[-3000:]
                assert ending is Ending.COMPLETE or not kind.ends_streams_at_shutdown
            assert await server.wait_exit()

    with running(kind, tmp_path) as server:
        asyncio.run(say_goodbye(server))


@safe_only
@each_kind(*ALL, long=LIKE_HTTP1)
def test_stream_asked_for_during_shutdown_is_refused(kind: ServerKind, tmp_path: Path) -> None:
    """Once the streams are being ended a new one is told to come back, in its client's terms, or not accepted."""

    async def come_late(server: RunningServer) -> list[tuple[int, bool]]:
        answers: list[tuple[int, bool]] = []

        def note(response: Response, body: bytes) -> None:
            in_time = int(response.headers.get("retry-after", "-1")) >= 0
            answers.append((response.status, in_time if response.status == 503 else body.startswith(b"retry: ")))

        paths = paths_of(kind, ["await_in_finally"] * 3, "&own=0.5")
        async with visited(server, paths) as crowd:
            idle = None
            if kind.protocol == "1.1":
                idle = await Http1Stream.open(server.address, "/progress")
                await idle.end()
            server.signal(signal.SIGTERM)
            assert await server.records.until_each(list(paths), "ending"), server.output()[-3000:]
            late = [f"/stream/completes?key=late.{n}" for n in range(4)]
            for path in late[:2]:
                with contextlib.suppress(OSError, ProtocolError, anyio.EndOfStream):
                    note(*await fetch(server.address, kind.protocol, path, tls=server.tls))
            with contextlib.suppress(OSError, ProtocolError):
                late_stream: Stream
                if idle is not None:
                    late_stream = idle_again = Http1Stream(idle.wire, late[2], "GET")
                    await idle_again.ask(late[2])
                else:
                    late_stream = await crowd._connections[0].get(late[2])
                response = await late_stream.response()
                await late_stream.end()
                note(response, bytes(late_stream.parser.raw))
            if idle is not None:
                idle.wire.close()
            assert await server.wait_exit()
        server.records.read()
        return answers

    with running(kind, tmp_path) as server:
        answers = asyncio.run(come_late(server))
        # Over HTTP/1.1 these clients accept `text/event-stream`, as an `EventSource` does.
        assert set(answers) <= {(200 if kind.protocol == "1.1" else 503, True)}, answers
        assert not [record for record in server.records.named("began") if record["key"].startswith("late")]


@safe_only
@each_kind(*ALL, long=LIKE_HTTP1)
def test_clients_that_stopped_reading_do_not_hold_up_the_exit(
    kind: ServerKind, tmp_path: Path, cells: list[Cell]
) -> None:
    """Bytes that nobody takes are given up: the bodies are cleaned up, and the process goes."""

    async def stop_when_stuck(server: RunningServer) -> list[str]:
        paths = paths_of(kind, ["flood"] * 3 + ["flood_in_task_group"] * 3)
        async with await crowd(server, list(paths.values()), stalled=True) as visitors:
            await asyncio.gather(*(stream.response() for stream in visitors.streams))
            await until_stuck(server, list(paths))
            at = server.signal(signal.SIGTERM)
            gone = await server.wait_exit()
        server.records.read()
        cleaned, problems = problems_of(server, list(paths))
        if gone is None:
            problems.insert(0, STILL_THERE)
        beyond = [] if gone is None else [gone - at - CLEANUP_SECONDS]
        where = kind.server, kind.name, kind.protocol
        cells.append(Cell("shutdown", *where, "floods", "SIGTERM, none reads", len(paths), cleaned, beyond))
        return problems

    with running(kind, tmp_path) as server:
        assert_none(asyncio.run(stop_when_stuck(server)), server)


@safe_only
def test_small_backlog_of_a_client_that_stopped_reading_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    """Bytes that the server has taken, but cannot get rid of, are given up as well, though no ``send()`` waits."""

    async def stop_with_backlog(server: RunningServer) -> list[str]:
        path = "/stream/backlog?key={}&limit={}"
        async with await crowd(server, [path.format("backlog.probe", 4096)], stalled=True):
            most = (await until_stuck(server, ["backlog.probe"]))["backlog.probe"]
        keys = ["backlog.1", "backlog.2", "backlog.3"]
        # Uvicorn's `send()` waits from 64 KiB on: half of that stays with it, and nothing waits.
        paths = {key: path.format(key, most - 32) for key in keys}
        async with await crowd(server, list(paths.values()), stalled=True):
            assert {(await until_stuck(server, keys))[key] for key in keys} == {most - 32}
            server.signal(signal.SIGTERM)
            gone = await server.wait_exit()
        server.records.read()
        problems = problems_of(server, keys)[1]
        if gone is None:
            problems.insert(0, STILL_THERE)
        return problems

    with running(UVICORN_WITH_SMALL_BUFFERS, tmp_path) as server:
        assert_none(asyncio.run(stop_with_backlog(server)), server)


@safe_only
@each_kind(*OF_WORKERS, "daphne-h1", long=["hypercorn-h1-trio"])
def test_thread_that_is_blocked_for_good_does_not_hold_up_the_exit(kind: ServerKind, tmp_path: Path) -> None:
    """A body that blocks its thread is abandoned after its time, its clean-ups run, and the process goes."""
    with running(kind, tmp_path) as server:
        paths = paths_of(kind, ["sync_blocked"] * 3 + ["await_in_finally"] * 3)
        stop = lambda: server.signal(signal.SIGTERM)  # noqa: E731
        assert_none(asyncio.run(stopped(server, paths, stop))[1], server)


@safe_only
@pytest.mark.long  # as `tests/integration` does with one stream
def test_uvicorn_in_a_thread_told_to_exit_cleans_up(tmp_path: Path) -> None:
    """Where no signal arrives, Uvicorn's own decision to exit ends the streams."""
    with running(UVICORN_IN_THREAD, tmp_path) as server:
        stop = lambda: server.signal(signal.SIGTERM)  # noqa: E731
        problems = asyncio.run(stopped(server, paths_of(server.kind, BODIES), stop))[1]
        assert_none(problems, server)


@safe_only
@pytest.mark.long  # as `tests/integration` does with one stream
@each_kind("uvicorn-h1-httptools-uvloop")
def test_uvicorn_that_has_served_its_last_request_cleans_up(kind: ServerKind, tmp_path: Path) -> None:
    """``--limit-max-requests`` stops the server without any signal, and the streams are ended as by one."""

    async def ask_once_too_often(server: RunningServer) -> list[str]:
        paths = paths_of(kind, BODIES)
        async with visited(server, paths):
            await ask(server, "/progress")  # the first response that is complete
            gone = await server.wait_exit()
        server.records.read()
        problems = problems_of(server, list(paths))[1]
        if gone is None:
            problems.insert(0, STILL_THERE)
        return problems

    with running(kind, tmp_path, extra=["--limit-max-requests", "1"]) as server:
        assert_none(asyncio.run(ask_once_too_often(server)), server)
