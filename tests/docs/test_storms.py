"""The table of storms says what the tests do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "sources"


def row(source: str) -> str:
    """The row about one of the sources."""
    _, _, storms = (ROOT / "docs" / "sources.md").read_text().partition("## Storms")
    (found,) = re.findall(rf"^\| `{source}` \|.*$", storms, re.MULTILINE)
    return str(found)


def numbers(name: str, *settings: str) -> list[int]:
    """What a test sets these to."""
    text = (TESTS / name).read_text()
    found = [re.search(rf"^\s*(?:.*, )?{setting} ?= ?(\d+)", text, re.MULTILINE) for setting in settings]
    assert all(found), settings
    return [int(match[1]) for match in found if match]


def test_the_one_on_redis() -> None:
    """Each topic has as many events."""
    workers, kills, clients, events = numbers("test_resume.py", "WORKERS", "KILLS", "CLIENTS", "EVENTS")
    text = row("RedisEventLog")
    assert f"{20 * events:,} events of 20 topics, to {clients} clients" in text
    assert f"any of {workers} processes | {kills} times a process" in text
    assert "range(20)" in (TESTS / "test_resume.py").read_text()


def test_the_one_in_postgresql() -> None:
    """The long one, that is."""
    text = (TESTS / "test_postgres_log.py").read_text()
    events, kills = max((int(events), int(kills)) for events, kills in re.findall(r"events=(\d+), kills=(\d+)", text))
    assert f"{4 * events:,} events of 4 topics, to 20 subscribers" in row("PostgresEventLog")
    assert f"killed {kills} times" in row("PostgresEventLog")
    assert "for number in range(4)]" in text
    assert "for seed in range(20):" in text


@pytest.mark.parametrize("source", ["RedisGroupQueue", "RedisQueue"])
def test_those_of_the_queues(source: str) -> None:
    """Both are streamed the same."""
    items, clients = numbers("test_queue_delivery.py", "ITEMS", "CLIENTS")
    assert f"{items:,} items, to {clients} clients" in row(source)
    assert "one of 2 processes is killed" in row(source)


def test_all_are_long() -> None:
    """So that one step runs them."""
    for name, test in (
        ("test_resume.py", "test_every_client_gets_every_event_exactly_once_and_in_order"),
        ("test_postgres_log.py", "test_a_long_storm_of_kills_loses_and_doubles_nothing"),
        ("test_queue_delivery.py", "test_every_item_is_delivered_whole_or_still_in_redis"),
        ("test_presence_of_processes.py", "test_who_was_with_a_process_that_is_killed_is_gone"),
    ):
        assert re.search(
            rf"^@pytest\.mark\.long\n(?:@.*\n)*async def {test}\b", (TESTS / name).read_text(), re.MULTILINE
        ), test
