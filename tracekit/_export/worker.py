"""The thread that drains the buffer and calls the exporter: started on demand, and again if it is gone.

Signal handlers and finalizers may call it between any two steps: see ``pipeline.py`` for its rules.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from .._core.buffer import buffer
from .._core.span import Span, check_clock
from .intake import Counts, Intake
from .notices import Notices, spans_of
from .on_demand import OnDemand
from .stand_ins import LaterExporter
from .threads import EXPORT_CONTEXT, Done, Empty, is_interrupted, keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .exporter import Exporter

_PAUSE_S = 0.05
_YIELD_S = 1e-6  # 0 would take the GIL back before a waiting thread has woken
# Spans that an exporter prepares at a time: while they are in the processor's cache, and their memory goes back to the
# program before it has to take other memory. Encoding all at half full costs the program 5 us a request of eight spans.
PIECE: Final = 512
BATCH: Final = 2048  # spans that an exporter gets at once
# Encoded spans of one request: a request takes 0.7 ms of the processor's time, and the program's waits for the GIL.
REQUEST: Final = 8192
MARK: Final = 384  # waiting spans at which it is woken: some more arrive before it runs

_RAISED: Final = object()  # the answer of an exporter that raised


class Job:
    """A function to be called in the exporting thread; *is_last* ends that thread."""

    def __init__(self, run: Callable[[], object], *, is_last: bool = False) -> None:
        self.run = run
        self.is_last = is_last
        self.done = Done()


class Worker(OnDemand):
    """One exporter, the spans between the buffer and it, and their counts; its thread works, or a caller that waits."""

    def __init__(
        self, exporter: Exporter, interval_s: float, batch_size: int | None, after: Callable[[], None], taps: Taps
    ) -> None:
        super().__init__("tracekit-export")
        self.taps = taps
        self.notices = Notices()
        self.intake = Intake(exporter, self.notices)
        self.counts = Counts()
        self.after = after  # called after each drain
        self.interval_s = interval_s
        self.wanted_size = batch_size
        self.batch_size = min(batch_size or BATCH, buffer.capacity)  # spans in a batch wait, too
        self.is_over = False  # the last job is done
        self.is_abandoned = False
        self.in_hand = 0  # spans that were drained from the buffer and not counted yet
        # The spans that the exporter has prepared, in its own form, and their number; delivered at *due*.
        self.prepared_by: Any = None
        self.parcels: list[Any] = []
        self.prepared = 0
        # Encodes spans in the threads that end them, for one exporter alone; None if that has no encoder.
        self.encodes_for: Any
        self.encoder: Any
        self._encode_for(exporter)
        self.due = 0.0  # on the monotonic clock
        self.lock = threading.RLock()  # for in_hand, counts and is_abandoned

    def wake(self) -> None:
        if not self.ensure():
            buffer.is_asleep = True  # the next span tries again
        elif not self._encodes or self.taps.taps or "export" in self._own or self.encoder.work():
            self.inbox.put(None)

    def begin(self) -> None:
        """Have the exporter begin, as with the batches of an earlier process in its spool; see ``LaterExporter``."""
        exporter = self.intake.exporter
        if isinstance(exporter, LaterExporter):
            if exporter.at_once:
                self.inbox.put(Job(self._make))
                self.start()
        elif self.has("start"):
            self.ask("start")

    def run(self, job: Job, timeout_s: float) -> bool:
        """Have *job* run after all earlier ones; return whether it is done within *timeout_s*."""
        return self.is_over or self.is_abandoned or self.call(job, job.done, timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Export the spans in the buffer, and have the exporter deliver the spans that it holds."""
        deadline = time.monotonic() + timeout_s
        is_done = True

        def run() -> None:
            nonlocal is_done
            is_done = False
            self.drain()
            # A finalizer that waits for this may have interrupted the encoding of spans that ended before.
            is_done = not self.encoder or not self.encoder.busy
            if self.has("flush") and not is_interrupted():
                is_done = bool(self.ask("flush", max(0.0, deadline - time.monotonic()))) and is_done
                self.settle(0, 0)

        return self.run(Job(run), timeout_s) and is_done

    def _encode_for(self, exporter: Exporter) -> None:
        """Have the threads that end spans encode them for *exporter*, which is in use, if it has an encoder."""
        self.encodes_for = exporter
        self._own = getattr(exporter, "__dict__", {})  # has "export" once the program has replaced that of the object
        # Half of the buffer: encoded and prepared spans must leave it room, or it would fill and not be emptied.
        most = min(self.wanted_size or REQUEST, buffer.capacity >> 1)
        self.encoder = self.ask("encoder", most) if self.prepares() and self.has("encoder") else None
        self.most = most if self.encoder else self.batch_size  # prepared spans that are delivered at once
        self._encodes = bool(self.encoder)

    def _make(self) -> None:
        """Put the exporter that a ``LaterExporter`` stands for in its place; without one, that raises in ``export()``."""
        later = self.intake.exporter
        if isinstance(later, LaterExporter):
            exporter = self.ask("make")
            if exporter is None or exporter is False or self.intake.exporter is not later:  # lend() has replaced it
                return
            self.intake.exporter = exporter
            self.begin()
            self._encode_for(exporter)
            with self.lock:
                if not self.is_abandoned:  # else another worker may have set it
                    buffer.mark = self.mark(buffer.capacity)

    def use(self, exporter: Exporter) -> None:
        """Hand spans to *exporter* from now on, except for those that are encoded or prepared."""
        self.close_encoder()
        self.intake.exporter = exporter

    def close_encoder(self) -> None:
        """Encode no further spans in the threads that end them."""
        if self.encoder:
            self.encoder.is_open = False

    def stop(self) -> None:
        self.close_encoder()
        self.drain()
        self.ask("shutdown")
        self.settle(0, 0)

    def has(self, name: str) -> bool:
        """Return whether the exporter has the optional method *name*."""
        return self._look(lambda exporter: getattr(exporter, name, None) is not None)

    def prepares(self) -> bool:
        """Return whether the exporter prepares spans, and a subclass or a wrapper has not replaced its ``export()``."""
        return self._look(_prepares)

    def wants_all(self) -> bool:
        """Return whether the exporter takes the spans of traces that are not sampled, too."""
        return self._look(lambda exporter: getattr(exporter, "records_all", False) is True)

    def _look(self, at: Callable[[Any], bool]) -> bool:
        """Return ``at(exporter)``, or False if that raises."""
        try:
            return bool(at(self.intake.exporter))
        except BaseException as error:  # from a property of the user's class
            keep(error)
            return False

    def ask(self, name: str, *arguments: object) -> Any:
        """Call the exporter's method *name* in the exporter's Context; return False if it raises."""
        try:
            return EXPORT_CONTEXT.copy().run(getattr(self.intake.exporter, name), *arguments)
        except BaseException as error:  # no caller could handle it, and the thread must survive
            keep(error)
            self.notices.lost(self.intake.exporter, error, 0)
            return False

    def turns(self, until: Done | None) -> None:
        """Run jobs and export batches until *until* is set or the last job is done."""
        try:
            while not (self.is_over or self.is_abandoned or (until is not None and until.is_set())):
                self._turn()
                if is_interrupted():
                    break
        finally:
            if not self.is_abandoned:
                buffer.is_asleep = True  # the next span starts another thread

    def _turn(self) -> None:
        job = None
        try:
            job = self._wait()
            self.take()
            if job is not None or time.monotonic() >= self.due:
                self.deliver()
            self.after()
            if job is not None and not self.is_abandoned:
                job.run()
        except BaseException as error:  # no caller could handle it, and the thread must survive
            keep(error)
            time.sleep(_PAUSE_S)
        finally:
            if job is not None:
                self.is_over = self.is_over or job.is_last
                job.done.set()

    def _wait(self) -> Job | None:
        """Sleep until a job arrives, the buffer has reached its mark, or spans have arrived at the end of an interval.

        Only after an interval without spans does the next span wake this thread: in a busy program, waking it for
        each batch costs more than the rest of the batch.
        """
        if not self.prepared:
            self.due = time.monotonic() + self.interval_s
        while len(buffer) <= buffer.mark and self._encoded() < self.most:
            try:
                job: Job | None = self.inbox.get(timeout=max(0.0, self.due - time.monotonic()))
            except Empty:
                if self.prepared or self._has_spans():
                    return None
                buffer.is_asleep = True
                job = None if self._has_spans() else self.inbox.get()
                self.due = time.monotonic() + self.interval_s
            if job is not None:
                return job
        return None

    def _encoded(self) -> int:
        """Return the number of spans that wait in the encoder."""
        return int(self.encoder.count) if self.encoder else 0

    def _has_spans(self) -> bool:
        """Return whether spans wait, or are being encoded."""
        return bool(len(buffer) or self._encoded() or (self.encoder and self.encoder.busy))

    def mark(self, capacity: int) -> int:
        """Return the number of waiting spans at which they are encoded, or this thread is woken."""
        prepares = self.prepares()
        # Taps get spans, before they are encoded.
        self._encodes = bool(prepares and self.encoder and self.encoder.is_open and not self.taps.taps)
        if self._encodes:
            return min(int(self.encoder.group) - 1, capacity >> 1)
        return min(MARK, capacity >> 1) if prepares else capacity >> 1

    def drain(self) -> None:
        """Export all spans: those in the buffer, and those that are prepared."""
        self.take()
        self.deliver()
        self.after()

    def take(self) -> None:
        """Export the spans in the buffer, or have the exporter prepare them."""
        uncounted = self.in_hand - self.prepared
        if uncounted > 0:  # where an exception, as for want of memory, has interrupted the last time
            self.settle(0, uncounted)
            self.notices.say("error", "uncounted", "%s lost: the exporting thread failed", spans_of(uncounted))
        with self.lock:
            if self.is_abandoned:
                return
            check_clock()
            # Counted at once: a finalizer in this thread may abandon this worker at any call.
            encoded: list[Any] = []
            left = 0
            if self.encoder:
                buffer.mark = self.mark(buffer.capacity)  # taps, and export() of the program's, come and go
                encoded = self.encoder.take()
                left = self.encoder.taken
                self.in_hand += left
                self.encoder.taken = 0
            spans = buffer.take()
            self.in_hand += len(spans)
            left += len(spans)
        try:
            if spans:
                self._make()
            runs = [item for item in encoded if type(item) is not Span]
            spans[:0] = [item for item in encoded if type(item) is Span]
            del encoded
            while runs and not is_interrupted():
                if self.prepared + runs[0].count > self.most:
                    self.deliver()
                at, count = 1, runs[0].count
                while at < len(runs) and self.prepared + count + runs[at].count <= self.most:
                    count += runs[at].count
                    at += 1
                left -= count
                self._prepare(self.encodes_for, runs[:at], count, 0)
                del runs[:at]
            while spans and not is_interrupted():
                # Each batch is freed before the next one: freeing a full buffer at once would hold the GIL for 2 ms.
                most = min(PIECE, self.most - self.prepared) if self.prepares() else self.batch_size
                batch = spans[:most]
                del spans[:most]
                left -= len(batch)
                self._export(batch, len(batch))
                if spans:
                    time.sleep(_YIELD_S)
        finally:
            if left:
                self.settle(0, left)

    def _export(self, batch: list[Span], count: int) -> None:
        """Export *batch* and record the result for its *count*: the exporter may change the list."""
        for take in self.taps.taps:
            try:
                take(batch)
            except Exception as error:  # of ours, but no reader of spans may cost an exporter its spans
                self.notices.raised("take()", take, error)
        left_out = 0
        if self.taps.may_be_unsampled and not self.wants_all():
            batch = [span for span in batch if span.context.sampled]
            left_out, count = count - len(batch), len(batch)
            if not batch:
                self.settle(0, 0, left_out)
                return
        if self.prepares():
            self._prepare(self.intake.exporter, batch, count, left_out)
        elif self._hand(self.intake.exporter, "export", batch, count, left_out) is not _RAISED:
            self.settle(count, 0, left_out)

    def _prepare(self, exporter: Any, batch: list[Any], count: int, left_out: int) -> None:
        if self.parcels and self.prepared_by is not exporter:
            self.deliver()
        parcel = self._hand(exporter, "prepare", batch, count, left_out)
        if parcel is _RAISED:
            return
        self.prepared_by = exporter
        self.parcels.append(parcel)
        self.prepared += count
        if left_out:
            self.settle(0, 0, left_out)
        if self.prepared >= self.most:
            self.deliver()

    def deliver(self) -> None:
        """Have the exporter deliver the spans that it has prepared."""
        if not self.parcels or self.is_abandoned:
            return
        exporter, parcels, count = self.prepared_by, self.parcels, self.prepared
        self.prepared_by, self.parcels, self.prepared = None, [], 0
        if self._hand(exporter, "deliver", parcels, count, 0) is not _RAISED:
            self.settle(count, 0)

    def _hand(self, exporter: Exporter, name: str, spans: list[Any], count: int, left_out: int) -> Any:
        """Call *exporter*'s method *name* with *spans*; if it raises, record that *count* spans have failed."""
        try:
            return EXPORT_CONTEXT.copy().run(getattr(exporter, name), spans)
        except BaseException as error:  # no caller could handle it, and the thread must survive
            keep(error)
            self.settle(0, count, left_out)
            self.notices.lost(exporter, error, count)
            return _RAISED

    def settle(self, taken: int, failed: int, left_out: int = 0) -> None:
        """Record that *taken* spans of a batch were accepted and *failed* were rejected, unless abandoned."""
        account = self.intake.ask()
        with self.lock:
            if not self.is_abandoned:
                # Where memory is missing, either all has changed or nothing.
                count, settle = taken + failed + left_out, buffer.settle
                in_hand = self.in_hand - count
                self.counts = self.intake.settle(taken, failed, left_out, account)
                self.in_hand = in_hand
                settle(count)

    def abandon(self) -> Counts:
        """Stop counting, and return the final counts, in which spans in hand and held have failed.

        An exporter that hangs now and returns later changes nothing.
        """
        with self.lock:
            self.is_abandoned = True
            exported, failed, unsampled, _ = self.counts
            lost = self.in_hand + self.intake.held(self.counts)
            if self.encoder:
                lost += self.encoder.lose()
            return Counts(exported, failed + lost, unsampled)


def _prepares(exporter: Any) -> bool:
    whole = getattr(exporter, "prepared_export", None)
    return whole is not None and bool(whole == exporter.export)


class Taps:
    """The readers of finished spans beside the exporter: each is called with every batch, in the exporting thread."""

    def __init__(self) -> None:
        self.taps: tuple[Callable[[Sequence[Span]], object], ...] = ()
        self.may_be_unsampled = False  # whether spans were recorded whose traces are not sampled
