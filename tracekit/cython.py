"""Stand-ins for the names of Cython that compiled files use, so that the same files run uncompiled.

Cython's compiler takes ``from .cython import compiled`` for an import of Cython's module and resolves it at compile
time; Python imports this file. So Cython is no dependency at run time, and ``if not compiled:`` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar, final

    T = TypeVar("T")

__all__ = ["binding", "cast", "cclass", "compiled", "final", "freelist", "no_gc", "no_gc_clear", "nonecheck"]

compiled: Final = False


def binding(on: bool) -> Callable[[T], T]:
    """Make a class's methods functions, or, where it is False, method descriptors, as those of built-in classes are.

    Cython's functions take any object for ``self`` and read the fields of another class from it: a crash. Method
    descriptors raise TypeError. False stands above each compiled class.
    """
    return lambda kind: kind


def cast(kind: type[T], pointer: Any) -> T:
    """Take *pointer*, which is borrowed, for an object of *kind*. No reference is taken."""
    return pointer  # type: ignore[no-any-return]


def cclass(kind: T) -> T:
    """Compile a class to an extension type, with the fields that the ``.pxd`` declares."""
    return kind


if not TYPE_CHECKING:

    def final(kind: T) -> T:
        """Allow no subclass of a class; uncompiled, only type checkers see to that."""
        return kind


def no_gc(kind: T) -> T:
    """Keep objects of a class away from the garbage collector: they are in no reference cycle."""
    return kind


def no_gc_clear(kind: T) -> T:
    """Let the garbage collector see a class's objects, and break their cycles elsewhere: these keep their fields."""
    return kind


def nonecheck(on: bool) -> Callable[[T], T]:
    """Raise AttributeError where a function reads a field of None, which the C types of its arguments allow."""
    return lambda function: function


def freelist(size: int) -> Callable[[T], T]:
    """Keep up to *size* deallocated objects of a class for reuse."""
    return lambda kind: kind
