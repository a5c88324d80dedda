# cython: nonecheck=True
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
from .._core.records import STATUS_CODES
from .._core.span import open_spans, watch_spans
from .._forks import call_in_child
from ..cython import binding, cclass, compiled, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.context import SpanContext
    from .._core.span import Span

FAMILY: Final = "tracekit.family"  # the attribute that names the family of a local root, in place of kind and name
BOUNDS_NS: Final = (0, 50_000_000, 100_000_000, 200_000_000, 500_000_000, 10**9, 10**10, 10**11)
MAX_FAMILIES: Final = 256
SLOTS: Final = 37  # a histogram counts by the bit length of the duration in microseconds: 1 µs, 2 µs, 4 µs ... 19 h
_PORTION: Final = 2048  # open spans: 40 µs
_MAX_OPEN: Final = 200_000
_OTHER: Final = ("", "(other families)")
_MINUTE_NS: Final = 10 * 10**9  # a slot of the last minute
_HOUR_NS: Final = 600 * 10**9
_ERROR: Final = STATUS_CODES.index("error")
_SPREAD: Final = 0x1E3779B97F4A7C15

if not compiled:
    _SLOW_NS: Final = BOUNDS_NS[1]
    _PER_BUCKET: Final = 10
    _MAX_TRACE: Final = 200  # spans of one sample: past that the middle ones are discarded
    _WINDOW: Final = 6  # slots
    _MASK: Final = (1 << 64) - 1


def _key_of(context: SpanContext) -> int:
    """Return 64 bits of the ids of *context*, which tell spans apart also where ids are small numbers."""
    if compiled:
        return context._low * _SPREAD ^ context._span
    return (context._low * _SPREAD & _MASK) ^ context._span


@final
@binding(False)
@cclass
class Trace:
    """A finished local trace: its root, the spans below it in the order in which they ended, and those left out."""

    if not compiled:
        __slots__ = ("left_out", "rings", "root", "spans")

    def __init__(self, root: Span) -> None:
        self.root = root
        self.spans: list[Span] = []
        self.left_out = 0
        self.rings = 0  # that hold it


@final
@binding(False)
@cclass
class Counts:
    """A latency histogram of a moving window: six slots of *slot_ns*, or one without end if that is 0."""

    if not compiled:
        __slots__ = ("_at", "_slot_ns", "slots")

    def __init__(self, slot_ns: int) -> None:
        self._slot_ns = slot_ns
        self._at = 0
        self.slots: list[list[int]] = [[0] * SLOTS for _ in range(_WINDOW if slot_ns else 1)]

    def count(self, now_ns: int, slot: int) -> None:
        """Count a duration in *slot*."""
        at = now_ns // self._slot_ns if self._slot_ns else 0
        if at > self._at:
            self._move(at)
        column: list[int] = self.slots[self._at % _WINDOW]
        column[slot] += 1

    def _move(self, at: int) -> None:
        """Clear the slots that are over."""
        for passed in range(min(at - self._at, _WINDOW)):
            self.slots[(at - passed) % _WINDOW] = [0] * SLOTS
        self._at = at

    def sums(self, now_ns: int) -> list[int]:
        """Return the counts of the window."""
        at = now_ns // self._slot_ns if self._slot_ns else 0
        if at > self._at:
            self._move(at)
        return [sum(column) for column in zip(*self.slots, strict=True)]


@final
@binding(False)
@cclass
class Family:
    """The counts and samples of the local roots of one kind and name."""

    if not compiled:
        __slots__ = ("buckets", "errors", "hour", "key", "minute", "rings", "total")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.buckets = [0] * len(BOUNDS_NS)  # number of traces that took at least as long
        self.errors = 0
        self.rings: list[list[Trace]] = [[] for _ in range(len(BOUNDS_NS) + 1)]  # oldest first; the last: errors
        self.minute = Counts(_MINUTE_NS)
        self.hour = Counts(_HOUR_NS)
        self.total = Counts(0)


@final
@binding(False)
@cclass
class Recorder:
    """Finished requests, since it was started; ``lock`` is held by readers, for a short time."""

    def __init__(
        self, clock: Callable[[], int] = time.monotonic_ns, *, max_spans: int = 20_000, max_pending: int = 20_000
    ) -> None:
        self.max_spans = max_spans  # of all samples, without their roots
        self.max_pending = max_pending
        self.lock = threading.Lock()
        self.is_on = False
        self._clock = clock
        self.in_child: Callable[[], object] | None = None  # called in the child of a fork, after its first batch
        self.forget()

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
            self.forget()

    def forget(self) -> None:
        """Forget every request."""
        self._pid = os.getpid()
        self.families: dict[tuple[str, str], Family] = {}
        self._pending: dict[int, list[Span]] = {}  # finished spans by the key of their parent, oldest first
        self._samples: deque[Trace] = deque()  # those with spans, oldest first
        self.pending = self.evicted = self.kept = self.trimmed = 0

    def after_fork(self) -> None:
        """Replace the lock, which a thread that the child does not have may hold."""
        self.lock = threading.Lock()

    def take(self, batch: Sequence[Span]) -> None:
        """Count and sample the spans of *batch*. Called in the exporting thread."""
        with self.lock:
            is_child = self._pid != os.getpid()
            if is_child:
                self.forget()  # the parent process shows its own
            self._take(batch, self._clock())
        if is_child and self.in_child is not None:
            self.in_child()

    def _take(self, batch: Sequence[Span], now_ns: int) -> None:
        for span in batch:
            parent = span.parent
            if parent is None or parent._remote:
                self._finish(span, now_ns)
                continue
            key = _key_of(parent)
            waiting = self._pending.get(key)
            if waiting is None:
                self._pending[key] = [span]
            else:
                waiting.append(span)
            self.pending += 1
        while self.pending > self.max_pending:
            gone = len(self._pending.pop(next(iter(self._pending))))
            self.pending -= gone
            self.evicted += gone

    def _finish(self, root: Span, now_ns: int) -> None:
        key = family_of(root)
        family = self.families.get(key)
        if family is None:
            if len(self.families) >= MAX_FAMILIES:
                key = _OTHER
            family = self.families.get(key)
            if family is None:
                family = self.families[key] = Family(key)
        took_ns = root._stop - root._start
        micros = took_ns // 1000
        slot = 0
        while micros and slot < SLOTS - 1:
            micros >>= 1
            slot += 1
        family.minute.count(now_ns, slot)
        family.hour.count(now_ns, slot)
        family.total.count(now_ns, slot)
        trace = Trace(root)
        if self.pending:
            self._gather(trace)
        family.buckets[0] += 1
        self._keep(family.rings[0], trace)
        if took_ns >= _SLOW_NS:
            for at in range(1, len(BOUNDS_NS)):
                if took_ns < BOUNDS_NS[at]:
                    break
                family.buckets[at] += 1
                self._keep(family.rings[at], trace)
        if root._status == _ERROR:
            family.errors += 1
            self._keep(family.rings[len(BOUNDS_NS)], trace)
        if trace.spans:
            self.kept += len(trace.spans)
            self._samples.append(trace)
            while self.kept > self.max_spans:
                self._trim(self._samples.popleft())
            if len(self._samples) > 2 * self.max_spans:  # most of them are gone from their rings
                self._samples = deque([sample for sample in self._samples if sample.spans])

    def _gather(self, trace: Trace) -> None:
        """Move the waiting spans below the root of *trace* to it: at most 200, the others are left out."""
        found: list[Span] = []
        span = trace.root
        at = 0
        while True:
            children = self._pending.pop(_key_of(span.context), None)
            if children is not None:
                found += children
            if at == len(found):
                break
            span = found[at]
            at += 1
        self.pending -= len(found)
        if len(found) > _MAX_TRACE:
            found.sort(key=_start_of)
            trace.left_out = len(found) - _MAX_TRACE
            found = found[: _MAX_TRACE // 2] + found[len(found) - _MAX_TRACE // 2 :]
        trace.spans = found

    def _keep(self, ring: list[Trace], trace: Trace) -> None:
        if len(ring) == _PER_BUCKET:
            oldest = ring.pop(0)
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

    def waiting_below(self, span: Span) -> list[Span]:
        """Return the finished spans that wait for *span*: of open traces, and late ones."""
        return list(self._pending.get(_key_of(span.context), ()))


def _start_of(span: Span) -> int:
    return span._start


def family_of(root: Span) -> tuple[str, str]:
    """Return the key of the family of a local root: kind and name, or "" and the attribute ``tracekit.family``."""
    if root._attributes is not None and root._attributes.has(FAMILY):
        named = root.attributes[FAMILY]
        if isinstance(named, str):
            return "", named
    return root._kind, root._name


def all_open_spans(pace: Callable[[], None]) -> tuple[list[Span], bool]:
    """Return the open spans, oldest first, and whether there may be others: from 200,000 on it takes no more portions."""
    taken: list[Span] = []
    while open_spans(taken, _PORTION):
        if len(taken) >= _MAX_OPEN:
            return taken, True
        pace()
    return taken, False


recorder = Recorder()

call_in_child(recorder.after_fork)
