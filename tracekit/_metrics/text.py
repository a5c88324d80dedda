"""The text that Prometheus reads: its own format 0.0.4, and OpenMetrics 1.0, which has exemplars.

Specs: https://prometheus.io/docs/instrumenting/exposition_formats/,
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md, and for names and labels
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.attributes import whole
from .._render import value_text
from .histograms import Explicit, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .histograms import Exemplar, Exponential
    from .instruments import Table

_MAX_VALUE: Final = 256  # characters of a value that is no text


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
        by_labels: dict[str, list[Explicit | Exponential]] = {}
        for attributes, histogram in series.items():
            # Not one by one: OTLP tells 200 from "200", and Prometheus drops a second sample with equal labels.
            by_labels.setdefault(_labels(attributes), []).append(histogram)
        for labels, histograms in by_labels.items():
            lines += _lines(name, labels, histograms, openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "".join([f"{line}\n" for line in lines])


def _lines(name: str, labels: str, histograms: list[Explicit | Exponential], openmetrics: bool) -> Iterator[str]:
    """Yield the samples of *histograms*, which have equal bounds and are added up."""
    inner = labels[1:-1] + "," if labels else ""
    bounds: tuple[float, ...] = ()
    exemplars: dict[int, Exemplar] = {}
    for histogram in histograms:
        if isinstance(histogram, Explicit):
            bounds = histogram.bounds
            exemplars |= histogram.exemplars
    total = 0
    counts = zip(*map(_counts, histograms), strict=True)
    for at, (bound, of_bucket) in enumerate(zip((*map(repr, bounds), "+Inf"), counts, strict=True)):
        total += sum(of_bucket)
        exemplar = _exemplar(exemplars.get(at)) if openmetrics else ""
        yield f'{name}_bucket{{{inner}le="{bound}"}} {total}{exemplar}'
    yield f"{name}_count{labels} {total}"
    yield f"{name}_sum{labels} {sum([histogram.sum for histogram in histograms])!r}"


def _counts(histogram: Explicit | Exponential) -> list[int]:
    if isinstance(histogram, Explicit):
        return histogram.counts()
    return [sum(histogram.counts()[1]) + rounded(histogram.zero)]


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    ids = f'trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"'
    return f" # {{{ids}}} {exemplar.seconds!r} {exemplar.time_ns / 1e9:.3f}"


def _labels(attributes: Iterable[tuple[str, Any]]) -> str:
    found: dict[str, str] = {}
    for key, value in attributes:
        # Not str(), which raises for an int of thousands of digits.
        name, text = _name(key), value if isinstance(value, str) else value_text(value, _MAX_VALUE)
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
