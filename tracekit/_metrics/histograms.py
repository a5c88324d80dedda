"""Histograms of durations: fixed boundaries, or exponential buckets that adapt; both in constant memory.

Counts are floats, because a span under sampling stands for 1 / p spans; they are rounded where they are read. Rounding is
monotonic, so no rounded count ever falls.

Spec: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final, NamedTuple

MAX_BUCKETS: Final = 160
_SCALE: Final = 20
_EXEMPLARS: Final = 8  # of an exponential histogram
_MOST: Final = 1 << 56  # in a bucket: as many as one span may stand for. The sum of 201 fits into OTLP's 64 bits


class Exemplar(NamedTuple):
    """A span that was measured."""

    trace_id: str
    span_id: str
    seconds: float
    time_ns: int


def rounded(weight: float) -> int:
    """Return a count as it is read, at most 2**56: callers choose the thresholds by which their spans count for others."""
    return min(round(weight), _MOST)


class Explicit:
    """Counts by the upper *bounds* of buckets, and one above them all."""

    __slots__ = ("bounds", "exemplars", "sum", "weights")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.weights = [0.0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # the last one of each bucket

    def add(self, weight: float, exemplar: Exemplar) -> None:
        """Count the span of *exemplar* *weight* times."""
        seconds = exemplar.seconds
        at = bisect_left(self.bounds, seconds)
        self.weights[at] += weight
        self.sum += seconds * weight
        self.exemplars[at] = exemplar

    def counts(self) -> list[int]:
        return [rounded(weight) for weight in self.weights]


class Exponential:
    """Counts by buckets (b^i, b^(i+1)] with b = 2^(2^-scale); the scale falls when more than 160 buckets are needed."""

    __slots__ = ("exemplars", "scale", "sum", "weights", "zero")

    def __init__(self) -> None:
        self.scale = _SCALE
        self.weights: dict[int, float] = {}
        self.zero = 0.0
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, weight: float, exemplar: Exemplar) -> None:
        """Count the span of *exemplar* *weight* times."""
        seconds = exemplar.seconds
        if seconds <= 0:
            self.zero += weight
        else:
            at = self._index(seconds)
            if at not in self.weights:
                low, high = min(self.weights, default=at), max(self.weights, default=at)
                while max(high, at) - min(low, at) >= MAX_BUCKETS:
                    self._halve()
                    low, high, at = low >> 1, high >> 1, at >> 1
            self.weights[at] = self.weights.get(at, 0.0) + weight
        self.sum += seconds * weight
        # By the power of two, so that slow and fast spans are among them.
        self.exemplars[math.frexp(seconds)[1] % _EXEMPLARS] = exemplar

    def _index(self, seconds: float) -> int:
        if self.scale > 0:
            return math.ceil(math.log2(seconds) * (1 << self.scale)) - 1
        fraction, exponent = math.frexp(seconds)
        # A power of two is the upper end of its bucket.
        return (exponent - 1 - (fraction == 0.5)) >> -self.scale

    def _halve(self) -> None:
        self.scale -= 1
        weights: dict[int, float] = {}
        for at, weight in self.weights.items():
            weights[at >> 1] = weights.get(at >> 1, 0.0) + weight
        self.weights = weights

    def counts(self) -> tuple[int, list[int]]:
        """Return the index of the first bucket, and the counts from there on."""
        if not self.weights:
            return 0, []
        low, high = min(self.weights), max(self.weights)
        return low, [rounded(self.weights.get(at, 0.0)) for at in range(low, high + 1)]
