"""Whether estimates are unbiased and confidence intervals cover the truth, over many fleets; ``bench.fleet --fleets``.

One fleet cannot show either: an estimate two standard deviations from the truth is expected once in twenty. So the
simulation of ``bench.fleet`` is repeated with other seeds. For each estimate *z* is its error in standard deviations;
over many fleets the mean of z is 0 and its standard deviation 1 if the estimate is unbiased and the standard deviation
is right. An interval of 1.96 standard deviations then covers the truth in 95 % of all fleets. The standard deviation is
known here from the probabilities of all traces; a reader of a backend has only the kept ones, and estimates it from
them by ``Estimate.deviation``: the last column has the coverage of that interval.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .fleet_sampling import Estimate, Outcome

Z = 1.96
SIGMAS = 4.0  # a row without fault is called wrong once in 10,000
SKEW = 0.03  # by which the interval from the kept traces may cover less: it is too short where few heavy ones are kept


class Row(NamedTuple):
    """One estimate in many fleets: its errors in known standard deviations, in estimated ones, and relative to the truth.

    The estimated ones are of the fleets in which enough kept traces carry the variance (``Estimate.carriers``).
    """

    sampling: str
    kind: str
    known: list[float]
    estimated: list[float]
    relative: list[float]

    @property
    def bias(self) -> tuple[float, float]:
        """The mean relative error, and its standard error."""
        return statistics.fmean(self.relative), statistics.stdev(self.relative) / len(self.relative) ** 0.5

    @property
    def covered(self) -> tuple[float, float]:
        """The shares of fleets whose truth is in the interval, with the known and with the estimated deviation."""
        known, estimated = (
            sum(abs(z) <= Z for z in errors) / max(1, len(errors)) for errors in (self.known, self.estimated)
        )
        return known, estimated

    @property
    def is_right(self) -> bool:
        """Whether mean and deviation of z, and the coverage in both directions, are within ``SIGMAS`` standard errors."""
        number, judged = len(self.known), len(self.estimated)
        known, estimated = self.covered
        return (
            abs(statistics.fmean(self.known)) <= SIGMAS / number**0.5
            and abs(statistics.stdev(self.known) - 1) <= SIGMAS / (2 * number) ** 0.5
            and abs(known - 0.95) <= _room(number)
            and (not judged or abs(estimated - 0.95) <= _room(judged) + SKEW)
        )


def _room(fleets: int) -> float:
    return SIGMAS * math.sqrt(0.95 * 0.05 / fleets)


def rows(fleets: Iterable[list[Outcome]], least_kept: int) -> list[Row]:
    """Return a row for each kind of trace and way of sampling of which *least_kept* are expected in every fleet."""
    found: dict[tuple[str, str], list[Estimate]] = defaultdict(list)
    for outcomes in fleets:
        for outcome in outcomes:
            for kind, estimate in outcome.kinds.items():
                found[outcome.name, kind].append(estimate)
            # One service in the middle: the estimates of a fleet's services are not independent of each other.
            judged = [one for one in outcome.services if one.expected >= least_kept and one.variance > 0]
            if judged:
                found[outcome.name, "one service"].append(judged[len(judged) // 2])
    made = []
    for (sampling, kind), estimates in found.items():
        if len(estimates) > 1 and all(one.expected >= least_kept and one.variance > 0 for one in estimates):
            known = [one.off for one in estimates]
            trusted = [one for one in estimates if one.carriers >= least_kept]
            estimated = [(one.sum - one.truth) / max(one.deviation, 1e-9) for one in trusted]
            relative = [(one.sum - one.truth) / one.truth for one in estimates]
            made.append(Row(sampling, kind, known, estimated, relative))
    return made


def print_coverage(simulate: Callable[[int], list[Outcome]], fleets: int, seed: int, least_kept: int) -> bool:
    """Print a row for each estimate in *fleets* fleets; return whether all are right."""
    made = rows((simulate(seed + number) for number in range(fleets)), least_kept)
    print("| sampling | estimate of | fleets | bias | mean of z | sd of z | covered | by kept traces alone | right |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for row in made:
        bias, error = row.bias
        known, estimated = row.covered
        mean, deviation = statistics.fmean(row.known), statistics.stdev(row.known)
        cells = [row.sampling, row.kind, str(len(row.known)), f"{bias:+.2%} ± {Z * error:.2%}", f"{mean:+.2f}"]
        cells += [f"{deviation:.2f}", f"{known:.1%}"]
        cells += [
            f"{estimated:.1%} of {len(row.estimated)}" if row.estimated else "-",
            "yes" if row.is_right else "**no**",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    return bool(made) and all(row.is_right for row in made)
