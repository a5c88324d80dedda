"""Samplers: which new traces are recorded. A trace that came in, or is under way, keeps the decision it has.

Probability sampling is consistent, as OpenTelemetry defines it: a trace is kept where the random 56
bits of its id are not below a threshold T = (1 - p) * 2**56, and says so in tracestate (``ot=th:…``),
so that every service with the same or a larger p keeps it too and a reader can count back.
https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AlwaysOff", "AlwaysOn", "Rate", "Ratio", "Sampler", "threshold_text"]

NEVER: Final = 1 << 56
_MASK56: Final = NEVER - 1
_DIGITS: Final = 14
_PRECISION: Final = 4


class Sampler(Protocol):
    """What ``configure(sampler=)`` takes besides the samplers of this module: it is asked once per new trace."""

    def sample(self, trace_id: str, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Say whether to keep the trace, and the tracestate (or "") that a kept one starts with.

        Runs inside ``span()``: keep it short. If it raises, the trace is not kept.
        """


class Ratio:
    """Keep the share *probability*, 0 to 1, of all traces; the same ones in every service."""

    def __init__(self, probability: float) -> None:
        if isinstance(probability, bool) or not isinstance(probability, int | float):
            raise TypeError(f"probability must be a number, not {type(probability).__name__}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be 0 to 1: {probability}")
        self.probability = probability
        self.threshold = threshold(probability)
        self.state = f"ot=th:{threshold_text(self.threshold)}" if self.threshold < NEVER else ""

    def __repr__(self) -> str:
        return f"Ratio({self.probability})"


class AlwaysOn:
    """Keep every trace."""

    threshold: Final = 0
    state: Final = ""

    def __repr__(self) -> str:
        return "AlwaysOn()"


class AlwaysOff:
    """Keep no trace."""

    threshold: Final = NEVER
    state: Final = ""

    def __repr__(self) -> str:
        return "AlwaysOff()"


class Rate:
    """Keep about *per_second* traces a second, whatever the load, by adapting the probability (Dapper, section 4.4).

    The probability follows an average of the last seconds, and is lowered at once where a burst
    would exceed twice the target within a quarter of a second. *clock* returns monotonic nanoseconds.
    """

    _WINDOW_NS: Final = 250_000_000
    _AVERAGE_NS: Final = 2_000_000_000

    def __init__(self, per_second: float, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, int | float):
            raise TypeError(f"per_second must be a number, not {type(per_second).__name__}")
        if not per_second > 0:
            raise ValueError(f"per_second must be positive: {per_second}")
        self.per_second = per_second
        self._clock = clock
        self._since_ns = clock()
        self._seen = self._kept = 0
        self._load = 0.0  # new traces a second, averaged
        self._burst = max(2.0, 2 * per_second * self._WINDOW_NS / 1e9)
        self._set(1.0)

    def sample(self, trace_id: str, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Keep the trace with the probability in force now."""
        elapsed_ns = self._clock() - self._since_ns
        self._seen += 1
        if elapsed_ns >= self._WINDOW_NS:
            self._adapt(elapsed_ns)
        elif self._kept >= self._burst:
            self._brake(elapsed_ns)
        if int(trace_id[-_DIGITS:], 16) < self._threshold:
            return False, ""
        self._kept += 1
        return True, self._state

    def _adapt(self, elapsed_ns: int) -> None:
        load = self._seen * 1e9 / elapsed_ns
        weight = min(1.0, elapsed_ns / self._AVERAGE_NS)
        self._load += weight * (load - self._load) if self._load else load
        self._since_ns += elapsed_ns
        self._seen = self._kept = 0
        self._set(min(1.0, self.per_second / self._load) if self._load else 1.0)

    def _brake(self, elapsed_ns: int) -> None:
        self._load = max(self._load, self._seen * 1e9 / max(elapsed_ns, 1_000_000))
        self._kept = 0
        self._set(min(1.0, self.per_second / self._load))

    def _set(self, probability: float) -> None:
        self._threshold = threshold(probability)
        self._state = f"ot=th:{threshold_text(self._threshold)}"

    def __repr__(self) -> str:
        return f"Rate({self.per_second})"


def threshold(probability: float) -> int:
    """Return the 56-bit rejection threshold of *probability*, rounded to four hex digits after leading f's."""
    exact = NEVER - round(probability * NEVER)  # 1 - p would lose the digits of a small p
    if exact >= NEVER:
        return NEVER
    text = f"{exact:014x}"
    digits = _PRECISION + len(text) - len(text.lstrip("f"))
    if digits >= _DIGITS:
        return exact
    unit = 1 << 4 * (_DIGITS - digits)
    return min((exact + unit // 2) // unit * unit, NEVER - unit)


def threshold_text(threshold: int) -> str:
    """Return *threshold* as ``th`` spells it: 14 lowercase hex digits less trailing zeros, "0" at the least."""
    return f"{threshold:014x}".rstrip("0") or "0"
