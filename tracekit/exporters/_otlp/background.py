"""A thread that delivers one signal in the background: started on demand, asleep while there is nothing to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..._export.on_demand import OnDemand
from ..._export.threads import EXPORT_CONTEXT, Done, Empty, is_interrupted, keep

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_S = 0.05


class Background(OnDemand):
    """Calls *work* in a daemon thread, *interval_s* after ``notify()``, and again while it returns True.

    ``notify()`` neither waits nor takes a lock that a signal handler might hold. *work* runs without the program's
    Context, and the spans that it makes are not recorded. Where no thread can be started, ``flush()`` and ``close()``
    call it themselves, and it should have returned at ``deadline``.
    """

    def __init__(self, work: Callable[[], bool], interval_s: float, name: str) -> None:
        super().__init__(name)
        self._work = work
        self._interval_s = interval_s
        self._is_asleep = True
        self._is_closing = False

    def notify(self) -> None:
        """Have *work* called after the interval."""
        if self._is_asleep:
            self._is_asleep = False
            self.hurry()

    def hurry(self) -> None:
        """Wake the thread: the first time it begins its interval, then it ends it."""
        if self.ensure():
            self.inbox.put(None)
        else:
            self._is_asleep = True  # the next notify() tries again

    def flush(self, timeout_s: float) -> bool:
        """Have *work* called now; return whether it has returned within *timeout_s*."""
        done = Done()
        return self.call(done, done, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Have *work* called for the last time."""
        self._is_closing = True
        return self.flush(timeout_s)

    def turns(self, until: Done | None) -> None:
        """Do the work after each interval, and at once for a ``Done`` in the inbox, until *until*, or the last."""
        again = False
        try:
            while until is None or not until.is_set():  # set already where another caller was here before
                job = None
                if not again:
                    job = self.inbox.get()
                if job is None:
                    try:
                        job = self.inbox.get(timeout=self._interval_s)
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
                if (self._is_closing and self.inbox.empty()) or is_interrupted():
                    return
        finally:
            self._is_asleep = True
