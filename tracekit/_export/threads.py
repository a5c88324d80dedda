"""The start, the Context, the queue and an event of the threads that export.

gevent replaces threads by greenlets, and queues by some that let other greenlets run. If it does so after this module was
imported, a greenlet that waits in this module's queue would stop all the others: so the threads stay those of the
operating system, and all modules take the queue from here, where it is of the same kind.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from _thread import start_new_thread
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from .._core.context import SpanContext
from .._core.scopes import context_scope
from .._forks import call_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["EXPORT_CONTEXT", "Done", "Empty", "SimpleQueue", "in_caller", "is_interrupted", "keep", "start_thread"]

# Exporters run in copies of this Context, without the program's. Spans that they make are not sampled: otherwise each
# batch would make spans to be exported.
EXPORT_CONTEXT: Final = contextvars.Context()
EXPORT_CONTEXT.run(lambda: context_scope(SpanContext(deferred=False)).__enter__())


class Done:
    """An event that one thread waits for.

    A ``threading.Event`` holds a lock while ``wait()`` begins and ends. If a signal handler interrupts the waiting thread
    there and calls ``flush()``, the handler waits for the exporting thread, and that thread for the lock.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._wakes.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Return whether it is set within *timeout_s*."""
        if not self._is_set:
            with contextlib.suppress(Empty):
                self._wakes.get(timeout=timeout_s)
        return self._is_set


# Threads of callers that do the work of an exporting thread, each with the error that a signal handler has raised there.
_callers: dict[int, BaseException | None] = {}


@contextlib.contextmanager
def in_caller() -> Iterator[None]:
    """Do the work of an exporting thread in its caller, and raise the error of a signal handler that has run meanwhile.

    It is ``KeyboardInterrupt``, or ``SystemExit``, as of many a handler of SIGTERM. Other errors do not reach the caller.
    """
    ident = threading.get_ident()
    if ident in _callers:  # an exporter in front of another one, which waits for its thread, too
        yield
        return
    error = _callers[ident] = None
    try:
        yield
    finally:
        error = _callers.pop(ident)
    if error is not None:
        raise error


def keep(error: BaseException) -> None:
    """Keep *error*, of an exporter's method or a signal handler that interrupted it, for the caller that works here."""
    ident = threading.get_ident()
    if ident in _callers and isinstance(error, KeyboardInterrupt | SystemExit):
        _callers[ident] = error


def is_interrupted() -> bool:
    """Return whether a caller works here, and must get an error as soon as the counts are right."""
    return _callers.get(threading.get_ident()) is not None


def _after_fork() -> None:
    """Forget the callers of the parent, except for the one that has forked: a new thread may have the ident of another."""
    global _callers
    ident = threading.get_ident()
    _callers = {ident: _callers[ident]} if ident in _callers else {}


call_in_child(_after_fork)


def _starter() -> Any:
    return getattr(threading, "_start_joinable_thread", None) or getattr(threading, "_start_new_thread", None)


_STARTER: Final = _starter()


class _Thread(threading.Thread):
    def _delete(self) -> None:
        with contextlib.suppress(KeyError):  # gevent has replaced get_ident() since the thread started
            super()._delete()  # type: ignore[misc]


def start_thread(run: Callable[[], object], name: str) -> None:
    """Start a daemon thread, or raise: ``RuntimeError``, ``MemoryError``, or an error of an audit hook.

    Its Context is a copy of the exporter's: since Python 3.14 a thread may inherit its starter's, and with it a span.
    """
    if _starter() is _STARTER:
        EXPORT_CONTEXT.copy().run(_Thread(target=run, name=name, daemon=True).start)
    else:
        start_new_thread(EXPORT_CONTEXT.copy().run, (run,))
