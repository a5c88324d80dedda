"""What a fleet costs in network, collectors and storage, from measured sizes; for ``bench.fleet --costs``."""

from __future__ import annotations

import gzip
import math
import random
from typing import Any, NamedTuple

import tracekit
from tracekit.exporters.otlp import encode_spans
from tracekit.testing import recording

PROCESSES, SPANS_PER_S = 100_000, 10_000
SPANS_PER_TRACE = 8  # of a request in one process, as in bench.service
# Processor seconds for 100,000 such spans, as docs/scale.md has them of `python -m tests.tools.collector --rate 100000`: of
# the process, making and exporting them, and of a Collector that writes them to a file.
PROCESS_CPU_S, COLLECTOR_CPU_S = 0.16, 0.30
LOAD = 0.5  # of a collector's core: the rest is for the spans that wait while it restarts
BATCH = 2048
DAY_S = 86_400
ERRORS = 0.01
TABLES = ("items", "prices", "stock", "orders", "customers")


class Sizes(NamedTuple):
    """The octets of a span in OTLP, in batches of ``BATCH``, plain and with gzip."""

    plain: float
    packed: float


def sizes() -> Sizes:
    """Encode a batch of requests of eight spans, with five attributes each, two of them random, and an event in one."""
    rng = random.Random(1)

    def attributes() -> dict[str, Any]:
        own = {"item.id": f"{rng.getrandbits(64):016x}", "customer.id": rng.getrandbits(40)}
        return {**own, "http.route": "/items/{number}", "cache.hit": False, "db.collection.name": rng.choice(TABLES)}

    with recording() as memory:
        for _ in range(BATCH // SPANS_PER_TRACE):
            with tracekit.span("GET /items/{number}", kind="server", attributes=attributes()):
                for step in range(SPANS_PER_TRACE - 1):
                    with tracekit.span(f"step {step}", attributes=attributes()) as span:
                        if step == 0:
                            span.add_event("cache miss")
    body = encode_spans(memory.spans)
    return Sizes(len(body) / len(memory.spans), len(gzip.compress(body, 6)) / len(memory.spans))


class Cost(NamedTuple):
    """The costs of one setting: shares of spans on the way to the collectors, and into the store."""

    name: str
    sent: float
    stored: float


def settings() -> list[Cost]:
    """Return the settings, for a load of ``SPANS_PER_S`` in each process."""
    traces_per_s = SPANS_PER_S / SPANS_PER_TRACE

    def limited(per_second: float) -> float:
        return min(1.0, per_second / traces_per_s)

    tail = ERRORS + (1 - ERRORS) * 0.01
    return [
        Cost("all", 1, 1),
        Cost("`Ratio(0.1)`", 0.1, 0.1),
        Cost("`Ratio(0.01)`", 0.01, 0.01),
        Cost("`Ratio(0.001)`", 0.001, 0.001),
        Cost("`Rate(10)`", limited(10), limited(10)),
        Cost("`Rate(1)`", limited(1), limited(1)),
        Cost(f"`TailSampler(probability=0.01)`, {ERRORS:.0%} errors", tail, tail),
        Cost("the same behind `Ratio(0.1)`", 0.1 * tail_behind(0.1), 0.1 * tail_behind(0.1)),
        Cost("`Ratio(0.1)`, tail sampling at 1 % in the collectors", 0.1, 0.1 * tail_behind(0.1)),
    ]


def tail_behind(ratio: float, probability: float = 0.01) -> float:
    """Return the share that tail sampling keeps of the traces that *ratio* has kept: the thresholds are consistent."""
    return ERRORS + (1 - ERRORS) * min(1.0, probability / ratio)


def collector_per_s() -> float:
    """Return the spans a second that one core of a collector takes at ``LOAD``."""
    return LOAD * 100_000 / COLLECTOR_CPU_S


def print_costs() -> None:
    """Print the sizes, and a row for each setting."""
    size = sizes()
    print(
        f"{PROCESSES:,} processes of {SPANS_PER_S:,} spans a second. A span takes {size.plain:.0f} B in OTLP, {size.packed:.0f} B"
        f" with gzip, in batches of\n{BATCH:,}. 100,000 spans take {PROCESS_CPU_S:.2f} s of processor time in the process, and"
        f" {COLLECTOR_CPU_S:.2f} s in a collector; its cores are\n{LOAD:.0%} busy, with {collector_per_s():,.0f} spans a second"
        " each.\n"
    )
    print(
        "| sampling | spans sent a second | network | network, gzip | per process, gzip | collectors' cores | stored a day, gzip |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in settings():
        per_s = PROCESSES * SPANS_PER_S * one.sent
        stored = PROCESSES * SPANS_PER_S * one.stored * size.packed * DAY_S
        cells = [
            one.name,
            f"{per_s:,.0f}",
            _scaled(per_s * size.plain * 8, "bit/s"),
            _scaled(per_s * size.packed * 8, "bit/s"),
            _scaled(per_s * size.packed * 8 / PROCESSES, "bit/s"),
            f"{math.ceil(per_s / collector_per_s()):,}",
            _scaled(stored, "B"),
        ]
        print(f"| {' | '.join(cells)} |")


def _scaled(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:,.1f} P{unit}"
