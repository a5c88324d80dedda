"""Print whether sampling is right in a fleet of 1,000 services, and what a fleet costs: ``python -m bench.fleet``.

A simulation with its own clock, and with tracekit's samplers and back-off, the same for the same ``--seed``:

- **head**: each service has one of four ratios, and starts traces; two further services follow each trace.
- **rate**: each service has a ``Rate``. In the middle a tenth of the services fails: their callers retry, so that three
  times as many traces come, and a third of them are errors; then the processes are replaced, with new samplers.
- **tail**: each service has a ``TailSampler`` behind the head's ratio, which keeps errors, slow traces and a share.

  With head and tail sampling a tenth of the services fails all the time, as above but for the retries.
- **back-pressure**: a collector hangs, then answers 503 to all clients at the same moment, and comes back with half as
  much capacity again as it needs.

Traffic is skewed: the load of the n-th service is proportional to 1/n. An estimate is the sum of ``adjusted_count()``
over the kept traces, and *sd* its standard deviation, from the probabilities that were in force; *off* is the
difference from the truth. In *services within 1.96 sd*, each service that should keep 30 traces or more is an
estimate: 95 % should be.

``python -m bench.fleet --fleets 300`` repeats the simulation with as many seeds, and prints whether the estimates are
unbiased and the intervals of 1.96 sd cover the truth in 95 % of the fleets: see ``fleet_coverage.py``.

``python -m bench.fleet --costs`` prints network, collectors and storage of 100,000 processes of 10,000 spans a second.
"""

from __future__ import annotations

import argparse
import sys

from .fleet_costs import print_costs
from .fleet_coverage import print_coverage
from .fleet_pressure import print_pressure
from .fleet_sampling import LEAST_KEPT, RATE, SETTLED_S, Outcome, simulate


def table(outcomes: list[Outcome]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [
        "| sampling | traces | kept | estimate | off | errors | off | slow | off | services within 1.96 sd | right |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in outcomes:
        cells = [one.name, f"{one.kinds['all'].truth:,}", f"{one.kinds['all'].kept:,}"]
        for kind in ("all", "error", "slow"):
            estimate = one.kinds[kind]
            text = f"{estimate.sum:,.0f}"
            cells += [text if kind == "all" else f"{text} of {estimate.truth:,}", f"{estimate.off:+.1f} sd"]
        cells += [f"{one.within:.1%} of {len(one.judged)}" if one.judged else "-", "yes" if one.is_right else "**no**"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--services", type=int, default=1000, help="number of services (default: 1000)")
    parser.add_argument("--traces", type=float, default=10_000.0, help="new traces a second, together (default: 10000)")
    parser.add_argument("--clients", type=int, default=3000, help="of the collector (default: 3000)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random (default: 1)")
    parser.add_argument("--fleets", type=int, metavar="N", help="only print the coverage of N fleets")
    parser.add_argument("--costs", action="store_true", help="only print what a fleet costs")
    options = parser.parse_args()
    if options.costs:
        print_costs()
        return 0
    if options.fleets:

        def repeat(seed: int) -> list[Outcome]:
            return simulate(options.services, options.traces, seed)[0]

        return 0 if print_coverage(repeat, options.fleets, options.seed, LEAST_KEPT) else 1
    outcomes, held = simulate(options.services, options.traces, options.seed)
    print("\n".join(table(outcomes)))
    print(
        f"\nRate: {held.mean:.2f} traces a second kept by services above the target of {RATE:g}, from {SETTLED_S} s after"
        f" each change;\n{held.within:.2%} of all ten seconds in a row are within 10 % of it, the worst are off by {held.worst:.1%}.\n",
        flush=True,
    )
    print_pressure(options.clients, options.seed)
    return 0 if all(one.is_right for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
