"""Signals that end a program: export what has ended before they do.

A signal with its default action ends a process at once: no ``finally``, no ``atexit``, and the last second of spans is
lost. ``flush_on_signal()`` puts a handler before the one that is there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ._configure import flush
from ._export.notices import log

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["flush_on_signal"]

_DEFAULT: Final = ("SIGTERM", "SIGHUP", "SIGBREAK")  # as far as the system has them


def flush_on_signal(*signals: int, timeout_s: float = 5.0) -> None:
    """Export what has ended when one of *signals* arrives (default: SIGTERM and SIGHUP), then do as before.

    "As before" is the handler that was in place or, without one, the signal's default action: the exit status says
    that it was the signal. The export may take *timeout_s* of that. A signal that is ignored stays so. Call it before the
    program, or its server, installs handlers that replace others; calling it again changes nothing.

    Raises ``RuntimeError`` outside the main thread, where Python installs no handlers, and where the handler in place
    was not installed from Python; ``ValueError`` for a signal that the system has not or does not let anybody handle.
    """
    import signal  # costs a tenth of what tracekit does, and few programs need it
    import threading

    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout_s must be a number, not {type(timeout_s).__name__}")
    if not 0 <= timeout_s <= 3600:
        raise ValueError(f"timeout_s must be 0 to 3600: {timeout_s}")
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
        raise RuntimeError(f"the handler of signal {number} was not installed from Python: it cannot be kept")


class _Flush:
    """The handler of one signal: flush, then do as the handler that it was put before."""

    # Python runs handlers in the main thread, one inside the other: only that one touches these.
    is_flushing: ClassVar = False
    waiting: ClassVar[list[_Flush]] = []

    def __init__(self, number: int, previous: Any, timeout_s: float) -> None:
        self._number, self._previous, self._timeout_s = number, previous, timeout_s

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _Flush.is_flushing:  # in the frame that this signal interrupted, and not for long
            _Flush.waiting.append(self)
            return
        _Flush.is_flushing = True
        try:
            flush(self._timeout_s)
        except Exception as error:
            log("warning", "flushing on signal %d failed: %s", number, type(error).__name__)
        finally:
            _Flush.is_flushing = False
        due = [self, *_Flush.waiting]
        _Flush.waiting.clear()
        with contextlib.ExitStack() as stack:  # each has its turn, whatever the others raise
            for handler in reversed(due):
                stack.callback(handler._go_on, frame)

    def _go_on(self, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(self._number, frame)
            return
        import signal

        handler = signal.signal(self._number, signal.SIG_DFL)
        signal.raise_signal(self._number)
        signal.signal(self._number, handler)  # it was not the end, as for SIGCONT
