"""Threads that record spans under one shared parent, which ends while they do: counts are exact, and ids are unique.

    python -m tests.tools.shared_parent --threads 8 --spans 200000

The exit status is 1 if something does not add up. Where the interpreter runs without the GIL, so does this.
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Any

import tracekit

if TYPE_CHECKING:
    from collections.abc import Callable


class Ids:
    """An exporter that keeps the ids of spans, and what it reads of them."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, str]] = []
        self.items = 0

    def export(self, spans: Any) -> None:
        """Read *spans* as exporters do."""
        for span in spans:
            self.ids.append((span.context.trace_id, span.context.span_id))
            self.items += len(list(span.attributes.items())) + len(span.events)

    def shutdown(self) -> None:
        """Nothing is held."""


def race(threads: int, spans: int) -> list[str]:
    """Record *spans* spans in each of *threads* threads; return the sums that do not add up."""
    exporter = Ids()
    tracekit.configure(exporter=exporter, buffer_size=threads * spans + 100)
    before = tracekit.statistics()
    parent = tracekit.span("parent")
    start = threading.Barrier(threads)
    ended = threading.Event()
    errors: list[str] = []

    def work(number: int) -> None:
        try:
            start.wait()
            with tracekit.use_span(parent):
                for turn in range(spans):
                    with tracekit.span("work", attributes={"turn": turn}):
                        pass
                    if turn == spans // 2:
                        # Every thread ends it, with its last words: one end counts.
                        parent.set_attribute(f"thread {number}", turn)
                        parent.add_event("half")
                        parent.end()
                        ended.set()
                if not ended.wait(60):
                    errors.append("the parent did not end")
        except BaseException as error:
            errors.append(f"thread {number}: {error!r}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if not tracekit.flush(600):
        errors.append("flush() timed out")
    counts = [now - then for now, then in zip(tracekit.statistics(), before, strict=True)]
    now = tracekit.Statistics(*counts)
    total = threads * spans + 1
    expected = tracekit.Statistics(*[0] * len(counts))._replace(started=total, ended=total, exported=total)
    if now != expected:
        errors.append(f"counted {now}, expected {expected}")
    if len(exporter.ids) != total or len({span for _, span in exporter.ids}) != total:
        errors.append(
            f"{len(exporter.ids)} spans arrived with {len({span for _, span in exporter.ids})} ids, not {total}"
        )
    if {trace for trace, _ in exporter.ids} != {parent.context.trace_id}:
        errors.append("a span is in another trace")
    return errors


def command(name: str, option: str, race: Callable[[int, int], list[str]]) -> int:
    """Run *race* with the threads and the count of ``python -m tests.tools.NAME``; return the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.tools.{name}")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument(option, type=int, default=20_000, dest="count", help="of each thread")
    arguments = parser.parse_args()
    errors = race(arguments.threads, arguments.count)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    print(f"{tracekit.IMPLEMENTATION}, {gil} the GIL: {'; '.join(errors) or 'everything adds up'}")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(command("shared_parent", "--spans", race))
