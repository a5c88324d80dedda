"""Replace attributes of other packages, and put back exactly these."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING: Any = object()
_CO_COROUTINE = 0x80  # the flag of a coroutine function's code; inspect, which has it, takes long to import


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
        ours = _as_kind_of(inherited, make(inherited))
        setattr(owner, name, ours)
        self._replaced.append((owner, name, ours, own))
        self.is_active = True

    def restore(self) -> None:
        """Put the former attributes back, where no other package has replaced ours since."""
        self.is_active = False
        while self._replaced:
            owner, name, ours, own = self._replaced.pop()
            if vars(owner).get(name) is not ours:
                continue
            if own is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _as_kind_of(original: Any, ours: Any) -> Any:
    """Return *ours* as a function of Python, and as a coroutine function, if *original* is one.

    ``unittest.mock`` replaces a compiled function by a mock that gets no ``self``, and one that is not marked as a
    coroutine function by a mock that cannot be awaited.
    """
    if type(original) is not FunctionType:
        return ours
    is_coroutine = bool(original.__code__.co_flags & _CO_COROUTINE)
    if type(ours) is FunctionType and bool(ours.__code__.co_flags & _CO_COROUTINE) is is_coroutine:
        return ours
    if is_coroutine:

        @functools.wraps(original)
        async def function(*args: Any, **kwargs: Any) -> Any:
            return await ours(*args, **kwargs)

    else:

        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            return ours(*args, **kwargs)

    return function


def check_whole(library: str, instead: str, target: object) -> None:
    """Raise ``TypeError`` for any *target*: *library* has no objects that could be instrumented one by one."""
    if target is not None:
        raise TypeError(f"{library} is instrumented as a whole, not a {type(target).__name__}: use {instead}")
