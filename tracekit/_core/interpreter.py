"""Services of the interpreter that the core uses: the clock, the running Context, weak and borrowed references.

``interpreter.pxd`` has the C form of each function, and ``variable.pxd`` of those of the ContextVar; this is the Python
form, for where nothing is compiled. The core imports one or the other, so that all code above exists once.
"""

from __future__ import annotations

from sys import is_finalizing as is_finalizing
from time import monotonic_ns as monotonic_ns

from .free_threading import HAS_GIL
from .stdlib import Context, ContextVar, ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Token
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

# The W3C trace flags, and above their eight bits: no decision about sampling has been made.
SAMPLED: Final = 0x01
RANDOM: Final = 0x02
DEFERRED: Final = 0x100
SUPPRESSED: Final = 0x200  # not recorded, whatever readers inside the process ask for


# Token.MISSING, an attribute that subinterpreters of CPython 3.12 and 3.13 do not have.
_MISSING: Final = Context().run(ContextVar[None]("tracekit_unset").set, None).old_value


def held(variable: ContextVar[T]) -> T:
    """Return the value of *variable* in the running Context."""
    return variable.get()


def put(variable: ContextVar[T], value: T) -> bool:
    """Set *variable*, and tell whether it was set; in C it is not where ``is_collecting()`` makes that unsafe."""
    variable.set(value)
    return True


def change_in_place(variable: ContextVar[Any]) -> None:
    """Have ``put()`` change *variable* in place, where no other Context shares its value, from now on; only C can."""


def forget(value: object) -> None:
    """Have no cache keep *value*, which is being deallocated; only C has one to look after."""


def exchange(variable: ContextVar[T], value: T) -> T:
    """Set *variable* and return its former value. No signal handler runs between the two steps, in C as well."""
    before: Any = variable.set(value).old_value
    return before if before is not _MISSING else None  # type: ignore[return-value]


def is_collecting() -> bool:
    """Tell whether setting a ContextVar is unsafe: in the thread in which CPython 3.11 collects garbage. Only C can tell."""
    return False


# A Token of this variable tells its Context from every other, copies included: reset() fails elsewhere. It is a
# separate variable because a Token also holds the former value, which here is None.
_here: ContextVar[None] = ContextVar("tracekit_here")


class _Here:
    """Proof of a Context; scopes opened in one Context may share it."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: Token[None] = _here.set(None)


def here() -> Any:
    """Return a reference to the running Context; weak in C."""
    return _Here()


def is_here(owner: Any) -> bool:
    """Tell whether *owner* refers to the running Context; None does not."""
    if owner is None:
        return False
    try:
        _here.reset(owner.token)
    except (ValueError, RuntimeError):
        return False
    owner.token = _here.set(None)  # a Token works once
    return True


def running_body() -> Any:
    """Return a weak reference to the generator whose body called the compiled caller, or None; only C can tell."""
    return None


def is_gone(owner: Any) -> bool:
    """Tell whether the Context that *owner* refers to was deallocated; here it cannot be, as a Token keeps it alive."""
    return False


def _weak(target: Any) -> ref[Any]:
    """Return a weak reference to *target*, which may be one already: another thread has just made it."""
    return target if type(target) is ref else ref(target)


weak = ref if HAS_GIL else _weak


def referent(weak: ref[T]) -> T | None:
    """Return the referent of *weak*, or None if it is gone."""
    return weak()


def borrow(target: T | None) -> ref[T] | None:
    """Return a reference that does not keep *target* alive; in C a bare pointer, which its owner has to clear."""
    return None if target is None else ref(target)


def lent(borrowed: ref[T] | None) -> T | None:
    """Return the borrowed object, or None if it is gone."""
    return None if borrowed is None else borrowed()


def is_lent(borrowed: ref[T] | None, target: T) -> bool:
    """Tell whether *borrowed* is *target*."""
    return borrowed is not None and borrowed() is target


def running_context(ident: int) -> Any:
    """Return the running Context of the thread *ident*, or None; only C can tell."""
    return None


def references(target: object) -> int:
    """Return how many references there are to *target*; here always as if there were others."""
    return 2


def forbid_new(kind: type) -> None:
    """Have ``kind.__new__`` raise, as C code would crash on an object whose fields were never filled."""


def publish(kind: type, name: bytes) -> None:
    """Have *kind* say that it lives in the module that users import it from; *name* is its full name there."""
    kind.__module__ = name.decode().rpartition(".")[0]
