"""Two threads beside one: ``python -m bench.threads``, for interpreters that run without the GIL.

Each thread records spans under its own parent (``own``), or all under one parent (``shared``). In ``floor`` each thread
changes its own ContextVar twice, which a span cannot do without. The best of many short rounds counts, because other
programs take processors away. The ratio is the number of spans that two threads end while one thread ends one: 2 is
perfect, 1 is what the GIL allows.
"""

from __future__ import annotations

import argparse
import contextvars
import sys
import threading
import time
from contextlib import nullcontext

import tracekit


class Discard:
    """An exporter that keeps nothing."""

    def export(self, spans: object) -> None:
        """Drop *spans*."""

    def shutdown(self) -> None:
        """Nothing is held."""


def floor(count: int) -> None:
    """Change a ContextVar of the thread's own."""
    variable: contextvars.ContextVar[int | None] = contextvars.ContextVar("floor", default=None)
    change = variable.set
    for _ in range(count):
        change(1)
        change(None)


def spans(count: int) -> None:
    """Record spans under the current one."""
    span = tracekit.span
    for _ in range(count):
        with span("work"):
            pass


def window_ns(work: str, threads: int, count: int) -> float:
    """Let *threads* threads work at once; return the time between the first start and the last end, for one of *count*."""
    arrived: list[bool] = []
    times: list[int] = []

    def run() -> None:
        with tracekit.span("own") if work == "own" else nullcontext():
            spans(10)  # a thread's first ones
            arrived.append(True)
            while len(arrived) < threads:  # a barrier would wake them one after the other
                pass
            times.append(time.perf_counter_ns())
            (floor if work == "floor" else spans)(count)
            times.append(time.perf_counter_ns())

    with tracekit.span("shared") if work == "shared" else nullcontext():
        workers = [threading.Thread(target=contextvars.copy_context().run, args=(run,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    tracekit.flush(60)  # as the exporter's thread does in programs, so that memory is used again
    return (max(times) - min(times)) / count


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__.partition("\n")[0])
    parser.add_argument("--spans", type=int, default=1_000, help="of each thread in a round")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    tracekit.configure(exporter=Discard(), buffer_size=1 << 20, export_interval_s=3600.0)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    print(f"CPython {sys.version.split()[0]} {gil} the GIL, {tracekit.IMPLEMENTATION}")
    print("| work | ns, one thread | ns, two threads | ratio |\n|---|---:|---:|---:|")
    for work in ("floor", "own", "shared"):
        one, two = (min(window_ns(work, threads, options.spans) for _ in range(options.rounds)) for threads in (1, 2))
        print(f"| {work} | {one:.0f} | {two:.0f} | {2 * one / two:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
