"""Metrics and traces of streams: for Prometheus, and for OpenTelemetry.

Each is an observer: ``plugin.streams.observe(PrometheusMetrics())``. Nothing is measured unless one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar_safe_sse._instruments import INSTRUMENTS, SOURCE_INSTRUMENTS
from litestar_safe_sse._measuring import StreamMetrics
from litestar_safe_sse._tracing import OpenTelemetryTracing
from litestar_safe_sse.config import check_method
from litestar_safe_sse.exceptions import InvalidFieldError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter, MeterProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from litestar_safe_sse._instruments import Instrument
    from litestar_safe_sse._measuring_sources import Source

__all__ = ("OpenTelemetryMetrics", "OpenTelemetryTracing", "PrometheusMetrics")


class PrometheusMetrics(StreamMetrics):
    """Measures streams for Prometheus; needs the extra ``prometheus``.

    One may observe several applications. In the multiprocess mode of ``prometheus-client`` the figures of all workers
    are added up by whoever is scraped, as Litestar's ``PrometheusController``.

    Args:
        registry: Where the metrics are registered; the default of ``prometheus-client`` unless given.
        sources: Sources to be measured too, by the value of their label ``source``. What has no ``statistics()``
            cannot be; of what these tell, the fields that are known are measured.

    Raises:
        MissingExtraError: ``prometheus-client`` is not installed.
        InvalidFieldError: The registry is none, or has such metrics already, or a source tells nothing.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, sources: Mapping[str, Source] | None = None
    ) -> None:
        check_method("registry", registry, "register", "a CollectorRegistry of prometheus-client")
        check_sources(sources)
        super().__init__(PrometheusInstruments(registry, wanted(sources), self.hand_on), sources)


class OpenTelemetryMetrics(StreamMetrics):
    """Measures streams by a meter of OpenTelemetry's; needs the extra ``otel``.

    Args:
        meter_provider: Where the meter is from; the global one unless given.
        sources: Sources to be measured too, as for :class:`PrometheusMetrics`.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
        InvalidFieldError: The provider is none, or a source tells nothing.
    """

    def __init__(
        self, meter_provider: MeterProvider | None = None, *, sources: Mapping[str, Source] | None = None
    ) -> None:
        check_method("meter_provider", meter_provider, "get_meter", "a MeterProvider of OpenTelemetry's")
        check_sources(sources)
        try:
            from opentelemetry.metrics import get_meter
        except ImportError as error:
            raise MissingExtraError("metrics for OpenTelemetry need litestar-safe-sse[otel]; install it") from error
        meter = get_meter("litestar_safe_sse", meter_provider=meter_provider)
        super().__init__(MeterInstruments(meter, wanted(sources)), sources)


def wanted(sources: Mapping[str, Source] | None) -> tuple[Instrument, ...]:
    """Returns what is to be measured."""
    return INSTRUMENTS + (SOURCE_INSTRUMENTS if sources else ())


def check_sources(sources: Mapping[str, Source] | None) -> None:
    """Raises ``InvalidFieldError`` unless each source tells its figures."""
    if sources is not None and not isinstance(sources, Mapping):
        raise InvalidFieldError(
            "sources", f"must be a dict of sources by their names, or None, not a {type(sources).__name__}"
        )
    for name, source in (sources or {}).items():
        if not callable(getattr(source, "statistics", None)):
            raise InvalidFieldError("sources", f"must have a method statistics(), which {name!r} has not; leave it out")


class PrometheusInstruments:
    """Metrics of ``prometheus-client``.

    Args:
        registry: Where they are registered.
        instruments: What they are.
        before_scrape: Called before they are read; those of other processes have to do without.
    """

    def __init__(
        self, registry: CollectorRegistry | None, instruments: tuple[Instrument, ...], before_scrape: Callable[[], None]
    ) -> None:
        try:
            import prometheus_client as client
        except ImportError as error:
            raise MissingExtraError("metrics for Prometheus need litestar-safe-sse[prometheus]; install it") from error
        registry = client.REGISTRY if registry is None else registry
        kinds: dict[str, Any] = {
            "counter": client.Counter,
            "gauge": client.Gauge,
            "histogram": client.Histogram,
        }
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._metrics: dict[str, Any] = {}
        first = BeforeScrape(before_scrape)
        registry.register(first)
        try:
            for instrument in instruments:
                options: dict[str, Any] = {"buckets": instrument.buckets} if instrument.buckets else {}
                if instrument.kind == "gauge":
                    options["multiprocess_mode"] = instrument.across
                self._metrics[instrument.name] = kinds[instrument.kind](
                    instrument.name, instrument.about, instrument.labels, registry=registry, **options
                )
        except ValueError as error:
            for collector in (first, *self._metrics.values()):
                registry.unregister(collector)
            raise InvalidFieldError(
                "registry", f"must have none of the metrics yet ({error}); make one PrometheusMetrics, for all plugins"
            ) from error

    def add(self, name: str, amount: float, labels: tuple[str, ...]) -> None:
        """Adds to a counter or a gauge."""
        self._child(name, labels).inc(amount)

    def recorder(self, name: str, labels: tuple[str, ...]) -> Callable[[float], object]:
        """Returns what adds a value to a histogram."""
        observe: Callable[[float], object] = self._child(name, labels).observe
        return observe

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, labels))
        if child is None:
            child = self._children[name, labels] = self._metrics[name].labels(*labels)
        return child


class BeforeScrape:
    """A collector without metrics, which is asked ahead of those that are registered after it.

    Args:
        call: Called when it is asked.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Iterable[Metric]:
        """Returns no metrics, and calls nothing."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Calls, and returns no metrics."""
        self._call()
        return ()


class MeterInstruments:
    """Instruments of a meter.

    Args:
        meter: The meter.
        instruments: What they are.
    """

    def __init__(self, meter: Meter, instruments: tuple[Instrument, ...]) -> None:
        self._labels = {instrument.name: instrument.labels for instrument in instruments}
        self._instruments = {instrument.name: self._make(meter, instrument) for instrument in instruments}

    @staticmethod
    def _make(meter: Meter, instrument: Instrument) -> Any:
        names = instrument.otel, instrument.unit, instrument.about
        if instrument.kind == "counter":
            return meter.create_counter(*names)
        if instrument.kind == "gauge":
            return meter.create_up_down_counter(*names)
        return meter.create_histogram(*names, explicit_bucket_boundaries_advisory=instrument.buckets)

    def add(self, name: str, amount: float, labels: tuple[str, ...]) -> None:
        """Adds to a counter or an up-down counter."""
        self._instruments[name].add(amount, dict(zip(self._labels[name], labels, strict=True)))

    def recorder(self, name: str, labels: tuple[str, ...]) -> Callable[[float], object]:
        """Returns what adds a value to a histogram."""
        return partial(self._instruments[name].record, attributes=dict(zip(self._labels[name], labels, strict=True)))
