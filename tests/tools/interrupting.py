"""An error that a signal handler interrupts while it is recorded."""

from __future__ import annotations

import contextlib
import signal


class Stop(BaseException):
    """Raised by the signal handler, as for a time limit."""


class Interrupted(Exception):
    """A signal arrives while its text is made, once."""

    has_arrived = False

    def __str__(self):
        if not self.has_arrived:
            self.has_arrived = True
            signal.raise_signal(signal.SIGUSR1)
        return "text"


@contextlib.contextmanager
def interrupts():
    """Raise ``Stop`` in the handler of the signal."""

    def handler(number, frame):
        raise Stop

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
