"""What Prometheus reads of an application that runs in two workers, through Litestar's own controller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from tests.bounds import START, WAIT
from tests.ports import free_port

PAUSE = 0.02
"""Seconds between two questions: to ask without end takes the time of the workers that are to answer."""


@contextmanager
def two_workers(directory: Path) -> Iterator[httpx.Client]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.servers.metrics_app:app", "--workers", "2", "--port", str(port)]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT, limits=limits) as client:
            until_it_answers(client)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START)


def until_it_answers(client: httpx.Client) -> None:
    end = monotonic() + START
    while True:
        try:
            client.get("/metrics")
        except httpx.TransportError:
            assert monotonic() < end, "the server has not started"
            sleep(PAUSE)
        else:
            return


def scrape(client: httpx.Client) -> dict[tuple[str, str | None], float]:
    """What one of the workers tells."""
    end = monotonic() + WAIT
    # A scrape that finds a file which another worker has just made, and not yet filled, fails: prometheus-client.
    while (response := client.get("/metrics", headers={"Connection": "close"})).status_code != 200:
        assert monotonic() < end, response.text
    return samples_of(response.text)


def samples_of(text: str) -> dict[tuple[str, str | None], float]:
    """The samples of all handlers together, by name and reason."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    sums: dict[tuple[str, str | None], float] = defaultdict(float)
    for sample in samples:
        sums[sample.name, sample.labels.get("reason")] += sample.value
    return sums


def until(client: httpx.Client, **expected: float) -> dict[tuple[str, str | None], float]:
    """Scrapes until samples have these values."""
    end = monotonic() + WAIT
    while True:
        found = scrape(client)
        if all(found.get((name, None)) == value for name, value in expected.items()):
            return found
        assert monotonic() < end, found
        sleep(PAUSE)


def test_streams_of_two_workers_are_open_and_then_closed_with_their_reason(tmp_path: Path) -> None:
    """Whichever worker is scraped: the streams of both are added up."""
    with two_workers(tmp_path) as client:
        workers: set[str] = set()
        reading: list[Iterator[str]] = []  # one that is let go closes its response
        with ExitStack() as streams:
            while len(workers) < 2:
                assert len(reading) < 200, "all connections come to one worker"
                response = streams.enter_context(client.stream("GET", "/endless"))
                reading.append(response.iter_lines())
                line = next(reading[-1])
                while not line.startswith("data:"):
                    line = next(reading[-1])
                workers.add(line)
            count = len(reading)
            found = until(client, sse_streams_open=count, sse_events_sent_total=count)
            assert found["sse_streams_opened_total", None] == count
            assert ("sse_streams_closed_total", "client_disconnected") not in found
        found = until(client, sse_streams_open=0)
        assert found["sse_streams_closed_total", "client_disconnected"] == count
        assert found["sse_stream_duration_seconds_count", None] == count


def test_nothing_is_missing_of_streams_that_end_right_before_a_worker(tmp_path: Path) -> None:
    """Neither of those that a shutdown ends, nor of those that ended just before it."""
    with httpx.Client(timeout=WAIT) as staying, ExitStack() as streams, two_workers(tmp_path) as client:
        url = client.base_url.join("/endless")
        reading = [streams.enter_context(staying.stream("GET", url)).iter_text() for _ in range(10)]
        assert all(next(each) for each in reading)
        for _ in range(10):
            client.get("/short", headers={"Connection": "close"})
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    found = samples_of(generate_latest(registry).decode())
    assert found["sse_streams_opened_total", None] == found["sse_stream_duration_seconds_count", None] == 20
    assert found["sse_streams_closed_total", "shutdown"] == found["sse_streams_closed_total", "completed"] == 10
    assert found["sse_events_sent_total", None] == 20
