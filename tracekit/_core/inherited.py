"""Values that a thread inherits from its starter, where threads inherit the Context of their start.

Since Python 3.14 with ``-X thread_inherit_context=1``, the default of free-threaded builds, ``Thread.start()`` copies the
running Context for the new thread. A pool's worker or another thread that lives on would then put the work of every later
request under the request that happened to start it.
"""

from __future__ import annotations

import sys
from _thread import _local

from .stdlib import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context
    from typing import Any, Final

INHERITS: Final = bool(getattr(sys.flags, "thread_inherit_context", False))

_thread: Any = _local()
_probe: ContextVar[object] = ContextVar("tracekit_probe")


def is_inherited(variable: ContextVar[Any], value: object) -> bool:
    """Return True, once per thread, if the running Context is the thread's own and has inherited *value* of *variable*.

    To be called before each access to *variable*, because the first call in a thread reads the inherited value. In
    copies of the thread's Context, those of tasks and of jobs that were handed over, the answer is False.
    """
    try:
        base, inherited = _thread.inherited
    except AttributeError:
        base, inherited = _thread.inherited = _inherited(variable)
    if inherited is None or inherited is not value or not _is_running(base):
        return False
    _thread.inherited = None, None
    return True


def inherited_value() -> object:
    """Return the inherited value that ``is_inherited()`` has not reported yet, or None; call that function first."""
    return _thread.inherited[1]


def _inherited(variable: ContextVar[Any]) -> tuple[Context | None, Any]:
    """Return the Context that this thread was started with, and the value of *variable* there; None for the main thread."""
    threading = sys.modules.get("threading")  # it has started the thread, if one has inherited anything
    if threading is None:
        return None, None
    thread = threading.current_thread()
    base = getattr(thread, "_context", None)
    if base is None or thread is threading.main_thread():
        return None, None
    return base, base.get(variable)


def _is_running(context: Context) -> bool:
    """Tell whether *context* is the running Context."""
    token = _probe.set(object())
    try:
        return context.get(_probe) is _probe.get()
    finally:
        _probe.reset(token)
