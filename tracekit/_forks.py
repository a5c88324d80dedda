"""Calls in the child of a fork, in the workers of uWSGI too.

uWSGI forks without Python's handlers, unless it has the option ``py-call-uwsgi-fork-hooks``. It calls ``post_fork_hook`` of
its module ``uwsgi`` in each worker, also where it has called the handlers, and where it has not forked. The import of
``uwsgidecorators`` replaces that hook.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_calls: list[Callable[[], object]] = []
_pid = os.getpid()


def call_in_child(function: Callable[[], object]) -> None:
    """Call *function* in the child of each fork, after the functions of earlier calls."""
    if not hasattr(os, "register_at_fork"):
        return
    if not _calls:
        os.register_at_fork(after_in_child=_remember)
        _follow_uwsgi()
    os.register_at_fork(after_in_child=function)
    _calls.append(function)


def _remember() -> None:
    global _pid
    _pid = os.getpid()


def _follow_uwsgi() -> None:
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return
    own = dict(vars(uwsgi))  # with hooks of the program, for spoolers and mules too, which the import would replace
    try:
        __import__("uwsgidecorators")
    except Exception:  # not installed, or there is no master process
        pass
    following = {own.get("post_fork_hook"): None, getattr(uwsgi, "post_fork_hook", None): None}
    vars(uwsgi).update(own)

    def in_worker() -> None:
        if _pid != os.getpid():
            _remember()
            for function in _calls:
                function()
        for hook in following:
            if hook is not None:
                hook()

    uwsgi.post_fork_hook = in_worker
