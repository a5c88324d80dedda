"""A thread that delivers one signal in the background: started on demand, asleep while there is nothing to do."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from ..._export.threads import EXPORT_CONTEXT, Done, Empty, SimpleQueue, in_caller, is_interrupted, keep, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_S = 0.05
_START_AGAIN_S = 1.0


class Background:
    """Calls *work* in a daemon thread, *interval_s* after ``notify()``, and again while it returns True.

    ``notify()`` neither waits nor takes a lock that a signal handler might hold. *work* runs without the program's
    Context, and the spans that it makes are not recorded. Where no thread can be started, ``flush()`` and ``close()``
    call it themselves, and it should have returned at ``deadline`` on the monotonic clock. Not shared by processes.
    """

    def __init__(self, work: Callable[[], bool], interval_s: float, name: str) -> None:
        self._work = work
        self._interval_s = interval_s
        self._name = name
        # SimpleQueue.put is reentrant: signal handlers and finalizers may interrupt it. None: work now.
        self._inbox: SimpleQueue[Done | None] = SimpleQueue()
        self._is_asleep = True
        self._is_served = threading.Lock()  # held by the serving thread; acquired without waiting
        self._is_over = False
        self.served_by = 0
        self.deadline = math.inf
        self._start_at = 0.0  # no earlier, as no thread could be started before

    def notify(self) -> None:
        """Have *work* called after the interval."""
        if self._is_asleep:
            self._is_asleep = False
            self.hurry()

    def hurry(self) -> None:
        """Wake the thread: the first time it begins its interval, then it ends it."""
        if not self._is_served.locked() and (time.monotonic() < self._start_at or not self._start()):
            self._is_asleep = True  # the next notify() tries again
            return
        self._inbox.put(None)

    def flush(self, timeout_s: float) -> bool:
        """Have *work* called now; return whether it has returned within *timeout_s*."""
        deadline, left_s = time.monotonic() + timeout_s, timeout_s
        if self.served_by == threading.get_ident():  # by a signal handler, or by a library's log
            return False
        done = Done()
        self._inbox.put(done)
        while not done.is_set():
            if not self._is_served.locked() and not self._start():
                with in_caller():
                    self._serve(done, deadline)
            left_s = min(left_s, deadline - time.monotonic())
            # In short waits: the thread may end before it gets this job.
            pause_s = max(0.0, min(_PAUSE_S, left_s))
            if done.wait(pause_s) or left_s <= 0 or is_interrupted():
                break
            left_s -= pause_s  # a test may have stopped the clock
        return done.is_set()

    def close(self, timeout_s: float) -> bool:
        """Have *work* called for the last time."""
        self._is_over = True
        return self.flush(timeout_s)

    def _start(self) -> bool:
        try:
            start_thread(self._serve, self._name)
        except Exception:  # no more threads, or the interpreter or an audit hook forbids them
            self._start_at = time.monotonic() + _START_AGAIN_S
            return False
        return True

    def _serve(self, until: Done | None = None, deadline: float = math.inf) -> None:
        """Do the work in the current thread until *until*, or until it is over."""
        if not self._is_served.acquire(blocking=False):
            return
        self.served_by = threading.get_ident()
        self.deadline = deadline
        again = False
        try:
            while until is None or not until.is_set():  # set already where another caller was here before
                job = None
                if not again:
                    job = self._inbox.get()
                if job is None:
                    try:
                        job = self._inbox.get(timeout=self._interval_s)
                    except Empty:
                        pass
                self._is_asleep = True  # before the work: what arrives meanwhile is work for the next time
                try:
                    again = EXPORT_CONTEXT.copy().run(self._work)
                except BaseException as error:  # no caller could handle it, and the thread must survive
                    keep(error)
                    time.sleep(_PAUSE_S)
                if job is not None:
                    job.set()
                if (self._is_over and self._inbox.empty()) or is_interrupted():
                    return
        finally:
            self.served_by = 0
            self._is_asleep = True
            self._is_served.release()
