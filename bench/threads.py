"""Two threads beside one: ``python -m bench.threads``, for interpreters that run without the GIL.

Each round measures one thread and then two, so that a machine that changes its speed cancels out, and counts only rounds
in which both threads had a processor. A thread of each processor records spans under a span of its own, or under one that
both share; ``floor`` sets a ContextVar of its own twice, which is the most that could be had. What two threads do in the
time of one is printed as a multiple: 2 is perfect, 1 is the GIL.
"""

from __future__ import annotations

import argparse
import contextvars
import os
import sys
import threading
import time
from statistics import median
from typing import TYPE_CHECKING

import tracekit

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 0.75  # of a round's two processors, the share that its threads must have had


class Discard:
    """An exporter that keeps nothing."""

    def export(self, spans: object) -> None:
        """Drop *spans*."""

    def shutdown(self) -> None:
        """Nothing is held."""


class Gang:
    """Two threads, each on a processor, that wait for work: *bodies* make what one does in a round."""

    def __init__(self, bodies: list[Callable[[int], None]], contexts: list[contextvars.Context], spans: int) -> None:
        self._bodies, self._spans = bodies, spans
        self._go = [threading.Semaphore(0) for _ in bodies]
        self._done = threading.Semaphore(0)
        self._is_over = False
        self._count = 1
        self._arrived = [0] * len(bodies)
        self._took = [(0, 0, 0)] * len(bodies)
        for number, context in enumerate(contexts):
            threading.Thread(target=context.run, args=(self._serve, number), daemon=True).start()

    def _serve(self, number: int) -> None:
        if hasattr(os, "sched_setaffinity"):
            processors = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {processors[number % len(processors)]})
        while True:
            self._go[number].acquire()
            if self._is_over:
                return
            self._arrived[number] = 1
            while sum(self._arrived) < self._count:
                pass
            start, used = time.perf_counter_ns(), time.thread_time_ns()
            self._bodies[number](self._spans)
            self._took[number] = start, time.perf_counter_ns(), time.thread_time_ns() - used
            self._done.release()

    def run(self, count: int) -> tuple[float, float]:
        """Let *count* threads work; return the processor time of a span in ns, and how many processors they had."""
        self._count, self._arrived = count, [0] * len(self._bodies)
        for go in self._go[:count]:
            go.release()
        for _ in range(count):
            self._done.acquire()
        took = self._took[:count]
        used = sum(spent for _, _, spent in took)
        return used / (self._spans * count), used / (
            max(end for _, end, _ in took) - min(start for start, _, _ in took)
        )

    def stop(self) -> None:
        """End the threads."""
        self._is_over = True
        for go in self._go:
            go.release()


def floor() -> tuple[list[Callable[[int], None]], list[contextvars.Context]]:
    """Two changes of a ContextVar of the thread's own."""

    def body() -> Callable[[int], None]:
        variable: contextvars.ContextVar[int | None] = contextvars.ContextVar("floor", default=None)

        def work(spans: int) -> None:
            change = variable.set
            for _ in range(spans):
                change(1)
                change(None)

        return work

    return [body(), body()], [contextvars.Context(), contextvars.Context()]


def with_span(spans: int) -> None:
    span = tracekit.span
    for _ in range(spans):
        with span("work"):
            pass


def under_own(spans: int) -> None:
    with tracekit.span("own"):
        with_span(spans)


def own() -> tuple[list[Callable[[int], None]], list[contextvars.Context]]:
    """``with span()`` under a span of the thread's own."""
    return [under_own, under_own], [contextvars.Context(), contextvars.Context()]


def shared() -> tuple[list[Callable[[int], None]], list[contextvars.Context]]:
    """``with span()`` under a span that both threads share."""
    base = contextvars.Context()
    base.run(tracekit.use_span(tracekit.span("shared")).__enter__)
    return [with_span, with_span], [base.copy(), base.copy()]


def measure(
    make: Callable[[], tuple[list[Callable[[int], None]], list[contextvars.Context]]], spans: int, rounds: int
) -> str:
    """Return a row of the table."""
    gang = Gang(*make(), spans)
    alone, ratios = [], []
    for _ in range(rounds):
        one, _ = gang.run(1)
        two, processors = gang.run(2)
        alone.append(one)
        if processors > 2 * WINDOW:
            ratios.append(one / two)
        tracekit.flush(60)
    gang.stop()
    scaled = f"{2 * median(ratios):.2f}" if ratios else "no round had both processors"
    return f"| {make.__name__} | {median(alone):.0f} | {scaled} | {len(ratios)} |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__.partition("\n")[0])
    parser.add_argument("--spans", type=int, default=20_000, help="of each thread in a round")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    tracekit.configure(exporter=Discard(), buffer_size=1 << 20, export_interval_s=3600.0)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    print(f"CPython {sys.version.split()[0]} {gil} the GIL, {tracekit.IMPLEMENTATION}")
    print("| work | ns for one thread | what two threads do, one = 1 | rounds |\n|---|---|---|---|")
    for make in (floor, own, shared):
        print(measure(make, options.spans, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
