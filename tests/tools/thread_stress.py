"""Threads that write, read, end and leave the same spans and scopes at once: nothing is lost, and nothing crashes.

    python -m tests.tools.thread_stress --threads 8 --turns 50000

The exit status is 1 if something does not add up. Meant for interpreters that run without the GIL, where a mistake is a
crash or a report of ThreadSanitizer (``make tsan``).
"""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit._core.changes import relabel
from tracekit._core.labels import Labels
from tracekit._core.otlp import encode_spans
from tracekit._core.span import open_spans, watch_spans

from .shared_parent import command

if TYPE_CHECKING:
    from collections.abc import Callable


class Reader:
    """An exporter that reads all of every span, and keeps the ids."""

    def __init__(self) -> None:
        self.ids: set[tuple[str, str]] = set()
        self.spans = self.repeated = self.bad = 0

    def export(self, spans: Any) -> None:
        """Read *spans*."""
        encode_spans(spans)
        for span in spans:
            ids = span.context.trace_id, span.context.span_id
            self.repeated += ids in self.ids
            self.ids.add(ids)
            self.bad += span.end_ns is None or span.end_ns < span.start_ns or not span.name
            self.bad += len(span.attributes) > 200 or len(span.events) > 200 or len(span.links) > 200
        self.spans += len(spans)

    def shutdown(self) -> None:
        """Nothing is held."""


class Stress:
    """The spans that threads share, and the count of those that they start."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.root = tracekit.span("root")
        self.scope = tracekit.use_span(self.root)
        self.home = contextvars.copy_context()
        self.home.run(self.scope.__enter__)
        # Each is ended by all threads, and entered and left by all.
        self.ended = [tracekit.span(f"ended by all {at}") for at in range(500)]
        self.entered = [tracekit.span(f"entered by all {at}") for at in range(500)]
        self.expected = 1 + len(self.ended) + len(self.entered)
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def work(self, number: int) -> None:
        """Do every kind of thing in turn."""
        kinds: list[Callable[[int, int], int]] = [self.write, self.read, self.end, self.label, self.enter, self.rename]
        started = 0
        try:
            for turn in range(self.turns):
                with tracekit.span("outer") as span:
                    span.set_attribute("turn", turn)
                    kind = kinds[turn % len(kinds)]
                    started += 1 + kind(number, turn)
                    # Threads that have entered the same span leave each other's openings.
                    if kind != self.enter and tracekit.current_span() is not span:
                        raise AssertionError("another span is current")
                if turn == self.turns // 2 and number == 0:
                    # Closed where it was opened, under the scopes of all other threads.
                    self.home.run(self.scope.__exit__, None, None, None)
                    self.root.end()
        except BaseException:
            self.errors.append(traceback.format_exc())
        with self._lock:
            self.expected += started

    def write(self, number: int, turn: int) -> int:
        """Write to the span of all."""
        self.root.set_attribute(f"key {(turn + number) % 100}", f"{turn}")
        self.root.set_attributes({f"key {number}": [turn, turn], "text": "x" * (turn % 7)})
        self.root.add_event("event", {"turn": turn})
        self.root.add_link(self.entered[0], {"turn": turn})
        return 0

    def read(self, number: int, turn: int) -> int:
        """Read the span of all while others write to it."""
        root = self.root
        _ = dict(root.attributes), root.events, root.links, root.name, root.status, root.context, repr(root)
        taken: list[Any] = []
        open_spans(taken, 50)
        return 0

    def end(self, number: int, turn: int) -> int:
        """End a span that all end."""
        self.ended[turn // 6 % len(self.ended)].end()
        return 0

    def label(self, number: int, turn: int) -> int:
        """Put labels around a span, change those of the span of all, and copy the Context."""
        with tracekit.use_labels(key=str(turn % 8)), tracekit.span("inner") as span:
            context = contextvars.copy_context()
            if context.run(tracekit.current_span) is not span:
                raise AssertionError("the copy has another span")
        if turn % 60 == number:
            relabel(self.root, Labels({"turn": str(turn)}))
        return 1

    def enter(self, number: int, turn: int) -> int:
        """Enter and leave a span that others enter, leave and end."""
        with self.entered[turn // 6 % len(self.entered)]:
            tracekit.current_context()
        return 0

    def rename(self, number: int, turn: int) -> int:
        """Change texts of the span of all."""
        self.root.update_name(f"root {turn}")
        self.root.set_status("error", f"turn {turn}")
        try:
            with tracekit.span("fails"):
                raise ValueError(turn)
        except ValueError:
            pass
        return 1


def run(threads: int, turns: int) -> list[str]:
    """Let *threads* threads do *turns* things each; return what is wrong."""
    reader = Reader()
    tracekit.configure(exporter=reader, buffer_size=threads * turns * 2 + 2000)
    watch_spans(True)
    before = tracekit.statistics()
    stress = Stress(turns)
    base = stress.home.copy()
    workers = [threading.Thread(target=base.copy().run, args=(stress.work, number)) for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        watch_spans(False)
    for span in [stress.root, *stress.ended, *stress.entered]:
        span.end()
    del span
    gc.collect()
    errors = stress.errors
    if not tracekit.flush(600):
        errors.append("flush() timed out")
    now = tracekit.statistics()
    counts = [
        getattr(now, name) - getattr(before, name) for name in ("started", "ended", "exported", "dropped", "open")
    ]
    if counts != [stress.expected] * 3 + [0, 0]:
        errors.append(f"counted {counts}, expected {stress.expected}")
    if (reader.spans, reader.repeated, reader.bad) != (stress.expected, 0, 0):
        errors.append(f"{reader.spans} spans arrived, {reader.repeated} ids twice, {reader.bad} bad")
    return errors


if __name__ == "__main__":
    sys.exit(command("thread_stress", "--turns", run))
