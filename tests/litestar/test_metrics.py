"""Metrics and traces: what is open, why it ended, how much was sent, and one span for each stream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from threading import Event
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import prometheus_client.metrics
import pytest
from litestar import Litestar, get
from litestar.exceptions import NotFoundException
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from litestar_safe_sse import (
    InvalidFieldError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SafeSSEPlugin,
    StreamContext,
    _measuring,
    sse,
)
from litestar_safe_sse._core import watch
from litestar_safe_sse._instruments import INSTRUMENTS
from litestar_safe_sse._measuring import StreamMetrics
from litestar_safe_sse.metrics import OpenTelemetryMetrics, OpenTelemetryTracing, PrometheusMetrics
from litestar_safe_sse.sources import EventLogStatistics, MemoryEventLog, QueueStatistics
from litestar_safe_sse.testing import OpenStream, open_stream
from tests.bounds import START, WAIT

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, tuple[str, ...]], float]

NAMES = {
    "sse_streams_open", "sse_streams_opened_total", "sse_streams_closed_total", "sse_streams_refused_total",
    "sse_events_sent_total", "sse_bytes_sent_total", "sse_heartbeats_total", "sse_stream_duration_seconds",
    "sse_first_event_seconds", "sse_cleanup_seconds", "sse_cleanup_failures_total", "sse_sends_blocked",
}  # fmt: skip


def fail() -> None:
    raise LookupError("on purpose")


def application(*observers: Any, middleware: Any = (), **settings: Any) -> tuple[Litestar, SafeSSEPlugin]:
    """An application with an endless stream, one that ends, and one whose cleanup fails."""
    plugin = SafeSSEPlugin(SafeSSEConfig(**{"ping_interval": None, **settings}))

    @get("/endless")
    async def endless() -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield "first"
            await anyio.sleep_forever()

        return SafeServerSentEvent(body())

    @get("/fifty")
    async def fifty() -> SafeServerSentEvent:
        async def body() -> AsyncIterator[int]:
            for number in range(50):
                yield number
                await anyio.sleep(0.001)

        return SafeServerSentEvent(body())

    @get("/spans")
    async def spans(stream: StreamContext) -> SafeServerSentEvent:
        tracer = trace.get_tracer("test", tracer_provider=PROVIDERS[-1])

        async def body() -> AsyncIterator[str]:
            with tracer.start_as_current_span("query"):
                yield "one"

        def clean() -> None:
            tracer.start_span("clean").end()

        stream.callback(clean)
        return SafeServerSentEvent(body())

    @get("/unclean")
    async def unclean(stream: StreamContext) -> SafeServerSentEvent:
        stream.callback(fail)
        return SafeServerSentEvent("one")

    for observer in observers:
        plugin.streams.observe(observer)
    app = Litestar([endless, fifty, spans, unclean], plugins=[plugin], middleware=list(middleware))
    return app, plugin


PROVIDERS: list[TracerProvider] = []


def scrape(registry: CollectorRegistry) -> Samples:
    """What Prometheus reads: samples by name and the values of their labels, ``handler`` by its last word."""
    found: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = {**sample.labels, "handler": sample.labels.get("handler", "").rpartition(".")[2]}
                found[sample.name, tuple(value for value in labels.values() if value)] = sample.value
    return found


async def test_prometheus_sees_a_stream_open_and_then_closed_with_its_reason() -> None:
    """And what it has sent: the bytes and events that its client has."""
    registry = CollectorRegistry()
    app, _ = application(PrometheusMetrics(registry))
    async with open_stream(app, "GET", "/endless") as stream:
        await stream.next()
        found = scrape(registry)
        assert found["sse_streams_open", ("endless",)] == found["sse_events_sent_total", ("endless",)] == 1
        assert found["sse_heartbeats_total", ("endless",)] == 0  # so that its first is seen as a rise
        await stream.disconnect()
        body = len(bytes(stream._exchange.body))
    found = scrape(registry)
    assert found["sse_streams_open", ("endless",)] == 0
    assert found["sse_streams_opened_total", ("endless",)] == 1
    assert found["sse_streams_closed_total", ("endless", "client_disconnected")] == 1
    assert found["sse_events_sent_total", ("endless",)] == 1
    assert found["sse_bytes_sent_total", ("endless",)] == body
    for histogram in ("sse_stream_duration_seconds", "sse_first_event_seconds", "sse_cleanup_seconds"):
        assert found[f"{histogram}_count", ("endless",)] == 1


async def test_the_names_are_those_that_are_documented() -> None:
    """No more and no fewer; each is told apart by its handler, and ends by their reason."""
    assert {f"{each.name}_total" if each.kind == "counter" else each.name for each in INSTRUMENTS} == NAMES
    assert {label for each in INSTRUMENTS for label in each.labels} == {"handler", "reason"}


async def test_heartbeats_refusals_and_failed_cleanups_are_counted() -> None:
    """Each by itself: a heartbeat is no event."""
    registry = CollectorRegistry()
    app, _ = application(PrometheusMetrics(registry), ping_interval=0.02, max_streams=1)
    async with open_stream(app, "GET", "/endless") as stream:
        await stream.next()
        await stream.wait_comment()
        async with open_stream(app, "GET", "/endless", headers={"Accept": "*/*"}) as refused:
            assert refused.status == 503
    async with open_stream(app, "GET", "/unclean") as stream:
        await stream.read()
        await stream.wait_closed()
    found = scrape(registry)
    assert found["sse_heartbeats_total", ("endless",)] >= 1
    assert found["sse_events_sent_total", ("endless",)] == 1
    refusals = {labels for name, labels in found if name == "sse_streams_refused_total"}
    assert {frozenset(labels) for labels in refusals} == {frozenset({"endless", "max_streams"})}
    assert found["sse_cleanup_failures_total", ("unclean",)] == 1


async def storm(count: int) -> None:
    """Clients that leave at once: what is measured is what the registry has counted."""
    registry = CollectorRegistry()
    app, plugin = application(PrometheusMetrics(registry))
    got: list[OpenStream] = []

    async def visit() -> None:
        for _ in range(count // 20):
            async with open_stream(app, "GET", "/endless", timeout=WAIT) as stream:
                if len(got) % 2:
                    await stream.next(WAIT)
                got.append(stream)
                await stream.disconnect()

    async with app.lifespan():
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(visit)
        counts = plugin.streams.statistics()
    found = scrape(registry)
    closed = {frozenset(labels): value for (name, labels), value in found.items() if name == "sse_streams_closed_total"}
    assert closed == {frozenset({"endless", str(reason)}): value for reason, value in counts.closed.items()}
    assert sum(closed.values()) == found["sse_streams_opened_total", ("endless",)] == counts.opened == count
    assert found["sse_streams_open", ("endless",)] == counts.open == 0
    assert found["sse_stream_duration_seconds_count", ("endless",)] == count


async def test_metrics_add_up_after_a_storm_of_aborts() -> None:
    """None is counted twice, and none is missing."""
    await storm(200)


@pytest.mark.long
async def test_metrics_add_up_after_a_storm_of_ten_thousand_aborts() -> None:
    """As after a small one."""
    await storm(10_000)


async def test_a_scrape_may_come_from_another_thread() -> None:
    """At any moment: counters only rise, and in the end they are what the registry has counted."""
    registry, stop = CollectorRegistry(), Event()
    app, plugin = application(PrometheusMetrics(registry))
    scrapes: list[Samples] = []

    def keep_scraping() -> None:
        while not stop.wait(0.01):
            scrapes.append(scrape(registry))

    async def visit() -> None:
        for _ in range(4):
            async with open_stream(app, "GET", "/fifty", timeout=WAIT) as stream:
                await stream.read()
                await stream.wait_closed()

    with ThreadPoolExecutor() as threads:
        scraping = threads.submit(keep_scraping)
        try:
            async with app.lifespan(), anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(visit)
        finally:
            stop.set()
        scraping.result(WAIT)
    scrapes.append(scrape(registry))
    for sample in (("sse_events_sent_total", ("fifty",)), ("sse_bytes_sent_total", ("fifty",))):
        values = [found.get(sample, 0) for found in scrapes]
        assert values == sorted(values)
    assert scrapes[-1]["sse_events_sent_total", ("fifty",)] == 5 * 4 * 50
    assert scrapes[-1]["sse_streams_closed_total", ("fifty", "completed")] == plugin.streams.statistics().opened == 20


async def test_figures_are_handed_on_while_nobody_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As to the files by which another process tells them, or to what is exported now and then."""
    monkeypatch.setattr(_measuring, "TICK", 0.01)
    reader = InMemoryMetricReader()
    metrics = OpenTelemetryMetrics(MeterProvider(metric_readers=[reader]))
    app, _ = application(metrics)
    async with app.lifespan():
        async with open_stream(app, "GET", "/endless") as stream:
            await stream.next()
            await until_exported(reader, {"sse.streams.open": 1, "sse.events.sent": 1})
            await stream.disconnect()
        await until_exported(reader, {"sse.streams.open": 0, "sse.streams.closed": 1})
        with anyio.fail_after(WAIT):
            while metrics._loops:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.005)


async def until_exported(reader: InMemoryMetricReader, expected: dict[str, float]) -> None:
    """Reads until the sums are these."""
    with anyio.fail_after(WAIT):
        while not expected.items() <= otel_sums(reader).items():  # noqa: ASYNC110 - nothing tells of a change
            await anyio.sleep(0.005)


async def test_what_is_sent_costs_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand events are no more calls of all that measures than one."""
    monkeypatch.setattr(_measuring, "TICK", 2 * WAIT)
    assert await calls_to_measure(events=1000) == await calls_to_measure(events=1) > 0


async def calls_to_measure(events: int) -> int:
    """Counts the calls of functions of what measures, and of prometheus-client, for a stream of so many chunks."""
    measuring = {_measuring.__file__, watch.__file__, prometheus_client.metrics.__file__}
    calls = 0

    def count(frame: Any, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename in measuring

    @get("/many")
    async def many(stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[int]:
            for number in range(events):
                yield number
                await stream.flush()

        return SafeServerSentEvent(body())

    plugin = SafeSSEPlugin()
    plugin.streams.observe(PrometheusMetrics(CollectorRegistry()))
    app = Litestar([many], plugins=[plugin])
    async with app.lifespan():
        sys.setprofile(count)
        try:
            async with open_stream(app, "GET", "/many") as stream:
                assert (await stream.read()).count(b"data:") == events
                await stream.wait_closed()
        finally:
            sys.setprofile(None)
    return calls


async def until(registry: CollectorRegistry, sample: tuple[str, tuple[str, ...]], value: float) -> None:
    """Scrapes until a sample has a value."""
    with anyio.fail_after(WAIT):
        while scrape(registry).get(sample) != value:  # noqa: ASYNC110 - nothing tells of a scrape
            await anyio.sleep(0.005)


async def test_sources_are_measured_that_tell_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name they are given, while streams are open and when the last has ended."""
    monkeypatch.setattr(_measuring, "TICK", 0.01)
    registry, log = CollectorRegistry(), MemoryEventLog()
    plugin = SafeSSEPlugin()
    plugin.streams.observe(PrometheusMetrics(registry, sources={"news": log}))

    @get("/news")
    async def news() -> SafeServerSentEvent:
        return SafeServerSentEvent(log.subscribe("news"))

    async with open_stream(Litestar([news], plugins=[plugin]), "GET", "/news"):
        await until(registry, ("sse_source_subscribers", ("news",)), 1)
    assert scrape(registry)["sse_source_subscribers", ("news",)] == 0


class Told:
    """A source whose figures are those of an event log, and of a queue."""

    def __init__(self) -> None:
        self.figures = {field.name: 0 for kind in (EventLogStatistics, QueueStatistics) for field in fields(kind)}

    def statistics(self) -> SimpleNamespace:
        return SimpleNamespace(**self.figures)


COUNTERS = {"dropped", "overflows", "reconnects", "gaps", "replayed", "appended", "delivered", "returned"}


def test_every_figure_of_a_source_is_a_metric() -> None:
    """Of Prometheus and of OpenTelemetry: what only grows is a counter, and all else a gauge."""
    registry, reader, source = CollectorRegistry(), InMemoryMetricReader(), Told()
    metrics = [
        PrometheusMetrics(registry, sources={"it": source}),
        OpenTelemetryMetrics(MeterProvider(metric_readers=[reader]), sources={"it": source}),
    ]
    for amounts in (range(10, 40), range(20, 50)):
        source.figures = dict(zip(source.figures, amounts, strict=False))
        asyncio.run(streamed(*metrics))
    samples = scrape(registry)
    for name, value in source.figures.items():
        metric = f"sse_source_{name}_total" if name in COUNTERS else f"sse_source_{name}"
        # another loop's counters count from nothing, and are added; its gauges are in the place of those that are gone
        assert samples[metric, ("it",)] == (2 * value - 10 if name in COUNTERS else value), name
    assert (
        otel_sums(reader).items()
        >= {
            f"sse.source.{name}": 2 * value - 10 if name in COUNTERS else value
            for name, value in source.figures.items()
        }.items()
    )


async def streamed(*metrics: StreamMetrics) -> None:
    app, _ = application(*metrics)
    async with open_stream(app, "GET", "/fifty") as stream:
        await stream.read()
        await stream.wait_closed()


def test_a_source_that_begins_anew_goes_on_counting() -> None:
    """As one does whose plugin has been shut down and started again in the same loop."""
    registry, source = CollectorRegistry(), Told()
    metrics = PrometheusMetrics(registry, sources={"it": source})

    async def main() -> None:
        for appended, subscribers in ((5, 3), (2, 1)):
            source.figures |= {"appended": appended, "subscribers": subscribers}
            await streamed(metrics)

    asyncio.run(main())
    samples = scrape(registry)
    assert (samples["sse_source_appended_total", ("it",)], samples["sse_source_subscribers", ("it",)]) == (7, 1)


async def test_blocked_streams_are_counted_while_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing is seen before it is given up."""
    monkeypatch.setattr(_measuring, "TICK", 0.01)
    monkeypatch.setattr(_measuring, "BLOCKED", 0.02)
    registry = CollectorRegistry()
    app, _ = application(PrometheusMetrics(registry))
    async with open_stream(app, "GET", "/fifty") as stream:
        await stream.next()
        stream.stall()
        await until(registry, ("sse_sends_blocked", ("fifty",)), 1)
        stream.resume()
        await stream.read()
        await stream.wait_closed()
    assert scrape(registry)["sse_sends_blocked", ("fifty",)] == 0


def test_a_source_that_tells_nothing_is_refused() -> None:
    """By an error that names it."""
    with pytest.raises(InvalidFieldError, match="must have a method statistics"):
        PrometheusMetrics(CollectorRegistry(), sources={"news": object()})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (PrometheusMetrics, "registry", "x"),
        (PrometheusMetrics, "registry", CollectorRegistry),
        (PrometheusMetrics, "sources", ["news"]),
        (OpenTelemetryMetrics, "meter_provider", "x"),
        (OpenTelemetryMetrics, "sources", "news"),
        (OpenTelemetryTracing, "tracer_provider", "x"),
    ],
)
def test_what_measures_nothing_is_refused(kind: Any, field: str, value: Any) -> None:
    """By an error that names the parameter."""
    with pytest.raises(InvalidFieldError, match=f"invalid {field}: must be .*, or None, not "):
        kind(**{field: value})


async def test_a_registry_has_the_metrics_once() -> None:
    """A second set is refused, and says what to do; nothing of it stays."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    with pytest.raises(InvalidFieldError, match="make one PrometheusMetrics"):
        PrometheusMetrics(registry)


def otel_sums(reader: InMemoryMetricReader) -> dict[str, float]:
    """What OpenTelemetry reads, added up over all labels."""
    data = reader.get_metrics_data()
    assert data is not None
    sums: dict[str, float] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            value: Any = getattr(point, "count", None) or getattr(point, "value", 0)
            sums[metric.name] = sums.get(metric.name, 0) + value
    return sums


async def test_opentelemetry_measures_the_same() -> None:
    """The instruments of a meter have the figures that Prometheus has."""
    reader, registry = InMemoryMetricReader(), CollectorRegistry()
    app, _ = application(OpenTelemetryMetrics(MeterProvider(metric_readers=[reader])), PrometheusMetrics(registry))
    for path in ("/fifty", "/unclean"):
        async with open_stream(app, "GET", path) as stream:
            await stream.read()
            await stream.wait_closed()
    sums = otel_sums(reader)
    found = scrape(registry)
    for each in INSTRUMENTS:
        suffix = {"counter": "_total", "histogram": "_count", "gauge": ""}[each.kind]
        ours = sum(value for (name, _), value in found.items() if name == each.name + suffix)
        assert sums.get(each.otel, 0) == ours, each.name


def tracing() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PROVIDERS.append(provider)
    return provider, exporter


async def test_a_stream_is_one_span_on_which_body_and_cleanups_hang() -> None:
    """It has events for its steps, and its reason; what the body and the cleanups trace are its children."""
    provider, exporter = tracing()
    app, _ = application(OpenTelemetryTracing(provider))
    async with open_stream(app, "GET", "/spans") as stream:
        await stream.read()
        await stream.wait_closed()
    spans = {span.name.rpartition(".")[2]: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"spans", "query", "clean"}
    ours = spans["spans"]
    assert [event.name for event in ours.events] == ["open", "first event", "close"]
    assert ours.attributes is not None
    assert ours.attributes["sse.close_reason"] == "completed"
    for child in (spans["query"], spans["clean"]):
        assert child.parent is not None
        assert ours.context is not None
        assert child.parent.span_id == ours.context.span_id


@pytest.mark.parametrize("error", [NotFoundException("no such job"), None])
async def test_what_is_raised_ahead_of_the_headers_is_no_error_of_the_span(error: Exception | None) -> None:
    """The status of the request tells of it, which may be a 404. Once there are headers it is one, as is a cleanup."""

    @sse("/failing")
    async def failing() -> AsyncIterator[str]:
        if error is not None:
            raise error
        yield "one"
        raise LookupError

    provider, exporter = tracing()
    plugin = SafeSSEPlugin()
    plugin.streams.observe(OpenTelemetryTracing(provider))
    app = Litestar([failing], plugins=[plugin])
    async with open_stream(app, "GET", "/failing", raise_app_exceptions=False) as stream:
        await stream.wait_closed()
        assert stream.status == (200 if error is None else 404)
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["sse.close_reason"] == "error"
    assert span.status.is_ok is (error is not None)


async def test_with_litestars_middleware_an_event_is_no_span() -> None:
    """Fifty events are as many spans as one: the stream's is a child of the request's."""
    try:
        from litestar.plugins.opentelemetry import OpenTelemetryConfig
    except ImportError:  # Litestar before 2.18
        from litestar.contrib.opentelemetry import OpenTelemetryConfig

    counts = []
    for path in ("/fifty", "/unclean"):
        provider, exporter = tracing()
        middleware = [OpenTelemetryConfig(tracer_provider=provider).middleware]
        app, _ = application(OpenTelemetryTracing(provider), middleware=middleware)
        async with open_stream(app, "GET", path) as stream:
            await stream.read()
            await stream.wait_closed()
        spans = exporter.get_finished_spans()
        counts.append(len(spans))
        (ours,) = [span for span in spans if span.name.startswith("SSE ")]
        assert ours.parent is not None
        assert ours.parent.span_id in {span.context.span_id for span in spans if span.context is not None}
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["PrometheusMetrics", "OpenTelemetryMetrics", "OpenTelemetryTracing"])
def test_what_is_not_installed_is_named(name: str) -> None:
    """By an error that says what to install; the module can be imported all the same."""
    script = f"""
import sys
sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = sys.modules["opentelemetry.metrics"] = None
from litestar_safe_sse import metrics
from litestar_safe_sse.exceptions import MissingExtraError
try:
    metrics.{name}()
except MissingExtraError as error:
    assert "litestar-safe-sse[" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)
