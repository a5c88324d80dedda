"""Print how long the exporting thread holds the GIL at a time: ``python -m bench.hold``; a second.

Encoding and freeing spans are single calls into C, in which no other thread runs; the figures are their CPU time, the
median and the maximum of some rounds. The exporter encodes ``PORTION`` spans at a time and the pipeline frees a batch
at a time; the rows of a whole buffer are what other threads would wait for otherwise. JSON is written in Python, which
gives the GIL back every 5 ms.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import tracekit
from tracekit._core.buffer import buffer
from tracekit._core.otlp import PORTION, encode_spans
from tracekit._export.worker import BATCH

from . import inputs

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Nothing:
    def export(self, spans: Sequence[tracekit.Span]) -> None: ...

    def shutdown(self) -> None: ...


def _made(count: int) -> list[tracekit.Span]:
    for number in range(count):
        with tracekit.span("work", attributes=inputs.attributes_of(number)) as span:
            span.add_event("cache miss")
    spans = buffer.drain()
    assert len(spans) == count
    return spans


def holds(count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of encoding *count* spans, and those of freeing them, for each round."""
    encoded, freed = [], []
    for _ in range(rounds):
        spans = _made(count)
        begin = time.thread_time_ns()
        encode_spans(spans)
        middle = time.thread_time_ns()
        del spans
        encoded.append((middle - begin) / 1e6)
        freed.append((time.thread_time_ns() - middle) / 1e6)
    return encoded, freed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hold", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of each number of spans (default: 30)")
    rounds = parser.parse_args().rounds
    # The pipeline's thread sleeps: the spans are taken here.
    tracekit.configure(exporter=_Nothing(), environ={}, export_interval_s=3600.0, buffer_size=65_536)
    print("| spans | encoding | freeing |")
    print("| ---: | ---: | ---: |")
    for count in (PORTION, BATCH, 16_384):
        cells = [f"{median(one):.2f} ms, at most {max(one):.2f} ms" for one in holds(count, rounds)]
        print(f"| {count:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
