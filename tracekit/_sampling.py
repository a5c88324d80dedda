"""Samplers decide which new traces are recorded. The spans of a trace follow the decision of its root.

Probability sampling is consistent, as OpenTelemetry defines it. A trace has a *randomness* R of 56 bits: ``ot=rv:…`` in
tracestate, or the last 56 bits of its id, which count as random with and without the flag. It is kept
if R is not below a threshold T = (1 - p) * 2**56, which is written to tracestate (``ot=th:…``). So every
service with the same or a larger p keeps it too, and ``adjusted_count()`` can estimate the number of all traces.
https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._core.checks import check_above_0, check_number
from ._core.context import SpanContext, ids_of
from ._core.span import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NEVER: Final = 1 << 56
_MASK56: Final = NEVER - 1
_DIGITS: Final = 14
_PRECISION: Final = 4


class Sampler(Protocol):
    """Protocol of custom samplers for ``configure(sampler=)``; they may ask the samplers of this module."""

    def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Return whether to keep the trace, and the entry of a kept one's tracestate, ``ot=th:…``, or "".

        Called once per new trace, inside ``span()``, so it must be fast, and must not begin a trace, about which it would
        be asked in turn. If it raises, the trace is not kept.
        *randomness* is the trace's 56 random bits. A threshold must not depend on it. Return "" if the number of all
        traces is not known, even if chance has no part in the decision.
        """


class _Threshold:
    """A sampler that keeps a trace whose randomness is not below its *threshold*, and writes *state*."""

    threshold: int
    state: str

    def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Keep the trace if its randomness is not below the threshold."""
        return (True, self.state) if randomness >= self.threshold else (False, "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Ratio(_Threshold):
    """Keep the share *probability*, 0 to 1, of all traces; the same ones in every service."""

    def __init__(self, probability: float) -> None:
        check_number("probability", probability, 0, 1)
        self.probability = probability
        self.threshold = threshold(probability)
        self.state = f"ot=th:{threshold_text(self.threshold)}" if self.threshold < NEVER else ""

    def __repr__(self) -> str:
        return f"Ratio({self.probability})"


class AlwaysOn(_Threshold):
    """Keep every trace and write nothing to tracestate; ``Ratio(1.0)`` writes ``ot=th:0``."""

    threshold = 0
    state = ""


class AlwaysOff(_Threshold):
    """Keep no trace."""

    threshold = NEVER
    state = ""


class Rate:
    """Keep about *per_second* traces a second at any load, by adapting the probability (Dapper, section 4.4).

    From two seconds after a change of load, the number kept in ten seconds is within about 10 % of the target, for
    targets from 10 a second. If fewer traces come, all are kept; if they come at random, all but a few in a hundred.
    A sudden burst may add up to a second's worth at first, which is then compensated.
    *per_second* is above 0 and at most 1e9; *clock* returns monotonic nanoseconds.

    How it works: the probability changes in rounds of a tenth of a second, shorter in a burst. The load is averaged
    over the last second; the average restarts when a round shows that the load has changed. A balance of traces kept
    above or below the target is evened out over the next third of a second, or the time of three traces, so that
    random errors do not add up. The probability follows from the past alone and is never 0, so adjusted counts are
    right at any load.
    """

    _ROUND_NS: Final = 100_000_000
    _AVERAGE_NS: Final = 1_000_000_000
    _SHORTEST_NS: Final = 1_000_000
    _CHANGED: Final = 3.0  # standard deviations

    def __init__(self, per_second: float, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        check_above_0("per_second", per_second, 1e9)
        self.per_second = per_second
        self._clock = clock
        self._since_ns = clock()
        self._seen = self._kept = 0
        self._load = 0.0  # new traces a second, averaged
        self._averaged_ns = 0  # the time averaged over
        self._balance = 0.0  # traces below the target (negative: above it) that are still to be evened out
        self._evened_s = max(0.3, 3 / per_second)
        self._most = max(2.0, per_second)
        self._most_saved = max(1.0, per_second / 4)
        self._set(1.0)

    def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Keep the trace with the current probability."""
        since_ns = self._since_ns
        elapsed_ns = self._clock() - since_ns
        self._seen += 1
        if elapsed_ns >= self._ROUND_NS or self._kept >= self._burst:
            self._adapt(since_ns, max(elapsed_ns, self._SHORTEST_NS))
        threshold, state = self._in_force
        if randomness < threshold:
            return False, ""
        self._kept += 1
        return True, state

    def thin(self, randomness: int, threshold: int) -> int:
        """Return the new threshold of a remote trace that is sampled with *threshold*, or -1 if it is not kept.

        Kept traces count towards the rate, like new ones.
        """
        if not 0 <= threshold <= randomness:  # unknown, or in contradiction to the decision
            threshold = 0
        # The randomness of a sampled trace lies above its threshold: rescale it to the whole range.
        share = NEVER - threshold
        keep, state = self.sample((randomness - threshold) * NEVER // share, "", "server", {})
        if not keep:
            return -1
        rejected = int(state.removeprefix("ot=th:").ljust(_DIGITS, "0"), 16)
        return threshold + rejected * share // NEVER

    def _adapt(self, since_ns: int, elapsed_ns: int) -> None:
        if since_ns != self._since_ns:  # another thread has done it; a lock might be held for ever after a fork
            return
        self._since_ns = since_ns + elapsed_ns
        seen, kept = max(1, self._seen), self._kept
        self._seen = self._kept = 0
        elapsed_s = elapsed_ns / 1e9
        expected = self._load * elapsed_s
        is_another = abs(seen - expected) > self._CHANGED * max(seen, expected) ** 0.5
        averaged_ns = min(elapsed_ns + (0 if is_another else self._averaged_ns), self._AVERAGE_NS)
        load = self._load + (seen / elapsed_s - self._load) * min(1.0, elapsed_ns / averaged_ns)
        self._load, self._averaged_ns = load, averaged_ns
        # While all traces are kept, little is saved, or the next burst would spend it at once.
        most_saved = self._most if self._in_force[0] else self._most_saved
        balance = self._balance + self.per_second * elapsed_s - kept
        self._balance = min(most_saved, max(-self._most, balance))
        wanted = self.per_second + self._balance / self._evened_s
        self._set(min(1.0, max(wanted, self.per_second / 4) / load))

    def _set(self, probability: float) -> None:
        # Never 0: traces that cannot be kept would be missing in adjusted counts.
        rejected = min(threshold(probability), NEVER - 1)
        # One tuple, so that other threads read both parts together.
        self._in_force = rejected, f"ot=th:{threshold_text(rejected)}"
        self._burst = max(2.0, 2 * self.per_second * self._ROUND_NS / 1e9) + max(0.0, self._balance)

    def __repr__(self) -> str:
        return f"Rate({self.per_second})"


def adjusted_count(context: SpanContext | Span) -> float | None:
    """Return how many traces this one represents: 1 / p of its threshold, 0 if it is not sampled.

    None if unknown: the decision is deferred, tracestate has no threshold (as under ``AlwaysOn``), or the threshold
    contradicts the decision. The sum over all kept traces is an unbiased estimate of the number of all traces.
    """
    if isinstance(context, Span):
        context = context.context
    elif not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext or a Span, not {type(context).__name__}")
    if not context.sampled:
        return None if context.deferred else 0.0
    rejected, _ = context.state.sampling()
    if rejected < 0 or randomness(context) < rejected:
        return None
    return NEVER / (NEVER - rejected)


def randomness(context: SpanContext) -> int:
    """Return the 56 random bits of the trace: ``rv`` of its tracestate, or the last of its id."""
    explicit = context.state.sampling()[1]
    return ids_of(context)[0] & _MASK56 if explicit < 0 else explicit


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
    """Return *threshold* as the value of ``th``: 14 lowercase hex digits without trailing zeros, or "0"."""
    return f"{threshold:014x}".rstrip("0") or "0"
