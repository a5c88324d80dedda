"""Calls at the end of the process, also of the children of multiprocessing and celery, which end without ``atexit``."""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ._forks import call_in_child

if TYPE_CHECKING:
    from collections.abc import Callable

# Of owners, by whether it is one of the last calls.
_calls: WeakValueDictionary[tuple[bool, int, Callable[[Any], object]], Any] = WeakValueDictionary()
_is_followed = False  # by multiprocessing, also in the children of this process
_finalizer: Any = None  # of multiprocessing
_OUTERMOST = (("__main__", "<module>"), ("runpy", "_run_module_as_main"))


def call_at_exit(function: Callable[[], object]) -> None:
    """Call *function* at the end of the interpreter, which stays interrupted if it is."""
    atexit.register(_at_exit, function)


def call_at_end_of_child(owner: Any, function: Callable[[Any], object], *, is_last: bool = False) -> None:
    """Call *function* with *owner*, unless that is freed, at the end of a child that ends by ``os._exit()``.

    With *is_last*, after the others, which may log.
    """
    _calls[is_last, id(owner), function] = owner
    _follow()


def _follow(_: object = None) -> None:
    """Have multiprocessing and celery, where they are imported, call all at the end of their children.

    A forkserver's child imports the program's main module before multiprocessing knows it for a child, and drops the
    finalizers that were registered by then: so it is done again.
    """
    global _is_followed, _finalizer
    process: Any = sys.modules.get("multiprocessing.process")
    util: Any = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None:
        if not _is_followed:
            _is_followed = True
            util.register_after_fork(_calls, _follow)
        if process.parent_process() is not None and (_finalizer is None or not _finalizer.still_active()):
            _finalizer = util.Finalize(None, _call_all, exitpriority=0)
    ending: Any = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if ending is not None:
        ending.connect(_call_all, weak=False, dispatch_uid="tracekit")


call_in_child(_follow)


def _call_all(**_: object) -> None:
    for (_is_last, _id, function), owner in sorted(_calls.items(), key=lambda call: call[0][0]):
        function(owner)


def _at_exit(function: Callable[[], object]) -> None:
    function()
    if _is_interrupted():
        try:
            exec("raise KeyboardInterrupt")
        except KeyboardInterrupt:
            pass


def _is_interrupted() -> bool:
    """Return whether a ``KeyboardInterrupt`` has ended the program, which CPython then ends by SIGINT.

    CPython forgets that where text is executed meanwhile, as in the imports of many modules, and remembers it where that
    text is left by a ``KeyboardInterrupt``.
    """
    # The outermost one: of the program, or of runpy for python -m; of neither where C called Python and printed the error.
    frame = getattr(getattr(sys, "last_traceback", None), "tb_frame", None)
    if frame is None or sys.last_type is not KeyboardInterrupt or hasattr(sys, "ps1"):
        return False
    if frame.f_back is not None:  # a console in the program, such as code.InteractiveConsole, executed the text
        return False
    return (frame.f_globals.get("__name__"), frame.f_code.co_name) in _OUTERMOST
