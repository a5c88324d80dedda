"""The recorder of finished requests: counts by family, and samples, bounded in number and in spans.

It is a tap of the export pipeline, so it costs the program's path nothing. A *trace* here is the local part of a trace: a
local root, a span whose parent is None or remote, with the spans below it. Children arrive before their parent as a rule
and wait by the id of their parent; those that arrive later wait there too, and are found when the trace is shown.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from .._configure import add_tap, remove_tap
from .._core.span import open_spans, watch_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.span import Span

__all__ = ["BOUNDS_NS", "FAMILY", "MAX_PENDING", "MAX_SPANS", "Counts", "Family", "Recorder", "Trace", "recorder"]

FAMILY: Final = "tracekit.family"  # the attribute that names the family of a local root, in place of kind and name
BOUNDS_NS: Final = (0, 50_000_000, 100_000_000, 200_000_000, 500_000_000, 10**9, 10**10, 10**11)
_SLOW_NS: Final = BOUNDS_NS[1]
_PER_BUCKET: Final = 10
MAX_SPANS: Final = 20_000  # of all samples, without their roots
MAX_PENDING: Final = 20_000
_MAX_TRACE: Final = 200  # spans of one sample: past that the middle ones are discarded
_MAX_FAMILIES: Final = 256
_OTHER: Final = ("", "(other families)")
_PORTION: Final = 2048  # open spans: 40 µs
# A histogram counts by the bit length of the duration in microseconds: 1 µs, 2 µs, 4 µs ... 19 h.
SLOTS: Final = 37
_MINUTE_NS: Final = 10 * 10**9  # a slot of the last minute
_HOUR_NS: Final = 600 * 10**9
_WINDOW: Final = 6  # slots


class Trace:
    """A finished local trace: its root, the spans below it in the order in which they ended, and those left out."""

    __slots__ = ("left_out", "rings", "root", "spans")

    def __init__(self, root: Span, spans: list[Span], left_out: int) -> None:
        self.root = root
        self.spans = spans
        self.left_out = left_out
        self.rings = 0  # that hold it


class Counts:
    """A latency histogram of a moving window: slots of *slot_ns*, or one without end if that is 0."""

    __slots__ = ("_at", "_slot_ns", "slots")

    def __init__(self, slot_ns: int) -> None:
        self._slot_ns = slot_ns
        self._at = 0
        self.slots = [[0] * SLOTS for _ in range(_WINDOW if slot_ns else 1)]

    def current(self, now_ns: int) -> list[int]:
        """Return the slot to count in, after clearing those that are over."""
        if not self._slot_ns:
            return self.slots[0]
        at = now_ns // self._slot_ns
        for passed in range(min(at - self._at, _WINDOW)):
            self.slots[(at - passed) % _WINDOW] = [0] * SLOTS
        self._at = max(self._at, at)
        return self.slots[self._at % _WINDOW]

    def sums(self, now_ns: int) -> list[int]:
        """Return the counts of the window."""
        self.current(now_ns)
        return [sum(column) for column in zip(*self.slots, strict=True)]


class Family:
    """The counts and samples of the local roots of one kind and name."""

    __slots__ = ("buckets", "errors", "hour", "key", "minute", "rings", "total")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.buckets = [0] * len(BOUNDS_NS)  # number of traces that took at least as long
        self.errors = 0
        self.rings: list[deque[Trace]] = [deque() for _ in range(len(BOUNDS_NS) + 1)]  # the last: errors
        self.minute, self.hour, self.total = Counts(_MINUTE_NS), Counts(_HOUR_NS), Counts(0)


class Recorder:
    """Finished requests, since it was started; ``lock`` is held by readers, for a short time."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.lock = threading.Lock()
        self.is_on = False
        self._clock = clock
        self._forget()

    def start(self, *, records_all: bool) -> None:
        """Record finished requests, and list open ones, from now on. Further calls can only turn *records_all* on."""
        if not self.is_on:
            self.is_on = True
            watch_spans(True)
        add_tap(self.take, records_all=records_all)

    def stop(self) -> None:
        """Stop, and forget everything."""
        if self.is_on:
            self.is_on = False
            watch_spans(False)
        remove_tap(self.take)
        with self.lock:
            self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self.families: dict[tuple[str, str], Family] = {}
        self._pending: dict[bytes, list[Span]] = {}  # finished spans by the id of their parent, oldest first
        self._samples: deque[Trace] = deque()  # those with spans, oldest first
        self.pending = self.evicted = self.kept = self.trimmed = 0

    def take(self, batch: Sequence[Span]) -> None:
        """Count and sample the spans of *batch*. Called in the exporting thread."""
        with self.lock:
            if self._pid != os.getpid():
                self._forget()  # the parent process shows its own
            now_ns = self._clock()
            pending = self._pending
            for span in batch:
                parent = span.parent
                if parent is None or parent.is_remote:
                    self._finish(span, now_ns)
                    continue
                id = parent.id
                waiting = pending.get(id)
                if waiting is None:
                    pending[id] = [span]
                else:
                    waiting.append(span)
                self.pending += 1
            while self.pending > MAX_PENDING:
                gone = len(pending.pop(next(iter(pending))))
                self.pending -= gone
                self.evicted += gone

    def _finish(self, root: Span, now_ns: int) -> None:
        key = family_of(root)
        family = self.families.get(key)
        if family is None:
            if len(self.families) >= _MAX_FAMILIES:
                key = _OTHER
            family = self.families.setdefault(key, Family(key))
        took_ns = (root.end_ns or 0) - root.start_ns
        slot = min((took_ns // 1000).bit_length(), SLOTS - 1)
        family.minute.current(now_ns)[slot] += 1
        family.hour.current(now_ns)[slot] += 1
        family.total.slots[0][slot] += 1
        trace = Trace(root, *self._below(root))
        family.buckets[0] += 1
        self._keep(family.rings[0], trace)
        if took_ns >= _SLOW_NS:
            for at in range(1, len(BOUNDS_NS)):
                if took_ns < BOUNDS_NS[at]:
                    break
                family.buckets[at] += 1
                self._keep(family.rings[at], trace)
        if root.status.code == "error":
            family.errors += 1
            self._keep(family.rings[-1], trace)
        if trace.spans:
            self.kept += len(trace.spans)
            self._samples.append(trace)
            while self.kept > MAX_SPANS:
                self._trim(self._samples.popleft())
            if len(self._samples) > 2 * MAX_SPANS:  # most of them are gone from their rings
                self._samples = deque([sample for sample in self._samples if sample.spans])

    def _below(self, root: Span) -> tuple[list[Span], int]:
        """Take the waiting spans below *root*; return at most 200 of them, and the number of the others."""
        if not self._pending:
            return [], 0
        found: list[Span] = []
        waiting = [root.context.id]
        while waiting:
            children = self._pending.pop(waiting.pop(), None)
            if children is not None:
                found += children
                waiting += [child.context.id for child in children]
        self.pending -= len(found)
        if len(found) <= _MAX_TRACE:
            return found, 0
        found.sort(key=lambda span: span.start_ns)
        left_out = len(found) - _MAX_TRACE
        return found[: _MAX_TRACE // 2] + found[-_MAX_TRACE // 2 :], left_out

    def _keep(self, ring: deque[Trace], trace: Trace) -> None:
        if len(ring) == _PER_BUCKET:
            oldest = ring.popleft()
            oldest.rings -= 1
            if not oldest.rings and oldest.spans:
                self.kept -= len(oldest.spans)
                oldest.spans = []
        ring.append(trace)
        trace.rings += 1

    def _trim(self, trace: Trace) -> None:
        self.kept -= len(trace.spans)
        trace.left_out += len(trace.spans)
        self.trimmed += len(trace.spans)
        trace.spans = []

    def waiting_below(self, id: bytes) -> list[Span]:
        """Return the finished spans that wait for the span with this id: of open traces, and late ones."""
        return list(self._pending.get(id, ()))


def family_of(root: Span) -> tuple[str, str]:
    """Return the key of the family of a local root: kind and name, or "" and the attribute ``tracekit.family``."""
    named = root.attributes.get(FAMILY)
    return ("", named) if isinstance(named, str) else (root.kind, root.name)


def all_open_spans(pace: Callable[[], None], most: int = 200_000) -> tuple[list[Span], bool]:
    """Return the open spans, oldest first, taken in portions, and whether there are more than *most*."""
    taken: list[Span] = []
    while open_spans(taken, _PORTION):
        if len(taken) >= most:
            return taken, True
        pace()
    return taken, False


recorder = Recorder()
