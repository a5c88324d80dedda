"""Series as the metrics of an OTLP request, in its JSON mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.attributes import whole
from .._version import __version__
from ..exporters._otlp.json import attributes_as_json
from .histograms import Explicit, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .histograms import Exemplar, Exponential
    from .instruments import Instrument, Table

_CUMULATIVE = 2


class Point(NamedTuple):
    """One data point, and its metric."""

    instrument: Instrument
    kind: str
    message: dict[str, Any]


def points_of(table: Table, now_ns: int, since_ns: int) -> list[Point]:
    """Return a point for each series of *table*, with the exemplars since *since_ns*."""
    points = []
    for instrument, series in table.instruments.items():
        for attributes, histogram in series.items():
            message: dict[str, Any] = {
                "attributes": attributes_as_json(dict(attributes)),
                "startTimeUnixNano": str(table.start_ns),
                "timeUnixNano": str(now_ns),
                "sum": histogram.sum,
                "exemplars": [_exemplar(one) for one in histogram.exemplars.values() if one.time_ns >= since_ns],
            }
            points.append(Point(instrument, *_buckets(histogram, message)))
    return points


def _buckets(histogram: Explicit | Exponential, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(histogram, Explicit):
        counts = histogram.counts()
        message["count"] = str(sum(counts))
        message["bucketCounts"] = [str(count) for count in counts]
        message["explicitBounds"] = list(histogram.bounds)
        return "histogram", message
    offset, counts = histogram.counts()
    zero = rounded(histogram.zero)
    message["count"] = str(sum(counts) + zero)
    message["zeroCount"] = str(zero)
    message["scale"] = histogram.scale
    message["positive"] = {"offset": offset, "bucketCounts": [str(count) for count in counts]}
    return "exponentialHistogram", message


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    return {
        "timeUnixNano": str(exemplar.time_ns),
        "asDouble": exemplar.seconds,
        "traceId": exemplar.trace_id,
        "spanId": exemplar.span_id,
    }


def request_of(points: Iterable[Point], resource: dict[str, Any]) -> dict[str, Any]:
    """Return an ``ExportMetricsServiceRequest`` in OTLP's JSON encoding."""
    metrics: dict[str, dict[str, Any]] = {}
    for instrument, kind, message in points:
        metric = metrics.get(instrument.name)
        if metric is None:
            metric = metrics[instrument.name] = {
                "name": instrument.name,
                "description": instrument.description,
                "unit": "s",
                kind: {"dataPoints": [], "aggregationTemporality": _CUMULATIVE},
            }
        metric[kind]["dataPoints"].append(message)
    scope = {"name": "tracekit", "version": whole(__version__)}
    return {
        "resourceMetrics": [
            {
                "resource": {"attributes": attributes_as_json(resource)},
                "scopeMetrics": [{"scope": scope, "metrics": list(metrics.values())}],
            }
        ]
    }
