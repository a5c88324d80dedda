"""The series of all instruments: a bounded number of histograms, by instrument and attributes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from .._sampling import adjusted_count
from .histograms import Exemplar, Explicit, Exponential
from .instruments import attributes_of, instrument_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.span import Span
    from .instruments import Attributes, Instrument

__all__ = ["OVERFLOW", "Series", "Table"]

OVERFLOW: Final[Attributes] = (("otel.metric.overflow", True),)

Series = dict["Attributes", Explicit | Exponential]


class Table:
    """The histograms of finished spans.

    At most *max_series* of an instrument, the last of which takes the spans of all further ones.
    """

    def __init__(self, bounds: tuple[float, ...] | None, exponential: bool, internal: bool, max_series: int) -> None:
        self._bounds, self._exponential = bounds, exponential
        self._internal, self._max_series = internal, max_series
        self.start_ns = time.time_ns()
        self.instruments: dict[Instrument, Series] = {}
        self.resource: Mapping[str, Any] = {}

    def add(self, span: Span) -> None:
        """Measure *span*, as often as its trace counts for others that were not sampled."""
        kind = span.kind
        if kind == "internal" and not self._internal:
            return
        attributes = span.attributes
        instrument = instrument_of(kind, attributes, self._internal)
        end_ns = span.end_ns
        if instrument is None or end_ns is None:
            return
        context = span.context
        weight = adjusted_count(context)
        if weight is None:  # no threshold, as under AlwaysOn
            weight = 1.0
        if not weight:
            return
        series = self.instruments.setdefault(instrument, {})
        key = attributes_of(span, attributes, instrument)
        histogram = series.get(key)
        if histogram is None:
            if len(series) >= self._max_series - 1:
                key = OVERFLOW
            histogram = series.get(key)
            if histogram is None:
                bounds = instrument.bounds if self._bounds is None else self._bounds
                histogram = series[key] = Exponential() if self._exponential else Explicit(bounds)
        seconds = (end_ns - span.start_ns) / 1e9
        histogram.add(weight, Exemplar(context.trace_id, context.span_id, seconds, end_ns))
        self.resource = span.resource
