"""Print the cost of the debug pages: per span, and of a page of 1,000 open requests while an event loop runs beside it.

``python -m bench.live``. A *hold* is the CPU time for which drawing keeps the interpreter from other threads, between two
pauses: the longest of all pages. A *stop* is the time between two steps of an event loop that has nothing else to do while
pages are drawn in another thread, as ``debug.app()`` and ``debug.serve()`` do; on a busy machine it is the scheduler's.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

import tracekit
from tracekit.debug import _respond
from tracekit.debug._access import Gate, Visitor
from tracekit.debug._recorder import Recorder, recorder
from tracekit.debug._respond import respond
from tracekit.debug._view import Pace
from tracekit.testing import MemoryExporter

from . import live_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
SPANS = 20_000
OPEN = 1000
PAGES = {
    "families": "",
    "1,000 open requests, HTML": "fam=server+GET+/&b=-1&n=1000",
    "1,000 open requests, JSON": "fam=server+GET+/&b=-1&n=1000&format=json",
}
TARGETS_NS = {"span": 30, "page": 20_000_000, "stop": 1_000_000}


def per_span(work: Callable[[], None]) -> float:
    """Return the nanoseconds of the calling thread for each span that *work* makes."""
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / SPANS


def requests() -> None:
    """Make requests of ten spans."""
    for _ in range(SPANS // 10):
        with tracekit.span("GET /", kind="server"):
            for _ in range(9):
                with tracekit.span("query"):
                    pass


def span_costs() -> tuple[float, float]:
    """Return how much more a span costs the program with the pages on, and how much the exporting thread."""
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, buffer_size=4 * SPANS)
    differences = []
    for _ in range(ROUNDS):
        figures = {}
        for is_on in (False, True):
            recorder.start(records_all=True) if is_on else recorder.stop()
            figures[is_on] = per_span(requests)
            tracekit.flush()
            spans = list(memory.spans)
            memory.clear()
        differences.append(figures[True] - figures[False])
    recorder.stop()
    mine = Recorder()
    batches = [spans[at : at + 2048] for at in range(0, len(spans), 2048)]
    taken = [per_span(lambda: [mine.take(batch) for batch in batches] and None) for _ in range(ROUNDS)]
    return median(differences), median(taken)


def page(query: str, clock: Callable[[], int] = time.perf_counter_ns) -> float:
    """Draw the page once; return its nanoseconds."""
    headers = {"host": "localhost", "accept": "text/html"}
    begin = clock()
    response = respond(Gate(), Visitor("127.0.0.1", "GET", "/debug/requests", headers), "/requests", query)
    assert response.status == 200
    return clock() - begin


class TimedPace(Pace):
    """Notes the CPU time between two pauses."""

    longest_ns = 0

    def __init__(self) -> None:
        super().__init__()
        self._begin = time.thread_time_ns()

    def __call__(self) -> None:
        before = self._since
        now = time.thread_time_ns()
        super().__call__()
        if self._since != before:  # it has paused
            TimedPace.longest_ns = max(TimedPace.longest_ns, now - self._begin)
            self._begin = time.thread_time_ns()


async def steps(done: threading.Event) -> list[int]:
    """Return the nanoseconds between the steps of an event loop until *done*."""
    found = []
    last = time.perf_counter_ns()
    while not done.is_set():
        await asyncio.sleep(0)
        now = time.perf_counter_ns()
        found.append(now - last)
        last = now
    return found


def pages(query: str | None) -> tuple[list[float], list[int]]:
    """Draw a page in a thread beside an event loop, or only wait; return the times of the pages and of the steps."""
    done = threading.Event()
    times: list[float] = []

    def draw() -> None:
        for _ in range(ROUNDS):
            if query is None:
                time.sleep(0.02)
            else:
                times.append(page(query))
                time.sleep(0.005)
        done.set()

    thread = threading.Thread(target=draw)
    thread.start()
    found = asyncio.run(steps(done))
    thread.join()
    return times, found


def main() -> int:
    """Print a row for each figure, with its target."""
    program_ns, exporting_ns = span_costs()
    rows = [("a span more, program's thread", program_ns, "ns", 1, TARGETS_NS["span"])]
    rows.append(("a span more, exporting thread", exporting_ns, "ns", 1, 0))
    recorder.start(records_all=True)
    held = [tracekit.span("GET /", kind="server") for _ in range(OPEN)]
    held += [tracekit.span("query", parent=span) for span in held[:OPEN]]
    gc.collect()
    gc.freeze()  # a collection of all that was made above would count as a hold
    _, usual = pages(None)
    rows.append(("longest step without pages", max(usual), "ms", 1e6, 0))
    for name, query in PAGES.items():
        cpu = median([page(query, time.thread_time_ns) for _ in range(ROUNDS)])
        rows.append((f"{name}: CPU", cpu, "ms", 1e6, 0))
        alone = median([page(query) for _ in range(ROUNDS)])
        rows.append((f"{name}: alone", alone, "ms", 1e6, TARGETS_NS["page"]))
        TimedPace.longest_ns = 0
        with mock.patch.object(_respond, "Pace", TimedPace):
            for _ in range(ROUNDS):
                page(query)
        rows.append((f"{name}: longest hold", TimedPace.longest_ns, "ms", 1e6, TARGETS_NS["stop"]))
        times, found = pages(query)
        rows.append((f"{name}: beside a busy loop", median(times), "ms", 1e6, 0))
        found.sort()
        rows.append((f"{name}: longest stop", found[-1], "ms", 1e6, 0))
        rows.append((f"{name}: stop, 99.9 % are below", found[len(found) * 999 // 1000], "ms", 1e6, 0))
    for span in held:
        span.end()
    for name, figure, unit, scale, target in rows:
        wanted = f"  target {target / scale:g} {unit}" if target else ""
        print(f"{name:<52} {figure / scale:>9.2f} {unit}{wanted}")
    for name, value in live_tasks.rows():
        print(f"{name:<52} {value:>12}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
