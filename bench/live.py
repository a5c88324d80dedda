"""Print the cost of the debug pages: per span, and of a page of 1,000 open requests while an event loop runs beside it.

``python -m bench.live``. A stop is the time between two steps of an event loop that has nothing else to do, above its
usual time: the longest one while pages are drawn in another thread, as ``debug.app()`` and ``debug.serve()`` do.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from statistics import median
from typing import TYPE_CHECKING

import tracekit
from tracekit.debug._access import Gate, Visitor
from tracekit.debug._recorder import Recorder, recorder
from tracekit.debug._respond import respond
from tracekit.testing import MemoryExporter

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


def page(query: str) -> float:
    """Draw the page once; return its nanoseconds."""
    headers = {"host": "localhost", "accept": "text/html"}
    begin = time.perf_counter_ns()
    response = respond(Gate(), Visitor("127.0.0.1", "GET", "/debug/requests", headers), "/requests", query)
    assert response.status == 200
    return time.perf_counter_ns() - begin


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
    _, usual = pages(None)
    rows.append(("longest step without pages", max(usual), "ms", 1e6, 0))
    for name, query in PAGES.items():
        alone = median([page(query) for _ in range(ROUNDS)])
        rows.append((f"{name}: alone", alone, "ms", 1e6, TARGETS_NS["page"]))
        times, found = pages(query)
        rows.append((f"{name}: beside a busy loop", median(times), "ms", 1e6, 0))
        found.sort()
        rows.append((f"{name}: longest stop", found[-1], "ms", 1e6, 0))
        rows.append((f"{name}: stop, 99.9 % are below", found[len(found) * 999 // 1000], "ms", 1e6, TARGETS_NS["stop"]))
    for span in held:
        span.end()
    for name, figure, unit, scale, target in rows:
        wanted = f"  target {target / scale:g} {unit}" if target else ""
        print(f"{name:<52} {figure / scale:>9.2f} {unit}{wanted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
