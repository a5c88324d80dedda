"""The text that Prometheus reads: its own format 0.0.4, and OpenMetrics 1.0, which has exemplars.

Specs: https://prometheus.io/docs/instrumenting/exposition_formats/,
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md, and for names and labels
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.attributes import whole
from .histograms import Explicit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .histograms import Exemplar, Exponential
    from .instruments import Table


def text_of(table: Table, openmetrics: bool) -> str:
    """Return all series of *table*; with *openmetrics* with exemplars. Exponential histograms have one bucket."""
    lines: list[str] = []
    if table.resource:
        name = "target" if openmetrics else "target_info"
        lines += [f"# HELP {name} The resource", f"# TYPE {name} {'info' if openmetrics else 'gauge'}"]
        lines.append(f"target_info{_labels(table.resource.items())} 1")
    for instrument, series in table.instruments.items():
        name = f"{_name(instrument.name)}_seconds"
        lines += [f"# HELP {name} {instrument.description}", f"# TYPE {name} histogram"]
        if openmetrics:
            lines.append(f"# UNIT {name} seconds")
        for attributes, histogram in series.items():
            lines += _lines(name, attributes, histogram, openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "".join([f"{line}\n" for line in lines])


def _lines(
    name: str, attributes: Iterable[tuple[str, Any]], histogram: Explicit | Exponential, openmetrics: bool
) -> Iterator[str]:
    labels, total = _labels(attributes), 0
    inner = labels[1:-1] + "," if labels else ""
    if isinstance(histogram, Explicit):
        bounds = (*map(repr, histogram.bounds), "+Inf")
        for at, (bound, count) in enumerate(zip(bounds, histogram.counts(), strict=True)):
            total += count
            exemplar = _exemplar(histogram.exemplars.get(at)) if openmetrics else ""
            yield f'{name}_bucket{{{inner}le="{bound}"}} {total}{exemplar}'
    else:
        total = sum(histogram.counts()[1]) + round(histogram.zero)
        yield f'{name}_bucket{{{inner}le="+Inf"}} {total}'
    yield f"{name}_count{labels} {total}"
    yield f"{name}_sum{labels} {histogram.sum!r}"


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    ids = f'trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"'
    return f" # {{{ids}}} {exemplar.seconds!r} {exemplar.time_ns / 1e9:.3f}"


def _labels(attributes: Iterable[tuple[str, Any]]) -> str:
    found: dict[str, str] = {}
    for key, value in attributes:
        name, text = _name(key), str(value).lower() if value is True or value is False else str(value)
        found[name] = f"{found[name]};{text}" if name in found else text
    if not found:
        return ""
    pairs = [f'{name}="{_escaped(text)}"' for name, text in found.items()]
    return f"{{{','.join(pairs)}}}"


def _name(name: str) -> str:
    text = "".join([letter if letter.isascii() and letter.isalnum() else "_" for letter in name])
    return f"_{text}" if not text or text[0].isdigit() else text


def _escaped(text: str) -> str:
    return whole(text).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
