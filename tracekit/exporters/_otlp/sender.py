"""The thread that empties an outbox: oldest first, one at a time, again and again until the collector says yes or no."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from typing import TYPE_CHECKING

from .._sqlite.file import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._export.notices import Notices
    from .answers import Answer
    from .outbox import Batch, Outbox

__all__ = ["Backoff", "Sender", "say_rejected"]

_FIRST_S, _LONGEST_S = 1.0, 60.0
_LOOK_AGAIN_S = 5.0  # other processes put and give up batches without a word
_STORE_S = 1.0


class Backoff:
    """How long to wait after each failure in a row: from 1 s, doubled up to *longest_s*, less a random half."""

    def __init__(self, longest_s: float = _LONGEST_S) -> None:
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Return the next wait; a collector that asks for none at all, again and again, is not obeyed."""
        wait_s = min(self._longest_s, _FIRST_S * 2.0 ** min(self._failures, 30))
        self._failures += 1
        # Not from the random module: what a program that has seeded it gets next is not ours to change.
        return max(at_least_s or 0.0, wait_s * (256 + os.urandom(1)[0]) / 512)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._failures = 0


class Sender:
    """Sends what is in *outbox* with *send*; of one process, and started when it is first woken."""

    def __init__(self, outbox: Outbox, send: Callable[[Batch], Answer], notices: Notices, *, lease_s: float) -> None:
        self._outbox = outbox
        self._send = send
        self._notices = notices
        self._lease_s = lease_s
        self._backoff = Backoff()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_woken = False
        self._closes_at: float | None = None
        self._rounds = 0  # how often the thread has come to a rest
        self._is_empty = True  # whether there was nothing left then, or no way to send it

    def wake(self, *, at_once: bool = False) -> None:
        """Say that there is something to send; only *at_once* cuts a back-off short."""
        with self._changed:
            if at_once or self._is_empty:
                self._is_woken = True
                self._changed.notify_all()
            if self._thread is None and self._closes_at is None:
                self._start()

    def _start(self) -> None:
        # In this Context, the exporter's: nothing that is traced while sending is sampled.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="tracekit-send", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is on its way out: the outbox keeps what it has
            self._thread = None

    def flush(self, timeout_s: float) -> bool:
        """Try now, and return whether all has arrived; False as soon as something could not be sent."""
        rounds = self._rounds
        self.wake(at_once=True)
        with self._changed:
            if self._thread is None:
                return False
            return self._changed.wait_for(lambda: self._rounds > rounds, timeout_s) and self._is_empty

    def close(self, timeout_s: float) -> None:
        """Send while that works, for *timeout_s* at most; the rest stays in the outbox."""
        with self._changed:
            self._closes_at = time.monotonic() + timeout_s
            self._is_woken = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            wait_s = self._round()
            with self._changed:
                self._rounds += 1
                self._changed.notify_all()
                if self._closes_at is not None:
                    return
                self._changed.wait_for(lambda: self._is_woken, wait_s)
                self._is_woken = False

    def _round(self) -> float:
        """Send until there is nothing left or no way to send it; return how long to wait."""
        while self._closes_at is None or time.monotonic() < self._closes_at:
            try:
                batch = self._outbox.take(self._lease_s)
                if batch is None:
                    self._is_empty = True
                    return _LOOK_AGAIN_S
                wait_s = self._settle(batch, self._send(batch))
            except StoreError as error:
                if self._closes_at is None:
                    self._notices.say("error", str(error)[:80], "the spool fails: %s", error)
                wait_s = _STORE_S
            except Exception as error:  # nobody could catch it but this thread, which has to go on
                self._notices.say("error", type(error), "sending failed: %s: %s", type(error).__name__, error)
                wait_s = self._backoff.next_s()
            if wait_s is not None:
                self._is_empty = False
                return wait_s
        return _LOOK_AGAIN_S

    def _settle(self, batch: Batch, answer: Answer) -> float | None:
        """Note what became of *batch*; return how long to wait, None if the collector takes more."""
        if answer.outcome == "later":
            self._notices.say("warning", answer.reason[:80], "%s; spans wait in the spool", answer.reason)
            self._outbox.give_back(batch)
            return self._backoff.next_s(answer.after_s)
        self._backoff.reset()
        if answer.outcome == "refused":
            self._notices.say("error", answer.reason[:80], "%d spans lost: %s", batch.spans, answer.reason)
            self._outbox.rejected(batch)
            return None
        self._outbox.sent(batch, rejected=say_rejected(self._notices, answer, batch.spans))
        return None


def say_rejected(notices: Notices, answer: Answer, spans: int) -> int:
    """Say what the collector has against a request of *spans* that it took; return how many of them it rejected."""
    if answer.rejected:
        message = "the collector rejected %d of %d spans: %s"
        notices.say("warning", answer.reason[:80], message, answer.rejected, spans, answer.reason)
    elif answer.reason:
        notices.say("warning", answer.reason[:80], "the collector says: %s", answer.reason)
    return min(answer.rejected, spans)
