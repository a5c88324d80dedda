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
    """Make the methods of a class functions, or, with False, method descriptors, as those of built-in classes are.

    Each compiled class has False: Cython's functions take any object for ``self`` and crash when they read their
    class's fields from it. Method descriptors raise TypeError.
    """
    return lambda kind: kind


def cast(kind: type[T], pointer: Any) -> T:
    """Treat the borrowed *pointer* as an object of *kind*, without taking a reference."""
    return pointer  # type: ignore[no-any-return]


def cclass(kind: T) -> T:
    """Compile a class to an extension type, with the fields that the ``.pxd`` declares."""
    return kind


if not TYPE_CHECKING:

    def final(kind: T) -> T:
        """Forbid subclasses of a class; uncompiled, only type checkers enforce it."""
        return kind


def no_gc(kind: T) -> T:
    """Exempt objects of a class from the garbage collector: they are in no reference cycle."""
    return kind


def no_gc_clear(kind: T) -> T:
    """Track the objects of a class, but let the garbage collector break their cycles at other objects only."""
    return kind


def nonecheck(on: bool) -> Callable[[T], T]:
    """Raise AttributeError if a function reads a field of None: arguments with a C type may be None."""
    return lambda function: function


def freelist(size: int) -> Callable[[T], T]:
    """Keep up to *size* deallocated objects of a class for reuse."""
    return lambda kind: kind
