"""Two workers behind each server that the page is not tested on: one is killed, and another goes on where it was."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import defaultdict
from contextlib import closing

import pytest

from tests.bounds import WAIT
from tests.example.processes import Event, answers, launched, read_feed
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.mark.parametrize(
    "server", ["granian", *(pytest.param(name, marks=pytest.mark.long) for name in ("hypercorn", "daphne"))]
)
def test_feed_goes_on_when_its_worker_is_killed(server: str, redis: RedisServer) -> None:
    """A client whose worker is killed resumes by its Last-Event-ID from another, and a new worker takes its place."""
    with launched(server, workers=2, redis_url=f"{redis.url.rpartition('/')[0]}/{len(server)}") as url:
        deadline = time.monotonic() + WAIT
        before: list[Event] = []
        for event in read_feed(url):
            before.append(event)
            if len(publishers(before)) == 2:
                os.kill(before[0].data["worker"]["pid"], signal.SIGKILL)
            assert time.monotonic() < deadline
        killed = before[0].data["worker"]
        assert killed["id"] in publishers(before)

        while not answers(f"{url}/kinds"):
            assert time.monotonic() < deadline
        with closing(read_feed(url)) as events:
            missed = next(event for event in events if event.type == "published")
        after: list[Event] = []
        with closing(read_feed(url, before[-1].id)) as events:
            for event in events:
                after.append(event)
                if len(publishers(after) - {killed["id"]}) == 2 and len(after) > 4:
                    break
                assert time.monotonic() < deadline
        assert after[0].data["worker"]["id"] != killed["id"]
        assert missed.data in [event.data for event in after]
        if before[1].type == "subscribed":  # where a client begins that was here before the first event
            del before[1]
        assert all(event.type == "published" for event in before[1:] + after[1:])
        numbers = defaultdict(list)
        for event in before[1:] + after[1:]:
            numbers[event.data["worker"]["id"]].append(event.data["number"])
        assert len(numbers) == 3
        for own in numbers.values():
            assert own == list(range(own[0], own[0] + len(own)))
        [newcomer] = publishers(after) - publishers(before)
        assert numbers[newcomer][0] == 1


def publishers(events: list[Event]) -> set[str]:
    return {event.data["worker"]["id"] for event in events if event.type == "published"}
