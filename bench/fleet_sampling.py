"""Head, rate and tail sampling in a simulated fleet, with tracekit's samplers: the estimates, and the truth; for ``bench.fleet``."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, NamedTuple

import tracekit
from tracekit import Rate, Ratio, SpanContext, TraceState, adjusted_count
from tracekit._core.context import set_ids
from tracekit._sampling import NEVER
from tracekit.exporters.tail import TailSampler
from tracekit.testing import MemoryExporter

if TYPE_CHECKING:
    from collections.abc import Sequence

RATIOS = (0.01, 0.1, 0.5, 1.0)
RATE = 10.0  # traces a second of each service
RATE_S = 40
SETTLED_S = 3  # after the start and each change of load
FAILED_S = (15, 25)  # when a tenth of the services fails
LEAST_KEPT = 30  # with fewer, an estimate has no normal distribution
ERRORS, SLOW = 0.02, 0.03
FAILED_ERRORS = 1 / 3


class Estimate:
    """The true number of traces, the sum of adjusted counts, and its variance."""

    def __init__(self) -> None:
        self.truth = self.kept = 0
        self.sum = self.variance = self.expected = self.spread = self.estimated = 0.0

    def add(self, probability: float, count: float | None) -> None:
        """Record a trace that was kept with *probability*, with its adjusted count, or None if it was not kept."""
        self.truth += 1
        self.variance += 1 / probability - 1
        self.expected += probability
        self.spread += (1 / probability - 1) ** 2 / probability
        if count is not None:
            self.kept += 1
            self.sum += count
            self.estimated += count * (count - 1)

    @property
    def deviation(self) -> float:
        """The standard deviation of the sum, estimated from the kept traces alone (Horvitz and Thompson)."""
        return math.sqrt(self.estimated)

    @property
    def carriers(self) -> float:
        """The expected number of kept traces that carry the variance: where all are kept alike, of all kept ones.

        Few carry it where most traces are kept, or kept often, and some seldom: most samples then have none of the
        latter, and their estimated deviation is too small.
        """
        return self.variance**2 / self.spread if self.spread else 0.0

    @property
    def off(self) -> float:
        """The error of the estimate in standard deviations."""
        error = self.sum - self.truth
        if self.variance < 1e-9:
            return 0.0 if abs(error) < 1e-6 * max(1, self.truth) else float("inf")
        return error / math.sqrt(self.variance)


class Outcome(NamedTuple):
    """The estimates of one way of sampling: of the fleet by kind of trace, and of each service."""

    name: str
    kinds: dict[str, Estimate]
    services: list[Estimate]

    @property
    def judged(self) -> list[float]:
        """The errors, in sd, of the services that should keep enough traces, and not all."""
        return [one.off for one in self.services if one.expected >= LEAST_KEPT and one.variance > 0]

    @property
    def within(self) -> float:
        """The share of judged services whose truth is within 1.96 sd."""
        judged = self.judged
        return sum(abs(off) <= 1.96 for off in judged) / max(1, len(judged))

    @property
    def is_right(self) -> bool:
        """Whether the estimates, and the share of services, if any is judged, are within four standard deviations."""
        room = 4 * (0.95 * 0.05 / max(1, len(self.judged))) ** 0.5
        offs = [abs(one.off) for one in self.kinds.values()]
        is_covered = not self.judged or abs(self.within - 0.95) <= max(0.01, room)
        return max(offs) <= 4 and is_covered


def loads(services: int, total: float) -> list[float]:
    """Return traces a second of each service; *total* together."""
    harmonic = sum(1 / (number + 1) for number in range(services))
    return [total / harmonic / (number + 1) for number in range(services)]


def _count(bits: int, state: str) -> float | None:
    context = SpanContext(f"{1:08x}{bits:024x}"[:32], "1" * 16, 1, state=_state(state))
    return adjusted_count(context)


def _state(text: str) -> TraceState:
    key, _, value = text.partition("=")
    return TraceState({key: value} if key else {})


def _probability(threshold: int) -> float:
    return (NEVER - threshold) / NEVER


def _fails(service: int) -> bool:
    return service % 10 == 3


def _kind(rng: random.Random, is_failing: bool) -> str:
    draw, errors = rng.random(), FAILED_ERRORS if is_failing else ERRORS
    return "error" if draw < errors else "slow" if draw < errors + SLOW else "plain"


class _Tally:
    """The estimates of an outcome while it comes about."""

    def __init__(self, services: int) -> None:
        self.kinds = {"all": Estimate(), "error": Estimate(), "slow": Estimate()}
        self.services = [Estimate() for _ in range(services)]

    def add(self, service: int, kind: str, probability: float, count: float | None) -> None:
        for estimate in (self.kinds["all"], self.services[service], self.kinds.get(kind)):
            if estimate is not None:
                estimate.add(probability, count)


def head(services: int, total: float, seconds: float, rng: random.Random) -> Outcome:
    """Sample each trace at its root with the ratio of its service; two more services follow the decision."""
    tally = _Tally(services)
    samplers = [Ratio(RATIOS[number % len(RATIOS)]) for number in range(services)]
    for service, load in enumerate(loads(services, total)):
        sampler = samplers[service]
        probability = _probability(sampler.threshold)
        for _ in range(_arrivals(load * seconds, rng)):
            bits = rng.getrandbits(56)
            is_kept, state = sampler.sample(bits, "GET", "server", {})
            count = _count(bits, state) if is_kept else None
            kind = _kind(rng, _fails(service))
            tally.add(service, kind, probability, count)
            for other in {rng.randrange(services), rng.randrange(services)} - {service}:
                tally.services[other].add(probability, count)
    return Outcome("head, ratios of 1, 10, 50 and 100 %", tally.kinds, tally.services)


def _arrivals(mean: float, rng: random.Random) -> int:
    """Return a random number of arrivals, by the normal approximation."""
    return max(0, round(rng.gauss(mean, mean**0.5)))


class Held(NamedTuple):
    """How well the rate targets were held after settling, over services whose load is above the target."""

    mean: float  # kept a second
    worst: float  # of any service over ten seconds in a row, as a share of the target
    within: float  # the share of those ten seconds that are within 10 % of the target


def rate(services: int, total: float, rng: random.Random) -> tuple[Outcome, Held]:
    """Sample each service's traces with a ``Rate``, through a failure of a tenth of the services."""
    tally = _Tally(services)
    kept_per_s, windows = [], []
    for service, load in enumerate(loads(services, total)):
        is_failing = _fails(service)
        now_ns = 0

        def clock() -> int:
            return now_ns  # noqa: B023

        sampler = Rate(RATE, clock=clock)
        kept = [0] * RATE_S
        is_new = False
        while now_ns < RATE_S * 1_000_000_000:
            at_s = now_ns / 1e9
            fails = is_failing and FAILED_S[0] <= at_s < FAILED_S[1]
            if is_failing and at_s >= FAILED_S[1] and not is_new:
                sampler, is_new = Rate(RATE, clock=clock), True
            bits = rng.getrandbits(56)
            is_kept, state = sampler.sample(bits, "GET", "server", {})
            # The probability that was in force for this trace, kept or not; it follows from the past alone.
            probability = _probability(sampler._in_force[0])
            tally.add(service, _kind(rng, fails), probability, _count(bits, state) if is_kept else None)
            kept[int(at_s)] += is_kept
            now_ns += int(1e9 * rng.expovariate(3 * load if fails else load))
        if load >= 1.5 * RATE:
            starts = [0, *(FAILED_S if is_failing else ())]
            for begin, end in zip(starts, [*starts[1:], RATE_S], strict=True):
                settled = kept[begin + SETTLED_S : end]
                kept_per_s.append(sum(settled) / len(settled))
                for at in range(max(1, len(settled) - 9)):
                    part = settled[at : at + 10]
                    windows.append(abs(sum(part) / (RATE * len(part)) - 1))
    mean = sum(kept_per_s) / max(1, len(kept_per_s))
    within = sum(off <= 0.1 for off in windows) / max(1, len(windows))
    held = Held(mean, max(windows, default=0.0), within)
    return Outcome(f"rate, {RATE:g} a second a service", tally.kinds, tally.services), held


def tail(services: int, total: float, seconds: float, rng: random.Random) -> Outcome:
    """Make local traces of three spans under the head's ratio, and let a ``TailSampler`` of each service decide."""
    tally = _Tally(services)
    at_root, at_end = 0.5, 0.1
    tracekit.configure(service="fleet", exporter=_Nowhere(), sampler=Ratio(at_root), environ={})
    set_ids(_Ids(rng))
    try:
        for service, load in enumerate(loads(services, total)):
            memory = MemoryExporter()
            sampler = TailSampler(memory, probability=at_end, keep_slower_than_s=1.0)
            kinds = [_kind(rng, _fails(service)) for _ in range(_arrivals(load * seconds, rng))]
            for number, kind in enumerate(kinds):
                sampler.export(_local_trace(number, kind))
            sampler.shutdown()
            kept = {span.attributes["number"]: adjusted_count(span) for span in memory.roots()}
            for number, kind in enumerate(kinds):
                tally.add(service, kind, at_end if kind == "plain" else at_root, kept.get(number))
    finally:
        set_ids(None)
        tracekit.configure(environ={})
    return Outcome(f"tail, {at_end:.0%}, all errors, all slow, behind {at_root:.0%}", tally.kinds, tally.services)


def _local_trace(number: int, kind: str) -> list[tracekit.Span]:
    """Return the ended spans of a request, children first; none if the root is not sampled."""
    begin_ns = 1_700_000_000_000_000_000
    root = tracekit.span("request", parent=tracekit.ROOT, attributes={"number": number}, start_ns=begin_ns)
    if not root.context.sampled:
        root.end()
        return []
    spans = [tracekit.span("query", parent=root, start_ns=begin_ns) for _ in range(2)]
    if kind == "error":
        spans[1].set_status("error", "timeout")
    spans.append(root)
    for span in spans:
        span.end(begin_ns + (2_000_000_000 if kind == "slow" else 1_000_000))
    return spans


class _Ids:
    """Trace and span ids from the simulation's seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def trace_id(self) -> int:
        return self._rng.getrandbits(128) | 1

    def span_id(self) -> int:
        return self._rng.getrandbits(64) | 1


class _Nowhere:
    """Takes the spans that were handed to the tail samplers directly."""

    def export(self, spans: Sequence[tracekit.Span]) -> None: ...

    def shutdown(self) -> None: ...


def simulate(services: int, total: float, seed: int) -> tuple[list[Outcome], Held]:
    """Return the outcomes for *services* with *total* traces a second together, and how the rates were held."""
    by_rate, held = rate(services, total, random.Random(seed))
    outcomes = [
        head(services, total, 10.0, random.Random(seed)),
        by_rate,
        tail(services, total, 4.0, random.Random(seed)),
    ]
    return outcomes, held
