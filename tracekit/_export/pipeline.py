"""The export pipeline: a bounded buffer, one daemon thread, one exporter. Every lost span is counted.

It is a thread and not a task because it serves asyncio, trio and plain threads alike. The program calls
``Buffer.end``, and from this module only ``wake``, once per batch.

Signal handlers and finalizers may call ``statistics()``, ``flush()`` and ``shutdown()`` between any two steps of this
module. Therefore counts are immutable and replaced in one step, a lock that makes a task exclusive is acquired without
waiting, and the one lock that is waited for is reentrant and held for a few steps that run no user code.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .._core import misuse
from .._core.buffer import buffer
from .._core.free_threading import HAS_GIL, unlocked
from .._core.records import Statistics
from .intake import Counts
from .notices import log, spans_of
from .stand_ins import Discard
from .worker import Job, Taps, Worker

if TYPE_CHECKING:
    from .._core.span import Span
    from .exporter import Exporter


class Pipeline:
    """The exporter in use, and the counts of all earlier exporters."""

    def __init__(self) -> None:
        self.taps = Taps()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # one configure() or shutdown() at a time
        # The worker in use and the counts of earlier ones, which readers need from the same moment.
        self._state: tuple[Worker | None, Counts] = (None, Counts())
        self._earlier_drops = 0  # reported already, or of an earlier exporter
        self._are_drops_reported = False
        self._has_exported = False  # without an exporter, spans are recorded for span processors alone
        # The thread that is replacing the exporter, and the arguments of _serve(): a child of a fork has to finish that.
        self._next: tuple[int, Exporter | None, int, float, int | None] | None = None

    @property
    def _worker(self) -> Worker | None:
        return self._state[0]

    @property
    def exporter(self) -> Exporter | None:
        """The exporter in use. Assigning another one neither flushes nor closes the previous one."""
        worker = self._worker
        return None if worker is None or isinstance(worker.intake.exporter, Discard) else worker.intake.exporter

    @exporter.setter
    def exporter(self, exporter: Exporter) -> None:
        worker = self._worker
        if worker is not None:
            worker.use(exporter)
            buffer.mark = worker.mark(buffer.capacity)

    def use(
        self,
        exporter: Exporter | None,
        *,
        capacity: int | None = None,
        interval_s: float = 1.0,
        timeout_s: float = 5.0,
        batch_size: int | None = None,
    ) -> None:
        """Replace the exporter, after the previous one was flushed and closed, for at most *timeout_s*.

        Without one the taps alone are served, if there are any. Without *capacity* the buffer keeps that which it has.
        """
        capacity = buffer.capacity if capacity is None else capacity
        with self._lock:
            self._next = threading.get_ident(), exporter, capacity, interval_s, batch_size
            try:
                self._retire(timeout_s)
                while not self._serve(exporter, capacity, interval_s, batch_size):
                    self._retire(timeout_s)
            finally:
                self._next = None
            worker = self._worker
            if worker is None:
                return
            worker.begin()
            if len(buffer):
                worker.wake()

    def _serve(self, exporter: Exporter | None, capacity: int, interval_s: float, batch_size: int | None) -> bool:
        """Have spans handed to *exporter* from now on; return False if a signal handler has called ``configure()``."""
        buffer.capacity = capacity
        buffer.taken = 0
        self._earlier_drops = self.statistics().dropped
        self._are_drops_reported = False
        self._has_exported = exporter is not None
        if exporter is None and self.taps.taps:
            exporter = Discard()
        buffer.is_open = exporter is not None
        buffer.is_asleep = True
        worker = None
        if exporter is not None:
            worker = Worker(exporter, interval_s, batch_size, self._report_drops, self.taps)
        in_use, counts = state = self._state
        if in_use is not None or not self._swap(state, (worker, counts)):
            return False
        if worker is not None:
            mark = worker.mark(capacity)
            # One statement without a call, as in _swap().
            buffer.mark, buffer.wake = (mark, worker.wake) if self._state[0] is worker else (buffer.mark, buffer.wake)
        return True

    def _swap(self, before: tuple[Worker | None, Counts], after: tuple[Worker | None, Counts]) -> bool:
        """Replace the state *before*; return False if a signal handler has replaced it."""
        # One statement without a call: no signal handler can interrupt it.
        self._state, is_done = (after, True) if self._state is before else (self._state, False)
        return is_done

    def _count(self, more: Counts, retired: Worker | None = None) -> None:
        """Add *more* to the counts of earlier exporters; with *retired*, if that is in use, and end its use."""
        while True:
            state = worker, counts = self._state
            if retired is not None:
                if worker is not retired:  # a signal handler was here
                    return
                worker = None
            if self._swap(state, (worker, counts.plus(more))):
                return

    def flush(self, timeout_s: float) -> bool:
        """Export all spans that ended before this call; return whether that was done within *timeout_s*."""
        worker = self._worker
        return worker is None or worker.flush(timeout_s)

    def shutdown(self, timeout_s: float) -> bool:
        """Flush, then close the exporter; spans that end later are counted as dropped."""
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):  # another thread is configuring or shutting down
            return False
        try:
            self._next = threading.get_ident(), None, buffer.capacity, 1.0, None
            is_done = self._retire(max(0.0, deadline - time.monotonic()))
            buffer.is_open = False
            spans = buffer.drain()
            self._count(Counts(dropped=len(spans)))
            del spans  # not before: callbacks of weak references to them may be here again
            self._report_drops()
            return is_done
        finally:
            self._next = None
            self._lock.release()

    def _retire(self, timeout_s: float) -> bool:
        worker = self._worker
        buffer.wake = None
        if worker is None:
            return True
        if worker.has("hurry"):
            worker.ask("hurry")
        is_done = worker.run(Job(worker.stop, is_last=True), timeout_s)
        final = worker.abandon()
        lost = final.failed - worker.counts.failed  # spans in hand and held
        if lost > 0:
            message = "%s was closed before it had delivered %s: lost"
            worker.notices.say("error", "closed", message, type(worker.intake.exporter).__name__, spans_of(lost))
        self._count(final, worker)
        return is_done

    def statistics(self) -> Statistics:
        """Return the fate of every span."""
        # These counts first: no span is exported before it has ended.
        worker, counts = self._state
        if worker is not None:
            counts = counts.plus(worker.counts)
        passed = buffer.passed
        started, ended, dropped, unsampled, waiting = buffer.counts()
        settled = dropped + unsampled + passed + sum(counts)
        return Statistics(
            started=started,
            ended=ended,
            open=started - ended,
            exported=passed + counts.exported,
            queued=waiting if worker is None else ended - settled,
            dropped=dropped + counts.dropped,
            failed=counts.failed,
            unsampled=unsampled + counts.unsampled,
            misused=misuse.count(),
        )

    def hold(self) -> None:
        """Keep spans in the buffer until they are sent to the parent process, and leave its exporter alone."""
        with self._lock:
            worker = self._worker
            if worker is not None:
                if worker.encoder and worker.encoder.count:
                    worker.flush(1.0)  # encoded spans cannot be sent to the parent process
                self._count(worker.abandon(), worker)
            buffer.wake = None
            buffer.is_open = True
            buffer.taken = 0
            self._are_drops_reported = True  # the parent counts and reports them

    def take(self) -> list[Span]:
        """Return the spans in the buffer, for the parent process to export; they count as exported here."""
        with self._lock:
            spans = buffer.drain()
            self._count(Counts(exported=len(spans)))
            return spans

    def _report_drops(self) -> None:
        dropped = self._state[1].dropped + buffer.counts()[2] - self._earlier_drops
        if dropped > 0 and self._has_exported and not self._are_drops_reported:
            self._are_drops_reported = True  # once until the next configure()
            log("warning", "%d spans dropped: the buffer was full or closed (reported once)", dropped)

    def after_fork(self) -> None:
        """Reset threads, locks and counts in the child of a fork; the exporter stays."""
        worker, exporter, following = self._worker, self.exporter, self._next
        self._reset()
        if worker is not None:
            # A finalizer may have forked while spans were encoded: the parent exports them.
            worker.is_abandoned = True
            worker.close_encoder()
        if following is not None and following[0] != threading.get_ident():
            # The thread of a configure() or shutdown() is gone, and may have closed the exporter.
            self._serve(*following[1:])
        elif worker is not None:
            self._serve(exporter, buffer.capacity, worker.interval_s, worker.wanted_size)


if not HAS_GIL:
    for _name in ("use", "flush", "shutdown", "hold", "take"):
        setattr(Pipeline, _name, unlocked(getattr(Pipeline, _name)))
