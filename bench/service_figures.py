"""What ``bench.service`` measures of a contender, its ratios to the untraced service, and their table."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

LOAD = 0.7  # of the untraced service's requests a second, and of the contender's own


class Window(NamedTuple):
    """One contender under load for some seconds."""

    requests_per_s: float
    cpu_us: float  # of a request
    latency_ms: tuple[float, float, float]  # p50, p99, p99.9


class Result(NamedTuple):
    """The windows of one contender at one share of sampled traces; *arrived* is the share of the spans that arrived."""

    contender: str
    share: float
    busy: list[Window]
    calm: list[Window]  # at LOAD of the untraced service's saturation
    own: list[Window]  # at LOAD of the contender's own saturation
    resident_mb: float
    arrived: float


class Summary(NamedTuple):
    """The figures of one contender, and its ratios to the untraced service of the same share."""

    contender: str
    share: float
    requests_per_s: float
    of_untraced: float
    cpu_us: float
    added_us: float
    calm_per_s: float
    latency_ms: tuple[float, ...]
    p99_of_untraced: float
    own_per_s: float
    own_latency_ms: tuple[float, ...]
    own_p99_of_untraced: float
    resident_mb: float
    arrived: float


def summaries(results: list[Result]) -> list[Summary]:
    """Return a summary of each result; the untraced service must be among those of each share."""
    untraced = {result.share: result for result in results if result.contender == "none"}
    found = []
    for own in results:
        none = untraced[own.share]
        found.append(
            Summary(
                own.contender,
                own.share,
                max(one.requests_per_s for one in own.busy),
                median(a.requests_per_s / b.requests_per_s for a, b in zip(own.busy, none.busy, strict=True)),
                min(one.cpu_us for one in own.busy),
                median(a.cpu_us - b.cpu_us for a, b in zip(own.busy, none.busy, strict=True)),
                median(one.requests_per_s for one in own.calm),
                tuple(median(values) for values in zip(*[one.latency_ms for one in own.calm], strict=True)),
                median(a.latency_ms[1] / b.latency_ms[1] for a, b in zip(own.calm, none.calm, strict=True)),
                median(one.requests_per_s for one in own.own),
                tuple(median(values) for values in zip(*[one.latency_ms for one in own.own], strict=True)),
                median(a.latency_ms[1] / b.latency_ms[1] for a, b in zip(own.own, none.own, strict=True)),
                own.resident_mb,
                own.arrived,
            )
        )
    return found


def table(results: list[Result]) -> list[str]:
    """Return the lines of a Markdown table."""
    latency = ("p50 / p99 / p99.9", "p99 / untraced")
    columns = [
        *("tracing by", "sampled", "requests a second", "of untraced", "CPU a request", "added"),
        *(f"at {LOAD:.0%} of the untraced rate", *latency),
        *(f"at {LOAD:.0%} of its own rate", *latency),
        *("resident", "spans arrived"),
    ]
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for one in summaries(results):
        is_traced = one.contender != "none"
        cells = [
            one.contender,
            f"{one.share:.0%}" if is_traced else "",
            f"{one.requests_per_s:,.0f}",
            f"{one.of_untraced:.2f}",
            f"{one.cpu_us:,.0f} µs",
            f"{one.added_us:,.0f} µs" if is_traced else "",
            f"{one.calm_per_s:,.0f}",
            " / ".join(f"{value:.1f}" for value in one.latency_ms) + " ms",
            f"{one.p99_of_untraced:.2f}",
            f"{one.own_per_s:,.0f}",
            " / ".join(f"{value:.1f}" for value in one.own_latency_ms) + " ms",
            f"{one.own_p99_of_untraced:.2f}",
            f"{one.resident_mb:,.0f} MiB",
            f"{one.arrived:.1%}" if is_traced else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
