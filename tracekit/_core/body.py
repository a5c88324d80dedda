"""The scopes of a generator's body, which are current in its steps alone."""

from __future__ import annotations

from ..cython import binding, cclass, compiled, final, freelist
from .scopes import Scope, held_scope, swap_scope

if not compiled:
    from .interpreter import here, is_here
    from .scopes import innermost, last_replaced, live, may_swap, newest, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def open_body(start: Callable[[], Any], under: Scope | None) -> tuple[Any, Body]:
    """Start a span in *under*, or where this runs; return it and the scopes of a body in which alone it is current.

    In C, as the methods of ``Body``: a signal handler that raises does so before or after.
    """
    held_before = held_scope()
    try:
        if under is not None:
            swap_scope(under)
        under = innermost()
        opened = start()
        opened.__enter__()
        return opened, Body(held_scope(), under)
    finally:
        swap_scope(held_before)


@final
@freelist(16)
@binding(False)
@cclass
class Body:
    """The scopes of a generator's body, from *inside* down to *under*, put in place for each step.

    They go along to whichever task or thread makes the step; scopes that the body leaves open stay among them.
    """

    __slots__ = ("_held", "_inside", "_owner", "_replaced", "_under")

    def __init__(self, inside: Scope | None, under: Scope | None) -> None:
        self._inside = inside
        self._under = under
        self._held: Scope | None = None
        self._owner: Any = None  # refers to the Context of the step that is being made
        self._replaced = last_replaced()

    def enter(self) -> None:
        """Put the scopes in place, for the step that follows, unless the garbage collector makes it where that is unsafe."""
        if not may_swap():
            return
        held_before = swap_scope(self._inside)
        self._held = held_before
        self._replaced = last_replaced()
        # After the swap: it makes the Context of a thread that had none.
        self._owner = here()
        scope = self._inside
        under = None if self._under is None else newest(self._under)
        while scope is not None:
            copy = newest(scope)  # which stands in the chain of another body, where that has replaced the scope
            if copy is under:
                break
            if copy._owner is not None and not is_here(copy._owner):
                copy._owner = self._owner
            scope = scope._prev

    def close(self, opened: Any, error: BaseException | None) -> None:
        """Leave *opened*, the span of the body, which ends with *error* if there is one."""
        self.enter()
        try:
            opened.__exit__(None if error is None else type(error), error, None)
        finally:
            self.leave()

    def leave(self) -> None:
        """Take the scopes out again after the step, as it left them."""
        owner, self._owner = self._owner, None
        inner, self._held = self._held, None
        if not is_here(owner):
            return  # not entered, or the step waited in a task whose coroutine another Context closes
        if self._replaced is not last_replaced():
            inner = _restored(inner)
        self._inside = swap_scope(inner)
        if not _stands_on(self._inside, self._under):
            self._under = _floor(self._inside, self._under)


def _restored(inner: Scope | None) -> Scope | None:
    """Return *inner*, which a consumer holds, or a copy of it, where a step has replaced a scope that it stands on.

    The body can close scopes under it, and its consumer may have opened more on those.
    """
    above: list[Scope] = []
    scope = inner
    while scope is not None:
        copy = newest(scope)
        if copy is not scope:
            return replace(above, live(copy)) if is_here(copy._owner) else inner
        if not is_here(scope._owner):
            break
        if not scope._is_closed:
            above.append(scope)
        scope = scope._prev
    return inner


def _stands_on(scope: Scope | None, under: Scope | None) -> bool:
    while scope is not None and scope is not under:
        scope = scope._prev
    return scope is under


def _floor(inside: Scope | None, under: Scope | None) -> Scope | None:
    """Return the scope that a body stands on since *under*, or a scope under that, was closed; None: on nothing.

    It and all below it are others', in whose Contexts they must stay.
    """
    while under is not None and not _stands_on(inside, under):
        under = under._prev if under._stand_in is None else under._stand_in
    return under
