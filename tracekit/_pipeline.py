"""The way of finished spans: one bounded buffer, one daemon thread, one exporter, every loss counted.

A thread and not a task: it must serve asyncio, trio and plain threads alike. The program's side
of it is ``Buffer.add`` in the twins; nothing here runs in the program's path but ``wake``, once a batch.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ._accel import buffer, check_clock
from ._errors import clip
from ._records import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._accel import Span
    from ._tracer import Exporter

__all__ = ["Pipeline"]

BATCH = 2048
_CAUSES = 64


class _Worker:
    """One exporter and the thread that serves it, started when there is something to do."""

    def __init__(self, exporter: Exporter, interval_s: float, batch_size: int, after: Callable[[], None]) -> None:
        self.exporter = exporter
        self.after = after  # called when a batch has been dealt with
        self.interval_s = interval_s
        self.batch_size = batch_size
        # SimpleQueue.put neither blocks nor deadlocks where a signal handler or finaliser interrupts it.
        self.inbox: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()  # between this thread and statistics(), never in the program's path
        self.in_flight = self.exported = self.failed = 0
        self.is_abandoned = False
        self.causes: set[object] = set()

    def wake(self) -> None:
        self.inbox.put(None)
        if self.thread is None:
            self.start()

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name="tracekit-export", daemon=True)
        self.thread = thread
        try:
            # In an empty Context: from 3.14 on a thread may inherit its starter's, and with it a span.
            contextvars.Context().run(thread.start)
        except RuntimeError:  # no more threads, or the interpreter is on its way out: drain() runs in flush()
            self.thread = None

    def call(self, job: Callable[[], None], timeout_s: float) -> bool:
        """Have the thread do *job* after all that waits, and tell whether it did within *timeout_s*."""
        if self.is_abandoned:
            return True
        if self.thread is None:
            self.start()
        thread = self.thread
        if thread is None:
            job()
            return True
        if thread is threading.current_thread():
            return False
        done = threading.Event()

        def answer() -> bool:
            job()
            done.set()
            return job == self.stop

        self.inbox.put(answer)
        deadline = time.monotonic() + timeout_s
        # In short waits: the thread may have left for good before it saw this.
        while not done.wait(max(0.0, min(0.05, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or not thread.is_alive():
                return done.is_set()
        return True

    def stop(self) -> None:
        self.drain()
        try:
            self.exporter.shutdown()
        except BaseException as error:  # nobody could catch it but this thread, which has to go on
            self.complain(error, 0)

    def _run(self) -> None:
        while True:
            job = self._wait()
            self.drain()
            if self.is_abandoned or (job is not None and job()):
                return

    def _wait(self) -> Callable[[], bool] | None:
        """Sleep until a job comes, the buffer is half full, or the interval is over and spans have come.

        Only after an interval without spans does the next one have to wake this thread: in a busy
        program a wake for each batch costs more than all else that the batch does.
        """
        deadline = time.monotonic() + self.interval_s
        while 2 * len(buffer) <= buffer.capacity:
            try:
                job = self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                if len(buffer):
                    return None
                buffer.is_asleep = True
                job = None if len(buffer) else self.inbox.get()
                deadline = time.monotonic() + self.interval_s
            if job is not None:
                return job
        return None

    def drain(self) -> None:
        with self.lock:
            if self.is_abandoned:
                return
            check_clock()
            spans = buffer.drain()
            self.in_flight += len(spans)
        for start in range(0, len(spans), self.batch_size):
            self._export(spans[start : start + self.batch_size])
        self.after()

    def _export(self, batch: list[Span]) -> None:
        failure: BaseException | None = None
        try:
            self.exporter.export(batch)
        except BaseException as error:  # nobody could catch it but this thread, which has to go on
            failure = error
        with self.lock:
            if self.is_abandoned:
                return
            self.in_flight -= len(batch)
            if failure is None:
                self.exported += len(batch)
            else:
                self.failed += len(batch)
        if failure is not None:
            self.complain(failure, len(batch))

    def complain(self, error: BaseException, lost: int) -> None:
        try:
            text = str(error)
        except Exception:
            text = ""
        cause = (type(error), text[:80])
        if cause in self.causes or len(self.causes) >= _CAUSES:
            return
        self.causes.add(cause)
        _log(
            "error",
            "%s failed, %d spans lost: %s: %s (said once per cause; tracekit.statistics() counts on)",
            type(self.exporter).__name__,
            lost,
            type(error).__name__,
            text[:400] if text.isprintable() else clip(text),
        )


def _log(level: str, message: str, *arguments: object) -> None:
    import logging  # costs more to import than tracekit, and is needed only where something was lost

    try:
        getattr(logging.getLogger("tracekit"), level)(message, *arguments)
    except Exception:  # a handler of the program's own must not end the export
        pass


class Pipeline:
    """The exporter in use and the counts of all that came before it."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._exported = self._failed = self._dropped = 0
        self._said = 0  # how many drops had been said, or were another exporter's
        self._lock = threading.RLock()  # one configure() or shutdown() at a time

    def use(
        self,
        exporter: Exporter | None,
        *,
        capacity: int,
        interval_s: float,
        timeout_s: float,
        batch_size: int = BATCH,
    ) -> None:
        """Put *exporter* in the place of the one before, which gets what it has still to get, for *timeout_s* at most."""
        with self._lock:
            self._retire(timeout_s)
            buffer.capacity = capacity
            self._said = self.statistics().dropped
            buffer.is_open = exporter is not None
            buffer.is_asleep = True
            if exporter is None:
                return
            self._worker = worker = _Worker(exporter, interval_s, batch_size, self._say_full)
            buffer.wake = worker.wake
            if len(buffer):
                worker.wake()

    def flush(self, timeout_s: float) -> bool:
        """Export all that has ended before this call; tell whether that was done within *timeout_s*."""
        worker = self._worker
        return worker is None or worker.call(worker.drain, timeout_s)

    def shutdown(self, timeout_s: float) -> bool:
        """Flush, then close the exporter; spans that end later are counted as dropped."""
        with self._lock:
            done = self._retire(timeout_s)
            buffer.is_open = False
            self._dropped += len(buffer.drain())
            self._say_full()
            return done

    def _retire(self, timeout_s: float) -> bool:
        worker = self._worker
        buffer.wake = None
        if worker is None:
            return True
        done = worker.call(worker.stop, timeout_s)
        with worker.lock:
            if not worker.is_abandoned:
                worker.is_abandoned = True  # a hanging exporter may come back: its batch has been counted by then
                self._exported += worker.exported
                self._failed += worker.failed + worker.in_flight
            self._worker = None
        return done

    def statistics(self) -> Statistics:
        """Return where every span went."""
        worker = self._worker
        if worker is None:
            return self._sum(0, 0, 0)
        with worker.lock:
            if worker.is_abandoned:
                return self._sum(0, 0, 0)
            return self._sum(worker.exported, worker.failed, worker.in_flight)

    @contextlib.contextmanager
    def lend(self, exporter: Exporter) -> Iterator[None]:
        """Inside ``with``, hand spans to *exporter*; the one in use gets nothing, and stays open."""
        lender = self._worker
        self.flush(5.0)
        if lender is None:
            self.use(exporter, capacity=buffer.capacity, interval_s=1.0, timeout_s=5.0)
        else:
            own, lender.exporter = lender.exporter, exporter
        lent = self._worker
        try:
            yield
        finally:
            self.flush(5.0)
            if self._worker is not lent:
                pass  # somebody called configure() meanwhile
            elif lender is None:
                self.use(None, capacity=buffer.capacity, interval_s=1.0, timeout_s=5.0)
            else:
                lender.exporter = own

    def hold(self) -> None:
        """Keep spans in the buffer until somebody drains it, and leave the exporter, which is the parent's, alone."""
        with self._lock:
            if self._worker is not None:
                self._worker.is_abandoned = True
                self._worker = None
            buffer.wake = None
            buffer.is_open = True
            self._said = -1 << 62  # what is dropped is said in the parent, where it is counted too

    def _sum(self, exported: int, failed: int, in_flight: int) -> Statistics:
        started, ended, dropped, unsampled, waiting = buffer.counts()
        return Statistics(
            started=started,
            ended=ended,
            open=started - ended,
            exported=self._exported + exported,
            queued=waiting + in_flight,
            dropped=self._dropped + dropped,
            failed=self._failed + failed,
            unsampled=unsampled,
        )

    def _say_full(self) -> None:
        dropped = self._dropped + buffer.counts()[2] - self._said
        if dropped > 0 and self._said >= 0:
            self._said = -1 << 62  # once until the next configure()
            _log("warning", "%d spans dropped: the buffer was full or closed (said once)", dropped)

    def after_fork(self) -> None:
        """Start over in the child: the exporter stays, thread, lock and counts are the parent's."""
        worker = self._worker
        self.__init__()  # type: ignore[misc]
        if worker is not None:
            self._worker = worker = _Worker(worker.exporter, worker.interval_s, worker.batch_size, self._say_full)
            buffer.wake = worker.wake
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.register_after_fork(self, Pipeline.finish_in_child)

    def finish_in_child(self) -> None:
        """See to it that a child of multiprocessing, which leaves by os._exit() and past atexit, delivers before."""
        process: Any = sys.modules.get("multiprocessing.process")
        util: Any = sys.modules.get("multiprocessing.util")
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, self.shutdown, args=(5.0,), exitpriority=0)
