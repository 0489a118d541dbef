"""Metrics and traces of streams: for Prometheus, and for OpenTelemetry.

Each is an observer: ``plugin.streams.observe(PrometheusMetrics())``. Nothing is measured unless one is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse._measuring import INSTRUMENTS, SOURCE_INSTRUMENTS, StreamMetrics
from litestar_safe_sse._tracing import OpenTelemetryTracing
from litestar_safe_sse.exceptions import InvalidFieldError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Meter, MeterProvider
    from prometheus_client import CollectorRegistry

    from litestar_safe_sse._measuring import Instrument, Source

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
        InvalidFieldError: The registry has such metrics already, or a source tells nothing.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, sources: Mapping[str, Source] | None = None
    ) -> None:
        check_sources(sources)
        super().__init__(PrometheusInstruments(registry, wanted(sources)), sources)


class OpenTelemetryMetrics(StreamMetrics):
    """Measures streams by a meter of OpenTelemetry's; needs the extra ``otel``.

    Args:
        meter_provider: Where the meter is from; the global one unless given.
        sources: Sources to be measured too, as for :class:`PrometheusMetrics`.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
        InvalidFieldError: A source tells nothing.
    """

    def __init__(
        self, meter_provider: MeterProvider | None = None, *, sources: Mapping[str, Source] | None = None
    ) -> None:
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
    for name, source in (sources or {}).items():
        if not callable(getattr(source, "statistics", None)):
            raise InvalidFieldError("sources", f"must have a method statistics(), which {name!r} has not; leave it out")


class PrometheusInstruments:
    """Metrics of ``prometheus-client``.

    Args:
        registry: Where they are registered.
        instruments: What they are.
    """

    def __init__(self, registry: CollectorRegistry | None, instruments: tuple[Instrument, ...]) -> None:
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
        try:
            for instrument in instruments:
                options: dict[str, Any] = {"buckets": instrument.buckets} if instrument.buckets else {}
                if instrument.kind == "gauge":
                    options["multiprocess_mode"] = instrument.across
                self._metrics[instrument.name] = kinds[instrument.kind](
                    instrument.name, instrument.about, instrument.labels, registry=registry, **options
                )
        except ValueError as error:
            for metric in self._metrics.values():
                registry.unregister(metric)
            raise InvalidFieldError(
                "registry", f"must have none of the metrics yet ({error}); make one PrometheusMetrics, for all plugins"
            ) from error

    def add(self, name: str, amount: float, labels: tuple[str, ...]) -> None:
        """Adds to a counter or a gauge."""
        self._child(name, labels).inc(amount)

    def record(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        """Adds a value to a histogram."""
        self._child(name, labels).observe(value)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, labels))
        if child is None:
            child = self._children[name, labels] = self._metrics[name].labels(*labels)
        return child


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

    def record(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        """Adds a value to a histogram."""
        self._instruments[name].record(value, dict(zip(self._labels[name], labels, strict=True)))
