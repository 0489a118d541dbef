"""Servers x protocols x bodies x ways of leaving, in real processes."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.bounds import WAIT
from tests.servers.bodies import ENDLESS, EVENTS, FLOODS, MADE, SPECIES, Species
from tests.servers.clients import Leave, fetch
from tests.servers.http1 import Http1Stream
from tests.servers.kinds import ServerKind, kinds, parameters
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.questions import MEASURES, ask, crowd, settled, until_stuck
from tests.servers.report import Cell
from tests.servers.responses import Ending, ProtocolError

REPEATS = int(os.environ.get("SAFE_SSE_REPEATS", "6"))
ABORTS = int(os.environ.get("SAFE_SSE_ABORTS", "10000"))
MEASURING = FLAVOUR != "safe"
"""Litestar's own response is measured for comparison, and nothing is asserted of it."""

TIMED = MEASURING or bool(os.environ.get("SAFE_SSE_REPORT_DIR"))
"""Whether how soon matters, so that one way of leaving waits for the one before it."""

PATIENCE = 0.3 if MEASURING else WAIT
"""Seconds after which what has not been cleaned up counts as leaked."""

NOISE = re.compile(
    r"was never awaited|never retrieved|ResourceWarning|destroyed but it is pending|ignored GeneratorExit"
    r"|async_generator_athrow|Exception in callback"
)


@dataclass(frozen=True)
class Way:
    """A way of leaving, and the instant."""

    leave: Leave
    events: int = 1
    moment: str = ""

    @property
    def name(self) -> str:
        return f"{self.leave.value} {self.moment}".strip()


BEFORE_EVENT, BEFORE_RETURN = "before first event", "before handler returned"
WAYS = {
    "1.1": [
        Way(Leave.FIN, 1),
        Way(Leave.RST, EVENTS),
        Way(Leave.HALF_CLOSE, 1),
        Way(Leave.FIN, 0, BEFORE_EVENT),
        Way(Leave.RST, 0, BEFORE_RETURN),
    ],
    "2": [
        Way(Leave.RST_STREAM, 1),
        Way(Leave.FIN, EVENTS),
        Way(Leave.RST, 1),
        Way(Leave.GOAWAY, 1),
        Way(Leave.RST_STREAM, 0, BEFORE_EVENT),
        Way(Leave.RST_STREAM, 0, BEFORE_RETURN),
    ],
}


def problems_of(server: RunningServer, key: str, species: Species, reason: str, began: set[int]) -> list[str]:
    """What is wrong with the record of one visit that is over."""
    records = server.records
    counts = {what: len(records.of(key, what)) for what in ("began", "ending", "ended")}
    problems = []
    if counts["began"] not in began:
        problems.append(f"began {counts['began']} times")
    must_end = counts["began"] or (species.closes_unstarted and records.of(key, "returned"))
    if species.ends and must_end:
        # On trio it is left to chance whether the body or the listener has the first turn.
        parked = server.kind.trio and not species.closable and counts["ending"] == 0
        if counts["ending"] != 1 and not parked:
            problems.append(f"{counts['ending']} clean-ups of the body began")
        if counts["ended"] != 1 and not (server.kind.trio and counts["ended"] == 0):
            problems.append(f"{counts['ended']} clean-ups of the body were finished")
    story = records.story(key)
    registered = [what for what in story if what.startswith("registered")]
    if registered != ["registered-last", "registered-sync", "registered"]:
        problems.append(f"registered clean-ups that ran: {registered}")
    elif any(what not in ("entered", "returned") for what in story[: story.index("entered")]) or any(
        not what.startswith("registered") for what in story[story.index("registered-last") :]
    ):
        problems.append("a registered clean-up ran before the body had ended")
    if species in MADE:
        after = story[story.index("dependency-closed") + 1 :] if "dependency-closed" in story else []
        if story.count("dependency-closed") != 1 or after != registered:
            problems.append("what the stream depended on was not closed once, between the body and the clean-ups")
    reasons = {record["reason"] for what in set(registered) for record in records.of(key, what)}
    if reasons != {reason}:
        problems.append(f"reasons {reasons}, not {reason}")
    return [f"{key}: {problem} {story}" for problem in problems]


def ways_of(kind: ServerKind, species: Species) -> Iterator[Way]:
    """The ways of leaving that a server and a body know."""
    for way in WAYS[kind.protocol]:
        if way.moment == BEFORE_EVENT and not species.hushes:
            continue
        if way.leave is Leave.GOAWAY and kind.server == "granian":
            continue  # its streams go on; see below
        if kind.trio and way.leave is Leave.GOAWAY and not species.hushes:
            # Hypercorn's worker dies of its own BusyResourceError if it sends while it closes, and of these bodies an
            # event is always on its way.
            continue
        if way.events and (kind.trio or not species.closable):
            # For the same reason no event may be on its way on trio; and what cannot be closed has to be waiting.
            way = replace(way, events=EVENTS)
        yield way


async def visit(server: RunningServer, species: Species, way: Way, keys: Sequence[str]) -> dict[str, float]:
    """Come with all of those keys at once, leave at once; return when each left."""
    gate = keys[0]
    extra = {BEFORE_EVENT: "&quiet=true", BEFORE_RETURN: f"&gate={gate}"}.get(way.moment, "")
    async with await crowd(server, [f"/stream/{species.name}?key={key}{extra}" for key in keys]) as visitors:
        if way.moment:
            waits_for = "began" if way.moment == BEFORE_EVENT else "entered"
            assert await server.records.until_each(keys, waits_for), f"not {waits_for}: {keys}"
        else:
            await visitors.events(way.events)
        await visitors.leave(way.leave)
        left = {key: stream.left for key, stream in zip(keys, visitors.streams, strict=True)}
        if way.moment == BEFORE_RETURN:
            await ask(server, f"/gate/{gate}", "POST")
        await server.records.until_each(keys, "registered", within=PATIENCE)
    if not species.ends:
        await ask(server, "/release", "POST")
    return {key: at for key, at in left.items() if at is not None}


async def fill(server: RunningServer, species: Species, way: Way) -> tuple[Cell, list[str]]:
    """Visit, ``REPEATS`` times, and judge. How soon the clean-ups came is measured, and left to the report."""
    kind = server.kind
    began = {0, 1} if way.moment == BEFORE_RETURN else {1}
    keys = [f"{species.name}.{way.name.replace(' ', '-')}.{n}" for n in range(REPEATS)]
    left: dict[str, float] = {}
    size = 1 if species.alone else REPEATS
    for start in range(0, REPEATS, size):
        left |= await visit(server, species, way, keys[start : start + size])
    problems: list[str] = []
    beyond = []
    for key in keys:
        found = problems_of(server, key, species, "CLIENT_DISCONNECTED", began)
        problems += found
        if MEASURING:
            found = [] if server.records.of(key, "ended") and server.records.of(key, "registered") else ["leak"]
        if not found:
            # one that left while its handler ran can't be ended before that has returned
            since = max([left[key], *(r["at"] for r in server.records.of(key, "returned"))])
            beyond.append(server.records.of(key, "registered")[-1]["at"] - since - species.own)
    where = kind.server, kind.name, kind.protocol, species.name, way.name
    return Cell("leaving", *where, REPEATS, len(beyond), beyond), problems


def each_server(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", parameters(*names), indirect=True)


safe_only = pytest.mark.skipif(MEASURING, reason="Litestar's own response is only measured")


@pytest.fixture(scope="module")
def before(server: RunningServer) -> dict[str, Any]:
    """What the process uses after a few visits."""

    async def warm_up() -> dict[str, Any]:
        names = ["await_in_finally", "sync_sleep", "task_group", "completes"] * 5
        keys = [f"warm-up.{name}.{n}" for n, name in enumerate(names)]
        paths = [f"/stream/{name}?key={key}" for name, key in zip(names, keys, strict=True)]
        async with await crowd(server, paths) as visitors:
            await visitors.events(EVENTS)
        await server.records.until_each(keys, "registered", within=PATIENCE)
        return await settled(server)

    return asyncio.run(warm_up())


@each_server()
@pytest.mark.parametrize("species", ENDLESS if MEASURING else [*ENDLESS, *MADE], ids=lambda species: species.name)
def test_body_is_cleaned_up_exactly_once_whichever_way_its_client_leaves(
    server: RunningServer, species: Species, before: dict[str, Any], cells: list[Cell]
) -> None:
    """A client that leaves in any way, at any time, ends the body and then the clean-ups, once.

    Nothing but the leaving tells of it: heartbeats and timeouts are hours away.
    """

    async def one_way(way: Way) -> list[str]:
        try:
            cell, found = await fill(server, species, way)
        except (AssertionError, OSError, ProtocolError):
            if not MEASURING:
                raise
            kind, found = server.kind, []  # a busy body froze the worker
            cell = Cell("leaving", kind.server, kind.name, kind.protocol, species.name, way.name, REPEATS, 0)
        cells.append(cell)
        return found

    async def all_ways() -> list[str]:
        ways = ways_of(server.kind, species)
        if TIMED or species.alone or not species.ends:  # a release would let go of the others' threads
            return [problem for way in ways for problem in await one_way(way)]
        return [problem for found in await asyncio.gather(*map(one_way, ways)) for problem in found]

    problems = asyncio.run(all_ways())
    assert MEASURING or not problems, "\n".join([f"{len(problems)} problems", *problems[:20]])


ENDS = [
    ("completes", "", "COMPLETED", EVENTS),
    ("fails_first", "", "ERROR", 0),
    ("fails_middle", "", "ERROR", EVENTS),
    ("fails_in_cleanup", "", "ERROR", EVENTS),
    ("await_in_finally", "&max_lifetime=1", "MAX_LIFETIME", EVENTS),
    ("await_in_finally", "revoke", "REVOKED", EVENTS),
]


@safe_only
@each_server()
def test_stream_that_ends_while_its_client_stays_says_why(server: RunningServer, before: dict[str, Any]) -> None:
    """A body's end, its failure, a lifetime that is over and a revocation each have their own reason."""

    async def stay(number: int, name: str, extra: str, reason: str, events: int) -> list[str]:
        keys = [f"{name}.{reason}.{number}.{n}" for n in range(REPEATS)]
        paths = [f"/stream/{name}?key={key}{extra if extra.startswith('&') else ''}" for key in keys]
        async with await crowd(server, paths) as visitors:
            await asyncio.gather(*(visitor.events(events) for visitor in visitors.streams))
            if extra == "revoke":
                for key in keys:
                    await ask(server, f"/revoke?key={key}", "POST")
            endings = {await visitor.end() for visitor in visitors.streams}
            await server.records.until_each(keys, "registered")
        problems = [p for key in keys for p in problems_of(server, key, SPECIES[name], reason, {1})]
        if reason != "ERROR" and endings != {Ending.COMPLETE}:
            problems.append(f"{name} {reason}: the responses ended {endings}")
        return problems

    async def all_ends() -> list[str]:
        return [problem for number, end in enumerate(ENDS) for problem in await stay(number, *end)]

    problems = asyncio.run(all_ends())
    assert not problems, "\n".join(problems[:20])


@safe_only
@each_server()
@pytest.mark.parametrize("species", FLOODS, ids=lambda species: species.name)
def test_body_parked_at_its_yield_is_cleaned_up_when_its_client_leaves(
    server: RunningServer, species: Species, before: dict[str, Any], cells: list[Cell]
) -> None:
    """A client that stopped reading, so that the body waits at a ``yield``, can still leave."""
    limit = 1024 if server.kind.pushes_back else 24

    async def leave(how: Leave) -> list[str]:
        keys = [f"{species.name}.parked-{how.value}.{n}" for n in range(REPEATS)]
        problems, beyond = [], []
        for start in range(0, REPEATS, 5):
            some = keys[start : start + 5]
            paths = [f"/stream/{species.name}?key={key}&limit={limit}" for key in some]
            async with await crowd(server, paths, stalled=True) as visitors:
                await asyncio.gather(*(visitor.response() for visitor in visitors.streams))
                await until_stuck(server, some)
                await visitors.leave(how)
                await server.records.until_each(some, "registered")
                left = [visitor.left or 0 for visitor in visitors.streams]
            for key, at in zip(some, left, strict=True):
                found = problems_of(server, key, species, "CLIENT_DISCONNECTED", {1})
                problems += found
                if not found:
                    beyond.append(server.records.of(key, "registered")[-1]["at"] - at - species.own)
        kind, way = server.kind, f"{how.value} after stalling"
        cells.append(
            Cell(
                "leaving",
                kind.server,
                kind.name,
                kind.protocol,
                species.name,
                way,
                REPEATS,
                len(beyond),
                beyond,
            )
        )
        return problems

    ways = [Leave.RST] if server.kind.protocol == "1.1" else [Leave.RST_STREAM, Leave.RST]
    problems = [problem for how in ways for problem in asyncio.run(leave(how))]
    assert not problems, "\n".join(problems[:20])


@safe_only
@each_server()
def test_client_that_stays_but_stops_reading_is_given_up(server: RunningServer, before: dict[str, Any]) -> None:
    """A reader that takes nothing for ``send_timeout`` loses its stream, even if the server buffers all."""
    species, send_timeout = SPECIES["flood"], 0.3
    keys = [f"flood.stays.{n}" for n in range(5)]

    async def stay() -> None:
        paths = [f"/stream/flood?key={key}&send_timeout={send_timeout}" for key in keys]
        async with await crowd(server, paths, stalled=True) as visitors:
            await asyncio.gather(*(visitor.response() for visitor in visitors.streams))
            await server.records.until_each(keys, "registered")
            await ask(server, "/progress")

    asyncio.run(stay())
    problems = [p for key in keys for p in problems_of(server, key, species, "SEND_TIMEOUT", {1})]
    assert not problems, "\n".join(problems)


@safe_only
@pytest.mark.parametrize("server", kinds("granian-h2-uvloop"), indirect=True, ids=lambda kind: kind.name)
def test_stream_goes_on_after_goaway_where_the_server_says_nothing(
    server: RunningServer, before: dict[str, Any]
) -> None:
    """Granian lets streams run on after a client's GOAWAY, as RFC 9113 asks, and ends them with the connection."""
    key = "await_in_finally.goaway"

    async def leave_slowly() -> None:
        async with await crowd(server, [f"/stream/await_in_finally?key={key}&ping_interval=0.05"]) as visitors:
            (stream,) = visitors.streams
            await visitors.events(EVENTS)
            before_goaway = stream.parser.comments
            await visitors.leave(Leave.GOAWAY)
            with anyio.fail_after(WAIT):
                while stream.parser.comments < before_goaway + 3:
                    await stream._more()
            assert not server.records.of(key, "ending")
        assert await server.records.until_each([key], "registered")

    asyncio.run(leave_slowly())
    assert not problems_of(server, key, SPECIES["await_in_finally"], "CLIENT_DISCONNECTED", {1})


@safe_only
@each_server()
def test_head_never_starts_the_body(server: RunningServer, before: dict[str, Any]) -> None:
    """HEAD is answered with headers alone; the body never begins, what the handler registered is cleaned up."""
    keys = [f"await_in_finally.head.{n}" for n in range(5)]

    async def ask_for_heads() -> None:
        for key in keys:
            path = f"/stream/await_in_finally?key={key}"
            response, body = await fetch(server.address, server.kind.protocol, path, tls=server.tls, method="HEAD")
            assert (response.status, body) == (200, b"")
            assert response.headers["content-type"].startswith("text/event-stream")
        assert await server.records.until_each(keys, "registered")

    asyncio.run(ask_for_heads())
    for key in keys:
        assert server.records.story(key) == [
            "entered",
            "returned",
            "registered-last",
            "registered-sync",
            "registered",
        ]


@safe_only
@each_server()
def test_handler_that_fails_has_its_clean_ups_run(server: RunningServer, before: dict[str, Any]) -> None:
    """What a handler registered before it raised is cleaned up, and the client is told of the error."""
    keys = [f"await_in_finally.raises.{n}" for n in range(5)]

    async def ask_for_errors() -> None:
        for key in keys:
            path = f"/stream/await_in_finally?key={key}&fail=true"
            response, _ = await fetch(server.address, server.kind.protocol, path, tls=server.tls)
            assert response.status == 500
        assert await server.records.until_each(keys, "registered")

    asyncio.run(ask_for_errors())
    for key in keys:
        assert server.records.story(key) == ["entered", "registered-last", "registered-sync", "registered"]


def assert_nothing_is_left(server: RunningServer, before: dict[str, Any], after: dict[str, Any]) -> None:
    assert {name: after[name] for name in MEASURES if after[name] > before[name]} == {}, after["task_names"]
    assert after["live"] == 0
    twice = {
        (record["key"], record["what"])
        for record in server.records.lines
        if record["key"] and len(server.records.of(record["key"], record["what"])) > 1
    }
    assert not twice
    unclean = [r["key"] for r in server.records.named("entered") if not server.records.of(r["key"], "registered")]
    assert not unclean
    noise = [line for line in server.output().splitlines() if NOISE.search(line)]
    assert not noise, "\n".join(noise[:20])


@safe_only
@each_server()
def test_server_holds_nothing_after_the_matrix(server: RunningServer, before: dict[str, Any]) -> None:
    """Once all have left there is no stream, no task, no descriptor more than before, and nothing ran twice."""
    after = asyncio.run(settled(server, before))
    server.records.read()
    assert_nothing_is_left(server, before, after)


SOAK_BODIES = [
    "await_in_finally",
    "plain_finally",
    "nested",
    "task_group",
    "context_variable",
    "Countdown",
    "completes",
]


@safe_only
@pytest.mark.long
@pytest.mark.parametrize("kind", parameters("uvicorn-h1-httptools-uvloop"))
def test_ten_thousand_aborts_leave_nothing(kind: Any, tmp_path: Path) -> None:
    """After 10,000 aborts at random instants a worker has the tasks, descriptors and memory it had before."""
    rng = random.Random(20240229)

    async def one(server: RunningServer, key: str) -> None:
        name = rng.choice(SOAK_BODIES)
        key = f"{key}.{name}"
        instant, how = rng.random(), rng.choice([Leave.FIN, Leave.RST])
        stream = await Http1Stream.open(server.address, f"/stream/{name}?key={key}&own=0.001")
        if instant < 0.25:  # while the request is on its way, or is being handled
            await asyncio.sleep(instant / 50)
        else:  # after some of the events
            await stream.events(int(instant * (EVENTS + 1)))
        stream.wire.close() if how is Leave.FIN else stream.wire.reset()

    async def many(server: RunningServer, prefix: str, count: int) -> None:
        numbers = iter(range(count))

        async def client() -> None:
            for n in numbers:
                await one(server, f"{prefix}.{n}")

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(client)

    async def soak(server: RunningServer) -> tuple[dict[str, Any], dict[str, Any]]:
        await many(server, "warm-up", max(ABORTS // 5, 100))
        before = await settled(server)
        await many(server, "abort", ABORTS)
        return before, await settled(server, before)

    with running(kind, tmp_path) as server:
        before, after = asyncio.run(soak(server))
        server.records.read()
        assert len(server.records.named("entered")) > ABORTS * 0.9
        assert_nothing_is_left(server, before, after)
        for record in server.records.named("began"):
            if record["key"].endswith(".completes"):
                continue  # it may be in its `finally` already when its one cancellation comes
            assert len(server.records.of(record["key"], "ended")) == 1, server.records.story(record["key"])
        assert after["rss"] - before["rss"] < 4 * 2**20
