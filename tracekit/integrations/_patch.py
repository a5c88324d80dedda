"""Replace attributes of other packages, and put back exactly these."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_MISSING: Any = object()


class Patches:
    """The attributes that one integration has replaced.

    Replacements look at ``is_active`` and trace nothing when it is False: another package may have wrapped them, so that
    ``restore()`` cannot take them out.
    """

    def __init__(self) -> None:
        self.is_active = False
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set the attribute *name* of *owner*, a class or module, to ``make(the one before)``.

        Does nothing if *owner* has no such attribute, as in another version of the package. In a class, ``make`` gets
        the function of the class or of its bases, not a bound method.
        """
        inherited = getattr(owner, name, _MISSING)
        own = vars(owner).get(name, _MISSING)
        if inherited is _MISSING:
            return
        ours = make(inherited)
        setattr(owner, name, ours)
        self._replaced.append((owner, name, ours, own))
        self.is_active = True

    def restore(self) -> None:
        """Put the former attributes back, where no other package has replaced ours since."""
        self.is_active = False
        while True:
            try:
                owner, name, ours, own = self._replaced.pop()
            except IndexError:  # no more, or another thread has the last one
                return
            if vars(owner).get(name) is not ours:
                continue
            if own is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def coroutine_function(function: Callable[P, R]) -> Callable[P, R]:
    """Mark *function*, of Python, which returns a coroutine: a mock that ``unittest.mock`` puts in its place is awaitable."""
    if sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction  # asyncio has it loaded

        return markcoroutinefunction(function)
    from asyncio import coroutines

    function._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


def check_whole(library: str, instead: str, target: object) -> None:
    """Raise ``TypeError`` for any *target*: *library* has no objects that could be instrumented one by one."""
    if target is not None:
        raise TypeError(f"{library} is instrumented as a whole, not a {type(target).__name__}: use {instead}")
