"""Interpreters that run without the GIL: one lock makes the steps indivisible that the GIL protects elsewhere.

``free_threading.pxd`` has the C form, which makes every function of the core indivisible; this one is the plain
implementation's.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

# Where another extension module turns the GIL on later, the lock costs a little and does no harm.
HAS_GIL: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

_lock = RLock()  # reentrant: a signal handler or a finalizer may interrupt its holder


def _renew() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)

# Whether C keeps threads apart, by the functions that follow, which are in ``free_threading.pxd`` alone.
WITHOUT_GIL: Final = False


def _in_c(*_: Any) -> Any:
    raise NotImplementedError


alone = own = is_own = share = may_inherit = note_inherited = is_seen_again = _in_c
start_one = keep = end_one = waiting = allow = drained = count_of = reset_records = unlock_all = _in_c


def indivisible(function: Callable[P, R]) -> Callable[P, R]:
    """Return *function*, which calls none of the program's code, such that one thread at a time runs it."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            return function(*args, **kwargs)

    return call


def unlocked(function: Callable[P, R]) -> Callable[P, R]:
    """Return *function*, during which other threads get the lock, although its caller may have interrupted the holder.

    Otherwise a signal handler or a finalizer that waits for another thread would wait for ever. The interrupted call
    must tolerate calls from its handler, so it tolerates those from another thread.
    """
    import functools

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        lock: Any = _lock
        if not lock._is_owned():
            return function(*args, **kwargs)
        state = lock._release_save()
        try:
            return function(*args, **kwargs)
        finally:
            lock._acquire_restore(state)

    return call


def claim(thing: Any, flag: str) -> bool:
    """Set the attribute *flag* of *thing*; return False if another thread has set it before."""
    # As deep as an indivisible function: at the recursion limit, one that is called next does not raise either.
    return _claim(thing, flag)


def _claim(thing: Any, flag: str) -> bool:
    with _lock:
        if getattr(thing, flag):
            return False
        setattr(thing, flag, True)
        return True


def is_guarded() -> bool:
    """Tell whether the calling function runs in the section, if it has to; only in C."""
    return True


def retire(replaced: object) -> None:
    """Keep *replaced*, a setting, for good, where a thread may be about to take a reference to it; only in C."""


def stable(items: T) -> T:
    """Return a dict that no other thread changes, with the items of *items*, if C is to read a dict of the program's."""
    return items
