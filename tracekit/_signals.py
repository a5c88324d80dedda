"""Export finished spans before a signal ends the program.

A signal with its default action ends a process at once, without ``finally`` and ``atexit``, and the last second of
spans is lost. ``flush_on_signal()`` installs a handler that flushes and then calls the previous one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ._configure import flush
from ._core.checks import check_number
from ._export.notices import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_DEFAULT: Final = ("SIGTERM", "SIGHUP", "SIGBREAK")  # those that the system has
# Those after which a program that has a dump written goes on at once: the last four end no program.
_STAYS: Final = ("SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH")

_dumps: Final[set[Callable[[], object]]] = set()  # each waits for a file that a signal has had written


def flush_on_signal(*signals: int, timeout_s: float = 5.0) -> None:
    """Export finished spans when one of *signals* arrives, then call the previous handler.

    The default signals are SIGTERM and SIGHUP. Without a previous handler the default action follows, so the exit
    status still names the signal. The export takes at most *timeout_s*. An ignored signal stays ignored. A handler
    that the program or its server installs later replaces this one, unless it calls the previous handler as well.
    Calling the function again has no effect.

    Raises ``RuntimeError`` outside the main thread, where Python cannot install handlers, and if the previous handler
    was not installed from Python; ``ValueError`` for a signal that does not exist or cannot be handled.
    """
    import signal  # takes a tenth of the time of importing tracekit
    import threading

    check_number("timeout_s", timeout_s, 0, 3600)
    for number in signals:
        if not isinstance(number, int):
            raise TypeError(f"signals must be ints such as signal.SIGTERM, not {type(number).__name__}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("flush_on_signal() must be called in the main thread")
    for number in signals or [getattr(signal, name) for name in _DEFAULT if hasattr(signal, name)]:
        _put_before(number, timeout_s)


def _put_before(number: int, timeout_s: float) -> None:
    import signal

    try:
        previous = signal.getsignal(number)
        if previous == signal.SIG_IGN or isinstance(previous, _Flush):
            return
        if previous is not None:
            signal.signal(number, _Flush(number, previous, timeout_s))
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(f"signal {number} cannot be handled: {error}") from None
    if previous is None:
        raise RuntimeError(f"the handler of signal {number} was not installed from Python and would be lost")


class _Flush:
    """Handler of one signal: flush, then call the previous handler or take the default action."""

    # Python runs all handlers in the main thread, nested, so no lock is needed.
    flushing_in: ClassVar = 0  # the process; the child of a fork does not flush
    waiting: ClassVar[list[_Flush]] = []

    def __init__(self, number: int, previous: Any, timeout_s: float) -> None:
        self._number, self._previous, self._timeout_s = number, previous, timeout_s

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _Flush.flushing_in == os.getpid():  # this signal interrupted a flush, which is bounded
            _Flush.waiting.append(self)
            return
        _Flush.flushing_in = os.getpid()
        _Flush.waiting.clear()  # of the parent, in the child of a fork
        try:
            flush(self._timeout_s)
        except Exception as error:
            log("warning", "flushing on signal %d failed: %s", number, type(error).__name__)
        finally:
            _Flush.flushing_in = 0
        due = [self, *_Flush.waiting]
        _Flush.waiting.clear()
        with contextlib.ExitStack() as stack:  # every handler is called, whichever of them raises
            for handler in reversed(due):
                stack.callback(_go_on, handler._number, handler._previous, frame)


def _go_on(number: int, previous: Any, frame: FrameType | None) -> None:
    """Call the *previous* handler of the signal *number*, or take the default action."""
    if callable(previous):
        previous(number, frame)
        return
    import signal

    for wait in list(_dumps):
        wait()
    handler = signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    signal.signal(number, handler)  # the default action did not end the process, as for SIGCONT


def go_on_after_dump(number: int, previous: Any, frame: FrameType | None, wait: Callable[[], object]) -> None:
    """Call the *previous* handler of the signal *number*, or take the default action, except for SIGUSR1 and SIGUSR2.

    These two end a program that has no use for them, and one that has a dump written has one. *wait*, which returns
    when the dump is written, is called before a default action: other handlers of tracekit's may come before that.
    """
    import signal

    _dumps.add(wait)
    stays = number in [getattr(signal, name, None) for name in _STAYS]
    if previous in (None, signal.SIG_IGN) or (previous == signal.SIG_DFL and stays):
        return
    _go_on(number, previous, frame)
