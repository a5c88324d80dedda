"""A daemon thread that is started on demand, and again if it is gone; where none can be started, callers do its work.

Signal handlers and finalizers may call it between any two steps: see ``pipeline.py`` for its rules.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from .threads import SimpleQueue, in_caller, is_interrupted, start_thread

if TYPE_CHECKING:
    from .threads import Done

_PAUSE_S = 0.05
_START_AGAIN_S = 1.0


class OnDemand:
    """The thread *name* of an inbox, which ``turns()`` of a subclass empties. Not shared by processes."""

    is_over = False  # it does nothing more

    def __init__(self, name: str) -> None:
        self._name = name
        # SimpleQueue.put is reentrant: signal handlers and finalizers may interrupt it.
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._serving: dict[str, object] = {}  # a token of the call that serves
        self.served_by = 0
        self.deadline = math.inf  # on the monotonic clock, of the caller that serves
        self._start_at = 0.0  # no earlier, as no thread could be started before

    def turns(self, until: Done | None) -> None:
        """Work until *until* is set, or all is done."""
        raise NotImplementedError

    def ensure(self) -> bool:
        """Return whether a thread serves, or could be started now; where not, that is tried once a second."""
        return self.is_served() or (time.monotonic() >= self._start_at and self.start())

    def start(self) -> bool:
        """Start a thread, which ends at once if another one serves; return False if no thread can be started."""
        try:
            start_thread(self.serve, self._name)
        except Exception:  # no more threads, or the interpreter or an audit hook forbids them
            self._start_at = time.monotonic() + _START_AGAIN_S
            return False
        return True

    def call(self, job: object, done: Done, timeout_s: float) -> bool:
        """Put *job* into the inbox; return whether it has set *done* within *timeout_s*."""
        deadline, left_s = time.monotonic() + timeout_s, timeout_s
        if self.served_by == threading.get_ident():  # by a library of the work, or a signal handler that interrupts it
            return False
        self.inbox.put(job)
        while not (self.is_over or done.is_set()):
            if not self.is_served() and not self.start():
                with in_caller():
                    self.serve(done, deadline)
            left_s = min(left_s, deadline - time.monotonic())
            # In short waits: the thread may end before it gets this job.
            pause_s = max(0.0, min(_PAUSE_S, left_s))
            if done.wait(pause_s) or left_s <= 0 or is_interrupted():
                break
            left_s -= pause_s  # a test may have stopped the clock
        return done.is_set()

    def is_served(self) -> bool:
        """Return whether a thread, or a caller, serves."""
        return bool(self._serving)

    def serve(self, until: Done | None = None, deadline: float = math.inf) -> None:
        """Work in the current thread, unless another one does."""
        ident, token = threading.get_ident(), object()
        try:
            if self._serving.setdefault("by", token) is not token:
                return
            self.served_by = ident
            self.deadline = deadline
            self.turns(until)
        finally:
            # Without a call, after which a signal handler may raise, as it may after that of setdefault().
            if "by" in self._serving and self._serving["by"] is token:
                self.served_by = 0
                del self._serving["by"]
