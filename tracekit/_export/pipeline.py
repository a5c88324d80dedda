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

from .._core.buffer import buffer
from .._core.context import SpanContext
from .._core.records import Account, Statistics
from .._core.scopes import context_scope
from .._core.span import check_clock
from .notices import Notices, log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._core.span import Span
    from .exporter import Exporter

__all__ = ["EXPORT_CONTEXT", "Pipeline"]

BATCH = 2048
_UNSAMPLED = SpanContext(deferred=False)


class _Intake:
    """What one exporter has taken, and what has become of it."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.taken = self.failed = 0
        self._account = Account()
        self._before = self._account = self._ask()

    def _ask(self) -> Account:
        account = getattr(self.exporter, "account", None)
        if account is None:
            return Account()
        try:
            return Account(*account())
        except Exception:  # an exporter of the user's own
            return self._account

    def settle(self, taken: int, failed: int) -> None:
        """Take down that of another batch so many were *taken*, and so many refused."""
        self.taken += taken
        self.failed += failed
        self._account = self._ask()

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many were exported, failed, are queued, and were sampled out."""
        failed = self._account.failed - self._before.failed
        unsampled = self._account.unsampled - self._before.unsampled
        queued = self._account.queued - self._before.queued
        return self.taken - failed - unsampled - queued, self.failed + failed, queued, unsampled


# Where exporters run, in copies: in no context of the program's, and whatever they trace themselves is not sampled, or
# each batch would make spans that want to be exported.
EXPORT_CONTEXT = contextvars.Context()
EXPORT_CONTEXT.run(lambda: context_scope(_UNSAMPLED).__enter__())


class _Worker:
    """One exporter and the thread that serves it, started when there is something to do."""

    def __init__(self, exporter: Exporter, interval_s: float, batch_size: int, after: Callable[[], None]) -> None:
        self.intake = _Intake(exporter)
        self.lender: _Intake | None = None  # whose place the intake has for a while
        self.after = after  # called when a batch has been dealt with
        self.interval_s = interval_s
        self.batch_size = batch_size
        # SimpleQueue.put neither blocks nor deadlocks where a signal handler or finaliser interrupts it.
        self.inbox: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()  # between this thread and statistics(), never in the program's path
        self.in_flight = 0
        self.returned = (0, 0, 0, 0)  # the counts of exporters that were lent to
        self.is_abandoned = False
        self.notices = Notices()
        self.context = EXPORT_CONTEXT

    def wake(self) -> None:
        self.inbox.put(None)
        if self.thread is None:
            self.start()

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name="tracekit-export", daemon=True)
        self.thread = thread
        try:
            # From 3.14 on a thread may inherit its starter's Context, and with it a span.
            self.context.copy().run(thread.start)
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

    def flush(self, timeout_s: float) -> bool:
        """Have all that waits exported, and what the exporter holds itself delivered."""
        deadline = time.monotonic() + timeout_s
        is_done = True

        def job() -> None:
            nonlocal is_done
            self.drain()
            flush = getattr(self.intake.exporter, "flush", None)
            if flush is not None:
                is_done = bool(self.ask(flush, max(0.0, deadline - time.monotonic())))

        return self.call(job, timeout_s) and is_done

    def stop(self) -> None:
        self.drain()
        self.ask(self.intake.exporter.shutdown)

    def ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        """Call a method of the exporter's that may settle what it holds."""
        try:
            return self.context.copy().run(method, *arguments)
        except BaseException as error:  # nobody could catch it but this thread, which has to go on
            self.complain(error, 0)
            return False
        finally:
            with self.lock:
                if not self.is_abandoned:
                    self.intake.settle(0, 0)

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
            self.context.copy().run(self.intake.exporter.export, batch)
        except BaseException as error:  # nobody could catch it but this thread, which has to go on
            failure = error
        with self.lock:
            if self.is_abandoned:
                return
            self.in_flight -= len(batch)
            if failure is None:
                self.intake.settle(len(batch), 0)
            else:
                self.intake.settle(0, len(batch))
        if failure is not None:
            self.complain(failure, len(batch))

    def complain(self, error: BaseException, lost: int) -> None:
        self.notices.lost(self.intake.exporter, error, lost)

    def lend(self, exporter: Exporter) -> None:
        with self.lock:
            self.lender, self.intake = self.intake, _Intake(exporter)

    def give_back(self) -> None:
        with self.lock:
            if self.lender is not None:
                self.returned = _add(self.returned, _final(self.intake))
                self.intake, self.lender = self.lender, None

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many spans were exported, failed, are queued, and were sampled out; the lock is held."""
        counts = _add(self.returned, self.intake.counts())
        if self.lender is not None:
            counts = _add(counts, self.lender.counts())
        exported, failed, queued, unsampled = counts
        return exported, failed, queued + self.in_flight, unsampled


Counts = tuple[int, int, int, int]


def _add(one: Counts, other: Counts) -> Counts:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _final(intake: _Intake) -> Counts:
    """Return what an exporter that nobody will ask again has done: what it still holds is lost."""
    exported, failed, queued, unsampled = intake.counts()
    return exported, failed + queued, 0, unsampled


class Pipeline:
    """The exporter in use and the counts of all that came before it."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._exported = self._failed = self._unsampled = self._dropped = 0
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
            if hasattr(exporter, "start"):
                worker.ask(exporter.start)
            if len(buffer):
                worker.wake()

    def flush(self, timeout_s: float) -> bool:
        """Export all that has ended before this call; tell whether that was done within *timeout_s*."""
        worker = self._worker
        return worker is None or worker.flush(timeout_s)

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
        hurry = getattr(worker.intake.exporter, "hurry", None)
        if hurry is not None:
            worker.ask(hurry)
        done = worker.call(worker.stop, timeout_s)
        with worker.lock:
            if not worker.is_abandoned:
                worker.is_abandoned = True  # a hanging exporter may come back: its batch has been counted by then
                exported, failed, queued, unsampled = worker.counts()
                self._exported += exported
                self._failed += failed + queued
                self._unsampled += unsampled
            self._worker = None
        return done

    def statistics(self) -> Statistics:
        """Return where every span went."""
        worker = self._worker
        if worker is None:
            return self._sum(0, 0, 0, 0)
        with worker.lock:
            if worker.is_abandoned:
                return self._sum(0, 0, 0, 0)
            return self._sum(*worker.counts())

    @contextlib.contextmanager
    def lend(self, exporter: Exporter) -> Iterator[None]:
        """Inside ``with``, hand spans to *exporter*; the one in use gets nothing, and stays open."""
        lender = self._worker
        self.flush(5.0)
        if lender is None:
            self.use(exporter, capacity=buffer.capacity, interval_s=1.0, timeout_s=5.0)
        else:
            lender.lend(exporter)
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
                lender.give_back()

    def hold(self) -> None:
        """Keep spans in the buffer until somebody drains it, and leave the exporter, which is the parent's, alone."""
        with self._lock:
            if self._worker is not None:
                self._worker.is_abandoned = True
                self._worker = None
            buffer.wake = None
            buffer.is_open = True
            self._said = -1 << 62  # what is dropped is said in the parent, where it is counted too

    def _sum(self, exported: int, failed: int, queued: int, sampled_out: int) -> Statistics:
        started, ended, dropped, unsampled, waiting = buffer.counts()
        return Statistics(
            started=started,
            ended=ended,
            open=started - ended,
            exported=self._exported + exported,
            queued=waiting + queued,
            dropped=self._dropped + dropped,
            failed=self._failed + failed,
            unsampled=self._unsampled + unsampled + sampled_out,
        )

    def _say_full(self) -> None:
        dropped = self._dropped + buffer.counts()[2] - self._said
        if dropped > 0 and self._said >= 0:
            self._said = -1 << 62  # once until the next configure()
            log("warning", "%d spans dropped: the buffer was full or closed (said once)", dropped)

    def after_fork(self) -> None:
        """Start over in the child: the exporter stays, thread, lock and counts are the parent's."""
        worker = self._worker
        self.__init__()  # type: ignore[misc]
        if worker is not None:
            exporter, after = worker.intake.exporter, self._say_full
            self._worker = worker = _Worker(exporter, worker.interval_s, worker.batch_size, after)
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
