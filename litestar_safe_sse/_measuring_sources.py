"""What is measured of sources: what their ``statistics()`` tell, each in its event loop."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from litestar_safe_sse._instruments import SOURCE_INSTRUMENTS
from litestar_safe_sse._runtime.current import current_key, current_runtime

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from litestar_safe_sse._instruments import Instrument, Instruments
    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("Source", "SourceMetrics")


class Source(Protocol):
    """A source that tells its figures."""

    def statistics(self) -> object: ...


class SourceFigures:
    """What the figures of sources were in one event loop when they were looked at last."""

    __slots__ = ("runtime", "told")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.told: Counter[tuple[str, Instrument]] = Counter()


class SourceMetrics:
    """Measures sources.

    Args:
        instruments: What the figures are handed to.
        sources: The sources, by name.
    """

    def __init__(self, instruments: Instruments, sources: Mapping[str, Source]) -> None:
        self._instruments = instruments
        self._sources = dict(sources)
        self._told: dict[Hashable, SourceFigures] = {}

    def measure(self) -> None:
        """Hands on what has changed in the event loop that is running."""
        if not self._sources:
            return
        figures = self._told.get(current_key())
        if figures is None:
            figures = self._told[current_key()] = SourceFigures(current_runtime())
        for name, source in self._sources.items():
            found = source.statistics()
            for instrument in SOURCE_INSTRUMENTS:
                now = getattr(found, instrument.name.removeprefix("sse_source_"), None)
                if isinstance(now, int):
                    self._tell(figures, name, instrument, now)

    def _tell(self, figures: SourceFigures, source: str, instrument: Instrument, now: int) -> None:
        before = figures.told[source, instrument]
        if instrument.kind == "counter" and now < before:
            before = 0  # the source has begun anew
        figures.told[source, instrument] = now
        if now != before:
            self._instruments.add(instrument.name, now - before, (source,))

    def forget_gone(self) -> None:
        """Takes back what sources have in event loops that are gone; what was counted there stays."""
        for key, figures in tuple(self._told.items()):
            if figures.runtime.is_gone():
                del self._told[key]
                for (source, instrument), told in figures.told.items():
                    if told and instrument.kind == "gauge":
                        self._instruments.add(instrument.name, -told, (source,))
