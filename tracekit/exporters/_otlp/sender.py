"""The thread that empties an outbox: one batch at a time, the oldest first.

How it works: after a failure the thread backs off, longer each time, until the collector accepts a batch. Each batch
that failed also waits for its own next try, longer each time. The first back-off prevents a storm of requests during
an outage. The second lets other batches pass a batch that always fails.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from typing import TYPE_CHECKING

from ..._export.notices import describe, spans_of
from ..._export.threads import keep
from .._sqlite.errors import StoreError
from .answers import LONGEST_S, backoff_s, report_rejected
from .outbox import MAX_FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._export.notices import Notices
    from .answers import Answer
    from .outbox import Outbox
    from .requests import Batch

_LONGEST_OF_A_BATCH_S = 600.0
_LOOK_AGAIN_S = 5.0  # other processes put and return batches without notifying this one
_STORE_S = 1.0
_FAILURES_A_ROUND = 3  # for a flush, which does not wait between tries
_FOREVER_S = 1e9  # the longest wait: a Condition rejects infinity


class Backoff:
    """The waits after consecutive failures."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Return the next wait, at least *at_least_s*; a collector cannot ask for a shorter one."""
        wait_s = backoff_s(self._failures, self._longest_s, at_least_s)
        self._failures += 1
        return wait_s

    def reset(self) -> None:
        """Start over after a success."""
        self._failures = 0


class Sender:
    """Send the batches in *outbox* with *send*, in a thread that the first ``wake()`` starts. Not shared by processes.

    *send* gets the seconds that it may take at most. *split* returns the parts of a batch that was too large for the
    collector, or nothing if it cannot be split.
    """

    def __init__(
        self,
        outbox: Outbox,
        send: Callable[[Batch, float], Answer],
        split: Callable[[Batch], Sequence[tuple[bytes, int]]],
        notices: Notices,
        *,
        lease_s: float,
    ) -> None:
        self._outbox = outbox
        self._send = send
        self._split = split
        self._notices = notices
        self._lease_s = lease_s
        self._backoff = Backoff()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None  # the one that sends; any other ends at once
        self._is_woken = False
        self._is_backing_off = False
        self._closes_at: float | None = None
        self._asked = self._answered = 0  # rounds that flush() requested
        self._after = 0  # the id of the batch that failed last; the batch behind it is next
        self._is_empty = True  # at the end of the last round
        self._has_readmitted = False

    def wake(self) -> None:
        """Announce a new batch. A back-off is not cut short."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()
            self._start()

    def _start(self) -> None:
        if self._closes_at is not None or (self._thread is not None and self._thread.is_alive()):
            return
        # In a copy of this Context, where nothing is sampled: an instrumented HTTP library must not trace the export.
        run = contextvars.copy_context().run
        try:
            self._thread = thread = threading.Thread(target=run, args=(self._run,), name="tracekit-send", daemon=True)
            thread.start()
        except Exception:  # no more threads, or the interpreter is exiting: the batches stay in the outbox
            self._thread = None

    def flush(self, timeout_s: float) -> bool:
        """Try each batch now, including those that wait for a retry, and return whether the outbox is empty."""
        with self._changed:
            self._asked += 1
            ticket = self._asked
            self.wake()
            thread = self._thread
            if thread is None:
                return False

            def is_over() -> bool:
                return self._answered >= ticket or self._thread is not thread or not thread.is_alive()

            self._changed.wait_for(is_over, min(max(0.0, timeout_s), _FOREVER_S))
            return self._answered >= ticket and self._is_empty

    def close(self, timeout_s: float) -> None:
        """Send while that succeeds, for at most *timeout_s*; the other batches stay in the outbox.

        Where no thread could be started, as CPython 3.12.0 and 3.12.1 start none at exit, the caller sends.
        """
        with self._changed:
            self._closes_at = time.monotonic() + timeout_s
            self._changed.notify_all()
            thread = self._thread
            is_due = self._is_woken
        if thread is None and is_due:
            self._turn()
        elif thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        with self._changed:
            if self._thread is not threading.current_thread():  # a signal handler has interrupted its start by another
                return
        try:
            while not self._turn():
                pass
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None  # it is still alive, and no one will tell flush() when it is not
                self._changed.notify_all()

    def _turn(self) -> bool:
        """Run a round and rest; return True if it was the last one."""
        try:
            with self._changed:
                asked, is_closing = self._asked, self._closes_at is not None
                self._is_woken = False
            rest_s = self._round(early=is_closing or asked > self._answered)
            with self._changed:
                self._answered = asked
                self._changed.notify_all()
                if not is_closing:
                    self._changed.wait_for(self._has_to_go_on, rest_s)
            return is_closing
        except BaseException as error:  # no caller could handle it, and the thread must survive
            keep(error)
            self._notices.say("error", describe(error), "sending failed: %s", describe(error))
            time.sleep(_STORE_S)
            return self._closes_at is not None

    def _has_to_go_on(self) -> bool:
        is_woken = self._is_woken and not self._is_backing_off
        return is_woken or self._asked > self._answered or self._closes_at is not None

    def _round(self, *, early: bool) -> float:
        """Send until nothing is left or a batch fails; return the seconds to rest. *early* ignores waits of batches."""
        after, failures = 0, 0
        while self._closes_at is None or time.monotonic() < self._closes_at:
            try:
                batch = self._take(after, early=early)
                if batch is None:
                    due_s = self._outbox.due_s()
                    self._is_empty, self._is_backing_off = due_s is None, False
                    return _LOOK_AGAIN_S if due_s is None else min(due_s, _LOOK_AGAIN_S)
                wait_s = self._settle(batch, self._send(batch, self._left_s()))
                after = batch.id if wait_s else batch.id - 1  # the first part of a split batch keeps the id
            except StoreError as error:
                if report_unusable(self._outbox, error, self._notices, is_closing=self._closes_at is not None):
                    continue
                wait_s, failures = _STORE_S, _FAILURES_A_ROUND
            except Exception as error:
                self._notices.say("error", describe(error), "sending failed: %s", describe(error))
                wait_s = self._backoff.next_s()
            if not wait_s:
                failures = 0
                continue
            failures += 1
            if not early or failures >= _FAILURES_A_ROUND:
                self._is_empty, self._is_backing_off = False, True
                return wait_s
        return _LOOK_AGAIN_S

    def _left_s(self) -> float:
        """Return the time that a request has: ``close()`` leaves one of a thread behind, but not its own."""
        if self._closes_at is None or self._thread is not None:
            return math.inf
        return max(0.1, self._closes_at - time.monotonic())

    def _take(self, after: int, *, early: bool) -> Batch | None:
        if not self._has_readmitted:
            self._outbox.readmit()
            self._has_readmitted = True
        if early:
            return self._outbox.take(self._lease_s, after=after, early=True)
        batch = self._outbox.take(self._lease_s, after=self._after)
        if batch is None and self._after:
            self._after = 0
            batch = self._outbox.take(self._lease_s)
        return batch

    def _settle(self, batch: Batch, answer: Answer) -> float:
        """Record the result for *batch*; return the back-off in seconds, 0 to continue at once."""
        if answer.outcome == "later":
            return self._later(batch, answer)
        self._backoff.reset()
        if answer.is_too_large and (parts := self._split(batch)):
            self._outbox.replace(batch, parts)
        elif answer.outcome == "refused":
            self._notices.say("error", answer.reason[:80], "%s lost: %s", spans_of(batch.spans), answer.reason)
            self._outbox.rejected(batch)
        else:
            self._outbox.sent(batch, rejected=report_rejected(self._notices, answer, batch.spans))
        return 0.0

    def _later(self, batch: Batch, answer: Answer) -> float:
        wait_s = self._backoff.next_s(answer.after_s)
        delay_s = backoff_s(batch.failures, _LONGEST_OF_A_BATCH_S, answer.after_s)
        self._after = batch.id
        if self._outbox.failed(batch, delay_s=delay_s):
            message = "%d spans set aside in the spool, after %d failures while others were taken: %s"
            self._notices.say("error", f"aside {answer.reason[:80]}", message, batch.spans, MAX_FAILURES, answer.reason)
        else:
            self._notices.say("warning", answer.reason[:80], "%s; spans wait in the spool", answer.reason)
        return wait_s


def report_unusable(outbox: Outbox, error: StoreError, notices: Notices, *, is_closing: bool = False) -> bool:
    """Report *error*. If the file is damaged, rename it, so that the next call creates a new one, and return True."""
    aside = outbox.set_aside() if error.is_damaged else None
    if aside is not None:
        message = "the spool is damaged: it is %s now, with the batches that waited in it, and a new one is begun"
        notices.say("error", "damaged", message, aside)
    elif not is_closing:
        notices.say("error", str(error)[:80], "the spool cannot be used, so spans are sent directly: %s", error)
    return aside is not None
