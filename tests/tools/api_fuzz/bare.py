"""Call all of the compiled modules with None and objects made by ``__new__`` alone: ``python -m tests.tools.api_fuzz.bare``.

C types of arguments and fields allow None, and a field of None is read without a check by default. Each function and each
class has a forked child, which may raise anything but must not crash. Prints the last call of each child that did.
Methods and descriptors of a class that are called with an object of another class must raise TypeError.
"""

from __future__ import annotations

import copy
import inspect
import mmap
import os
import pickle
import resource
import signal
import sys
import warnings
from types import ClassMethodDescriptorType
from typing import TYPE_CHECKING, Any

from .calls import CLASSES, FUNCTIONS
from .run import is_ours

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ARGUMENTS = 6
_LIMIT_S = 20
_HEAP = 1 << 9  # the flag of the classes that Python makes; methods of these take any object
# Calls that tell nothing of the class, or that change it.
_LEFT_OUT = {"__class__", "__del__", "__dir__", "__init_subclass__", "__subclasshook__"}
_LOOKS = (repr, str, hash, bool, copy.copy, copy.deepcopy, pickle.dumps, len, iter, list, dict)


def name_of(thing: Any) -> str:
    """Return the full name of a function or class."""
    return f"{thing.__module__}.{thing.__qualname__}"


def bare_objects() -> list[Any]:
    """Return an object without fields of each compiled class that can be made without arguments."""
    made = []
    for kind in CLASSES:
        try:
            made.append(kind.__new__(kind))
        except Exception:  # the class does not allow it, which is as good
            continue
    return made


def attempt(log: Callable[[str], None], what: str, function: Any, *arguments: Any) -> Any:
    """Call *function*, and go through the result if it is a coroutine, a generator or an iterator."""
    log(f"{what}({', '.join([type(argument).__name__ for argument in arguments])})")
    try:
        result = function(*arguments)
        if inspect.iscoroutine(result) or inspect.isgenerator(result):
            try:
                for _ in range(3):
                    result.send(None)
            finally:
                result.close()
        elif not is_ours(type(result)) and hasattr(type(result), "__next__"):
            next(result)
    except Exception:
        return None
    return result


def call_often(log: Callable[[str], None], what: str, function: Any, bare: list[Any]) -> None:
    """Call *function* with many combinations of arguments that have no fields."""
    for count in range(_MAX_ARGUMENTS + 1):
        for one in (None, 1, "a", [None], {}, (None,)):
            attempt(log, what, function, *[one] * count)
    for one in bare:
        for arguments in (
            (one,), (one, one), (None, one), (one, None), ([one],), (None, one, None), (one, None, None), (None, None, one),
            ("a", one), ({}, one), (one, "a"), (one, {}),
        ):  # fmt: skip
            attempt(log, what, function, *arguments)


def call_unbound(log: Callable[[str], None], kind: type, bare: list[Any]) -> None:
    """Call every method and descriptor of *kind*, private ones too, with objects of other classes for ``self``."""
    wrong = [object(), 3, None, *[one for one in bare if not isinstance(one, kind)]]
    free = staticmethod | classmethod | property | ClassMethodDescriptorType  # take any object: they are Python's
    for name, member in vars(kind).items():
        if not hasattr(member, "__get__") or isinstance(member, free):
            continue
        method = getattr(kind, name)
        for one in wrong:
            for given in () if inspect.isdatadescriptor(member) else ([], [None], [None] * 3):
                require_type_error(log, f"{name_of(kind)}.{name}", method, one, *given)
            if one is not None:  # which is no object, for __get__()
                require_type_error(log, f"{name_of(kind)}.{name}.__get__", member.__get__, one)
            if hasattr(member, "__set__"):
                require_type_error(log, f"{name_of(kind)}.{name}.__set__", member.__set__, one, None)


def require_type_error(log: Callable[[str], None], what: str, function: Any, *arguments: Any) -> None:
    """Call *function*, and raise AssertionError unless it raises TypeError."""
    log(f"{what}({', '.join([type(argument).__name__ for argument in arguments])})")
    try:
        function(*arguments)
    except TypeError:
        return
    raise AssertionError(what)


def try_all(log: Callable[[str], None], thing: Any) -> None:
    """Call the function *thing*, or everything of a bare object of the class *thing*."""
    bare = bare_objects()
    if not isinstance(thing, type):
        return call_often(log, name_of(thing), thing, bare)
    if not thing.__flags__ & _HEAP:
        call_unbound(log, thing, bare)
    call_often(log, name_of(thing), thing, bare)
    mine = attempt(log, f"{name_of(thing)}.__new__", thing.__new__, thing)
    if mine is None:
        return None
    for look in (*_LOOKS, lambda one: isinstance(one, int)):
        attempt(log, f"{getattr(look, '__name__', look)}: {name_of(thing)}", look, mine)
    for name in dir(thing):
        if name in _LEFT_OUT or (name.startswith("_") and not name.endswith("__")):
            continue
        found = attempt(log, f"{name_of(thing)}.{name} of a bare one", getattr, mine, name)
        if callable(found):
            call_often(log, f"{name_of(thing)}.{name}", found, bare)
    return None


def crash_of(thing: Any) -> str | None:
    """Try all with *thing* in a child, and return its last call if it crashed, hung, or took a wrong ``self``."""
    last = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the child
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(_LIMIT_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

        def log(line: str) -> None:
            octets = f"{line[:1000]}\n".encode()
            last[: len(octets)] = octets

        try:
            warnings.simplefilter("ignore")  # coroutines that are never awaited
            try_all(log, thing)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if not status:
        return None
    how = f"signal {status & 127}" if status & 127 else "no TypeError"
    return f"{how}: {last.readline().decode(errors='replace').strip()}"


def main() -> int:
    """Try every compiled function and class of ours; return 1 if one crashed."""
    things = [thing for thing in (*FUNCTIONS, *CLASSES) if thing.__module__.startswith("tracekit")]
    crashes = [crash for crash in map(crash_of, things) if crash is not None]
    print("\n".join([*crashes, f"{len(things)} functions and classes, {len(crashes)} crashes"]))
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
